"""The command line: commands, no logic."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from esft_bench.harness.price.hardware import DEFAULT, accelerator
from esft_bench.spec.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Compare ways of fine-tuning a mixture-of-experts model: what each gains, costs and forgets.",
)
judge_app = typer.Typer(no_args_is_help=True, help="The judge of free-text answers.")
app.add_typer(judge_app, name="judge")
console = Console()

SuiteName = Annotated[str, typer.Argument(help="A suite that ships (see `suites`), or a YAML file.")]
Only = Annotated[str, typer.Option(help="Compute only these: method=NAME,task=NAME, several with commas.")]
Seeds = Annotated[str, typer.Option(help="Training seeds in place of the suite's, e.g. 0,1,2.")]
Quick = Annotated[bool, typer.Option("--quick", help="A slice of two tasks and three methods.")]
DataDir = Annotated[Path | None, typer.Option(help="A folder of JSONL files in place of the hub.")]
RunDir = Annotated[Path, typer.Option(help="Where runs and their artifacts are kept.")]
EngineName = Annotated[str | None, typer.Option(help="vllm or transformers, in place of the suite's.")]
UnsafeCode = Annotated[bool, typer.Option("--unsafe-code", help="Run generated code even where no sandbox works.")]
MicroBatch = Annotated[int | None, typer.Option(min=1, help="Sequences in memory at once in training.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first items of each benchmark.")]
BackboneName = Annotated[
    str | None, typer.Option("--backbone", help="Another backbone: mini, a folder, or NAME@REVISION on the hub.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Training steps in place of the suite's.")]


@app.command()
def run(
    suite: SuiteName = "mini",
    only: Only = "",
    seeds: Seeds = "",
    quick: Quick = False,
    data_dir: DataDir = None,
    run_dir: RunDir = Path("runs"),
    engine: EngineName = None,
    limit: Limit = None,
    backbone: BackboneName = None,
    steps: Steps = None,
    port: Annotated[int | None, typer.Option(help="Port for the vLLM server; a free one without it.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Cells trained side by side.")] = None,
    micro_batch: MicroBatch = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that train a cell together, one a GPU.")] = 1,
    keep_checkpoints: Annotated[bool, typer.Option(help="Keep merged checkpoints in the run's folder.")] = False,
    unsafe_code: UnsafeCode = False,
) -> None:
    """Run a suite: train, serve, test and judge every cell that is not finished, then write the report."""
    from esft_bench.harness.commands import execute, prepare
    from esft_bench.tasks.sandbox import UNSAFE

    if unsafe_code:
        os.environ[UNSAFE] = "1"

    prepared = prepare(suite, only=only, seeds=seeds, quick=quick, data_dir=data_dir, run_dir=run_dir, engine=engine,
                       limit=limit, port=port, backbone=backbone, steps=steps)  # fmt: skip
    command = shlex.join(["esft-bench", *sys.argv[1:]])
    try:
        failed = execute(
            prepared,
            console,
            command=command,
            workers=workers,
            micro_batch=micro_batch,
            processes=processes,
            keep_checkpoints=keep_checkpoints,
        )
    except KeyboardInterrupt:
        print("Stopped. The same command goes on where it was.", file=sys.stderr)
        raise typer.Exit(130) from None
    if failed:
        raise typer.Exit(1)


@app.command()
def plan(
    suite: SuiteName = "mini",
    only: Only = "",
    seeds: Seeds = "",
    quick: Quick = False,
    data_dir: DataDir = None,
    run_dir: RunDir = Path("runs"),
    engine: EngineName = None,
    limit: Limit = None,
    backbone: BackboneName = None,
    steps: Steps = None,
    micro_batch: MicroBatch = None,
    gpu: Annotated[str, typer.Option(help="The device to estimate for, e.g. H100-80GB.")] = DEFAULT,
    price: Annotated[bool, typer.Option(help="Estimate what the run will cost.")] = True,
) -> None:
    """Show the matrix, what of it is already there, and what the rest will cost; computes nothing."""
    from esft_bench.harness.commands import describe, foreseen, prepare
    from esft_bench.harness.price.show import price_tables

    device = accelerator(gpu)

    prepared = prepare(suite, only=only, seeds=seeds, quick=quick, data_dir=data_dir, run_dir=run_dir, engine=engine,
                       limit=limit, backbone=backbone, steps=steps, weights=False)  # fmt: skip
    console.print(describe(prepared))
    console.print()
    console.print(foreseen(prepared), highlight=False)
    for table in price_tables(prepared.plan, device, micro_batch) if price else ():
        console.print()
        console.print(table, highlight=False)
    for note in prepared.notes:
        console.print(f"Note: {note}", highlight=False)


@app.command()
def doctor(suite: SuiteName = "mini", run_dir: RunDir = Path("runs")) -> None:
    """Say what this machine has and what is missing."""
    from esft_bench.harness.doctor import diagnose
    from esft_bench.spec.suite_file import load

    marks = {None: " ", True: "[green]✓[/]", False: "[red]✗[/]"}
    missing = False
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in diagnose(load(suite), run_dir):
        missing = missing or finding.good is False
        advice = f"  → {finding.advice}" if finding.advice else ""
        table.add_row(marks[finding.good], finding.what, finding.found + advice)
    console.print(table)
    if missing:
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, e.g. runs/mini.")],
    against: Annotated[Path | None, typer.Option(help="A run to compare each of them with: comparison.html.")] = None,
    export: Annotated[str | None, typer.Option(help="Another format to write besides: every-eval-ever.")] = None,
) -> None:
    """Write the reports of runs again, from their stored results alone; exit code 1 where no run has any left."""
    from esft_bench.harness.reporting import compare, export_as, rewrite

    sound = 0
    for folder in runs:
        content = rewrite(folder)
        written = [folder / "report.html"]
        for sentence in content.left_out:
            print(f"{folder}: {sentence}", file=sys.stderr)
        if content.parts:
            sound += 1
            written += compare(content, against) if against else []
            written += [export_as(content, export)] if export else []
        for path in written:
            console.print(str(path), highlight=False, soft_wrap=True)
    if not sound:
        raise typer.Exit(1)


@app.command("verify-paper")
def verify_paper(
    official: Annotated[Path, typer.Option(metavar="DIR", help="A checkout of deepseek-ai/ESFT, or its results.")],
) -> None:
    """Rebuild what the ESFT paper's authors released, published values beside ours; exit code 1 where one differs."""
    from esft_bench.harness.fidelity import as_tables, verify

    rows = verify(official)
    console.print(as_tables(rows), highlight=False)
    if any(row.verdict == "differs" for row in rows):
        raise typer.Exit(1)


@judge_app.command()
def calibrate(
    official: Annotated[Path, typer.Option(metavar="DIR", help="A checkout of deepseek-ai/ESFT, or its results.")],
    suite: Annotated[str, typer.Option(help="Take the judge of this suite.")] = "",
    reference: Annotated[bool, typer.Option("--reference", help="The judge that needs no endpoint (chrF).")] = False,
    model: Annotated[str | None, typer.Option(help="The judge's model.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Any OpenAI-compatible endpoint.")] = None,
    key_env: Annotated[str | None, typer.Option(help="The environment variable that holds the key.")] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="Dollars that it may cost.")] = None,
    batch: Annotated[bool | None, typer.Option("--batch", help="Judge by batches: cheaper, within a day.")] = None,
    limit: Limit = None,
    out: Annotated[Path | None, typer.Option(help="File to keep it in, in place of the user's cache.")] = None,
) -> None:
    """Have the released completions judged, and compare with the scores that the paper's judge gave them."""
    from esft_bench.harness import calibrate as calibrating
    from esft_bench.tasks.registry import load_tasks

    changes = {"model": model, "base_url": base_url, "key_env": key_env, "budget": budget, "batch": batch}
    judge = calibrating.choose_judge(official, suite, reference, changes)
    entries = calibrating.calibrate(official, judge, load_tasks(), limit)
    console.print(calibrating.as_table(entries), *judge.notes, sep="\n", highlight=False)
    calibrating.keep(out or calibrating.default_file(), entries)
    console.print(f"Kept in {out or calibrating.default_file()}", highlight=False, soft_wrap=True)
    if any(entry.scored < entry.answers for entry in entries):
        raise typer.Exit(1)


@app.command()
def suites() -> None:
    """List the suites that ship."""
    from esft_bench.spec.suite_file import available, load

    for name in available():
        console.print(f"[bold]{name}[/]  {load(name).description}")


@app.command()
def tasks() -> None:
    """List the tasks that are installed."""
    from esft_bench.tasks.registry import load_tasks

    for name, task in sorted(load_tasks().items()):
        console.print(f"[bold]{name}[/]  {task.title} ({task.role})", highlight=False)


@app.command()
def methods() -> None:
    """List the methods that are installed, with their hyperparameters."""
    from esft_bench.methods.registry import load_methods

    for name, method in sorted(load_methods().items()):
        console.print(f"[bold]{name}[/]  {', '.join(method.model_fields) or '–'}", highlight=False)


def main() -> None:
    """Run the command line; what a user can mend is one sentence and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["PYTHONSAFEPATH"] = "1"  # the working folder may hold a tasks.py or a datasets.py: none of ours
    try:
        app()
    except UserError as error:
        print(f"esft-bench: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
