"""The command line as users have it in their scripts: what is here stays, or CHANGELOG says what took its place."""

import typer.main

from esft_bench.harness.cli import app

SUITE = (
    "suite --only --seeds --quick --tune --set --backbone --steps --limit --engine --data-dir --data --columns "
    "--metric --test --include-path --run-dir"
)
COMMANDS = {
    "run": f"{SUITE} --workers --micro-batch --processes --on --keep-checkpoints --track --unsafe-code",
    "look": "data --backbone --columns --metric --test --set",
    "submit": "run --slurm --nodes --gpus --cores --time --sbatch --out",
    "status": "run",
    "export": "run --to --best --method --task --seed --form --push --public",
    "plan": f"{SUITE} --micro-batch --gpu --gpus --price --detect --hourly",
    "where": "method task --seed --rate --run",
    "doctor": "suite --run-dir",
    "report": "runs --against --export",
    "convert": "source out",
    "verify-paper": "--official",
    "judge calibrate": "--official --suite --reference --model --base-url --key-env --budget --batch --limit --out",
    "suites": "",
    "tasks": "",
    "methods": "",
}


def described(group, prefix=""):
    """Each command with its arguments and options, in order."""
    found: dict[str, str] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= described(command, f"{prefix}{name} ")
            continue
        parameters = [parameter for parameter in command.params if parameter.name != "help"]
        found[prefix + name] = " ".join(each.opts[0] for each in parameters)
    return found


def test_commands_and_their_options_are_the_ones_that_scripts_use():
    assert described(typer.main.get_command(app)) == COMMANDS
