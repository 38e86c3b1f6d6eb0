"""The command line: commands, no logic."""

import errno
import gc
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.text import Text

from esft_bench.harness.commands.options import (
    CalibrateOptions,
    ExportOptions,
    LookOptions,
    PriceOptions,
    RunOptions,
    SuiteOptions,
    check_arguments,
    grouped,
)
from esft_bench.harness.commands.submit import SubmitOptions
from esft_bench.harness.plan.price.hardware import accelerator
from esft_bench.harness.terminal import Terminal, complain
from esft_bench.spec.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Compare ways of fine-tuning a mixture-of-experts model: what each gains, costs and forgets.",
)
judge_app = typer.Typer(no_args_is_help=True, help="The judge of free-text answers.")
app.add_typer(judge_app, name="judge")
console = Terminal()

RunDir = Annotated[Path, typer.Option(help="Where runs and their artifacts are kept.")]


@app.command()
@grouped
def run(suite: SuiteOptions, options: RunOptions) -> None:
    """Run a suite: train, serve, test and judge every cell that is not finished, then write the report."""
    from esft_bench.harness.commands.prepare import prepare
    from esft_bench.harness.commands.run import execute

    signal.signal(signal.SIGTERM, _stop)
    prepared = prepare(suite)
    try:
        failed = execute(prepared, options, console, shlex.join(["esft-bench", *sys.argv[1:]]))
    except KeyboardInterrupt:
        complain("Stopped. The same command goes on where it was.")
        raise typer.Exit(130) from None
    if failed:
        raise typer.Exit(1)


def _stop(*_: object) -> NoReturn:
    """SIGTERM is a stop like Ctrl-C."""
    raise KeyboardInterrupt


@app.command()
@grouped
def plan(suite: SuiteOptions, options: PriceOptions) -> None:
    """Show the matrix, what of it is already there, and what the rest will cost; computes nothing."""
    from esft_bench.harness.commands.plan import tables
    from esft_bench.harness.commands.prepare import prepare

    accelerator(options.gpu)  # refused before anything is read
    prepared = prepare(suite, weights=False)
    for number, table in enumerate(tables(prepared, options)):
        console.print(*[""] * bool(number), table, sep="\n")
    for note in prepared.notes:
        console.print(f"Note: {note}")


@app.command()
@grouped
def submit(options: SubmitOptions) -> None:
    """Write the file by which a batch system carries a run out on many nodes; sends nothing."""
    from esft_bench.harness.commands.submit import submit as written

    folder = Path(sys.executable).parent
    console.say(str(written(options, folder / "ray", folder / "esft-bench")))


@app.command()
def status(run: Annotated[Path, typer.Argument(help="A run's folder.")] = Path("runs/mini")) -> None:
    """Say how far a run is, from another shell."""
    from esft_bench.harness.commands.status import status as told

    for line in told(run):
        console.say(line)


@app.command()
@grouped
def look(options: LookOptions) -> None:
    """Show rows as the model will see them, token by token, and what is doubtful about them; trains nothing."""
    from esft_bench.harness.commands.look import look as show

    show(options, console)


@app.command()
def where(
    method: Annotated[str, typer.Argument(help="A row of the suite, e.g. esft-gate.")],
    task: Annotated[str, typer.Argument(help="The task it was trained on, e.g. mini-law.")],
    seed: Annotated[int | None, typer.Option(help="The training seed; without it all of them.")] = None,
    rate: Annotated[float, typer.Option(help="The point of its curve: what its learning rate is multiplied by.")] = 1.0,
    run: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/mini"),
) -> None:
    """Print the way back from a table's number: to completions, adapter, selection, profile and data, as paths."""
    from esft_bench.harness.commands.where import where as places

    for place in places(run, method, task, seed, rate):
        console.say(f"{'  ' * place.depth}{place.what}  {place.path}")


@app.command()
@grouped
def export(options: ExportOptions) -> None:
    """Write a trained model's weights and model card into a folder, to serve or to publish."""
    from esft_bench.harness.commands.export.folder import export as exported

    for line in exported(options):
        console.say(line)


@app.command()
def doctor(
    suite: Annotated[str, typer.Argument(help="A suite that ships (see `suites`), or a YAML file.")] = "mini",
    run_dir: RunDir = Path("runs"),
) -> None:
    """Say what this machine has and what is missing."""
    from esft_bench.harness.doctor import as_table, diagnose
    from esft_bench.spec.suite_file import load

    findings = list(diagnose(load(suite), run_dir))
    console.print(as_table(findings))
    if any(finding.good is False for finding in findings):
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, e.g. runs/mini.")],
    against: Annotated[Path | None, typer.Option(help="A run to compare each of them with: comparison.html.")] = None,
    export: Annotated[str | None, typer.Option(help="Another format to write besides: every-eval-ever.")] = None,
) -> None:
    """Write the reports of runs again, from their stored results alone; exit code 1 where no run has any left."""
    from esft_bench.harness.commands.report import compare, export_as, rewrite

    sound = 0
    for folder in runs:
        content = rewrite(folder)
        written = [folder / "report.html"]
        for sentence in content.left_out:
            complain(f"{folder}: {sentence}")
        if content.backbones:
            sound += 1
            written += compare(content, against) if against else []
            written += [export_as(content, export)] if export else []
        for path in written:
            console.say(str(path))
    if not sound:
        raise typer.Exit(1)


@app.command("verify-paper")
def verify_paper(
    official: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A checkout of deepseek-ai/ESFT, or its results.")
    ] = None,
) -> None:
    """Check both papers' averages, and rebuild what the ESFT paper's authors released; exit code 1 if any differ."""
    from esft_bench.harness.official.averages import check_averages
    from esft_bench.harness.official.verify import as_tables, verify

    rows = [*check_averages(), *(verify(official) if official else [])]
    console.print(as_tables(rows))
    if any(row.verdict == "differs" for row in rows):
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint of model_type deepseek, such as DeepSeek-MoE-16B.")],
    out: Annotated[Path, typer.Argument(help="The folder to write, which must not be there.")],
) -> None:
    """Write a checkpoint that no release of transformers loads by itself as one that it does, the same network."""
    from esft_bench.harness.backbone.convert import convert as converted

    converted(source, out)
    console.print(str(out), highlight=False, soft_wrap=True, markup=False)


@judge_app.command()
@grouped
def calibrate(options: CalibrateOptions) -> None:
    """Have the released completions judged, and compare with the scores that the paper's judge gave them."""
    from esft_bench.harness.judge.calibrations import default_file
    from esft_bench.harness.official import calibrate as calibrating
    from esft_bench.tasks.registry import load_tasks

    changes = options.changes
    judge = calibrating.choose_judge(options.official, options.suite, options.reference, changes)
    entries = calibrating.calibrate(options.official, judge, load_tasks(), options.limit)
    console.print(calibrating.as_table(entries), *judge.notes, sep="\n")
    out = options.out or default_file()
    calibrating.keep(out, entries)
    console.say(f"Kept in {out}")
    if any(entry.scored < entry.answers for entry in entries):
        raise typer.Exit(1)


@app.command()
def suites() -> None:
    """List the suites that ship."""
    from esft_bench.spec.suite_file import available, load

    for name in available():
        _listed(name, load(name).description)


@app.command()
def tasks() -> None:
    """List the tasks that are installed."""
    from esft_bench.tasks.registry import load_tasks

    for name, task in sorted(load_tasks().items()):
        _listed(name, f"{task.title} ({task.role})")


@app.command()
def methods() -> None:
    """List the methods that are installed, with their hyperparameters."""
    from esft_bench.methods.registry import load_methods

    for name, method in sorted(load_methods().items()):
        _listed(name, ", ".join(method.model_fields) or "–")


def _listed(name: str, about: str) -> None:
    """Print a name and what is to be said of it."""
    console.print(Text(name, "bold"), about, sep="  ")


REFUSED = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EROFS}
"""What the system may say of a path that a user gave."""


def main() -> None:
    """Run the command line; what a user can mend is one sentence and exit code 2."""
    gc.set_threshold(100_000, 20, 50)  # seconds of imports are no garbage, and looking through them takes a tenth
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["PYTHONSAFEPATH"] = "1"  # the working folder may hold a tasks.py or a datasets.py: none of ours
    try:
        check_arguments(sys.argv[1:])
        app()
    except UserError as error:
        complain(f"esft-bench: {error}")
        sys.exit(2)
    except OSError as error:
        if error.errno not in REFUSED or error.filename is None:
            raise
        complain(f"esft-bench: {str(error.filename)[:200]}: {error.strerror}: give another path.")
        sys.exit(2)


if __name__ == "__main__":
    main()
