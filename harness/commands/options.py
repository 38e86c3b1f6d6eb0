"""The options that commands share, each group one object, so that no command passes on a dozen of them."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from esft_bench.harness.plan.price.hardware import DEFAULT
from esft_bench.spec.errors import UserError
from esft_bench.spec.text import flaw


@dataclass(frozen=True)
class SuiteOptions:
    """Which suite, and what is to be different about it."""

    suite: Annotated[str, typer.Argument(help="A suite that ships (see `suites`), or a YAML file.")] = "mini"
    only: Annotated[
        str | None, typer.Option(help="Compute only these: method=NAME,task=NAME,rate=1, several with commas.")
    ] = None
    seeds: Annotated[str | None, typer.Option(help="Training seeds in place of the suite's, e.g. 0,1,2.")] = None
    quick: Annotated[bool, typer.Option("--quick", help="A slice: few tasks, rows and items.")] = False
    tune: Annotated[
        bool, typer.Option("--tune", help="Search each row's learning rate first, on rows held out of training.")
    ] = False
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set any field of the suite, e.g. training.steps=20."),
    ] = None
    backbone: Annotated[
        str | None, typer.Option(help="Another backbone: mini, a folder, or NAME@REVISION on the hub.")
    ] = None
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps in place of the suite's.")] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first items of each benchmark.")] = None
    engine: Annotated[str | None, typer.Option(help="vllm or transformers, in place of the suite's.")] = None
    data_dir: Annotated[Path | None, typer.Option(help="A folder of JSONL files in place of the hub.")] = None
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Your own rows: a file, a folder, or NAME@REVISION on the hub; a task each."),
    ] = None
    columns: Annotated[
        str | None, typer.Option(help="What the columns of --data are, e.g. prompt=question,answer=label.")
    ] = None
    metric: Annotated[str | None, typer.Option(help="How answers to --data are scored, e.g. exact_match.")] = None
    test: Annotated[
        str | None, typer.Option(metavar="FILE", help="What --data is tested on, if not a share of it.")
    ] = None
    include_path: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="A folder of your own lm-eval tasks, for `lm-eval:NAME` in a suite."),
    ] = None
    run_dir: Annotated[Path, typer.Option(help="Where runs and their artifacts are kept.")] = Path("runs")


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes a result."""

    workers: Annotated[int | None, typer.Option(min=1, help="Cells trained side by side.")] = None
    micro_batch: Annotated[int | None, typer.Option(min=1, help="Sequences in memory at once in training.")] = None
    processes: Annotated[int, typer.Option(min=1, help="Processes that train a cell together, one a GPU.")] = 1
    on: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="local, ray (this machine's cluster) or ray://HOST:PORT; unless given, all GPUs of this machine.",
        ),
    ] = None
    keep_checkpoints: Annotated[
        bool, typer.Option("--keep-checkpoints", help="Keep merged checkpoints in the run's folder.")
    ] = False
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Watch trainings in tensorboard, wandb or mlflow; may be repeated."),
    ] = None
    unsafe_code: Annotated[
        bool, typer.Option("--unsafe-code", help="Run generated code even where no sandbox works.")
    ] = False


@dataclass(frozen=True)
class PriceOptions:
    """What a plan's costs are reckoned by."""

    micro_batch: Annotated[int | None, typer.Option(min=1, help="Sequences in memory at once in training.")] = None
    gpu: Annotated[str, typer.Option(help="The device to estimate for, e.g. H100-80GB.")] = DEFAULT
    gpus: Annotated[int, typer.Option(min=1, max=100_000, help="How many of them the run has.")] = 1
    price: Annotated[bool, typer.Option(help="Estimate what the run will cost.")] = True
    detect: Annotated[
        float | None, typer.Option(min=0.1, max=100.0, help="Say what finding a difference of so many points needs.")
    ] = None
    hourly: Annotated[float | None, typer.Option(min=0.0, help="Dollars that an hour of the device costs.")] = None


@dataclass(frozen=True)
class LookOptions:
    """Which rows to look at, and as which backbone sees them."""

    data: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files, folders, or NAME@REVISION on the hub.")]
    backbone: Annotated[str, typer.Option(help="Whose tokenizer: mini, a folder, or NAME@REVISION on the hub.")] = (
        "mini"
    )
    columns: Annotated[str | None, typer.Option(help="What the columns are, e.g. prompt=question,answer=label.")] = None
    metric: Annotated[str | None, typer.Option(help="How answers are to be scored, e.g. exact_match.")] = None
    test: Annotated[str | None, typer.Option(metavar="FILE", help="What is tested on, if not a share of the rows.")] = (
        None
    )
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the suite, e.g. backbone.prompt=release."),
    ] = None


@dataclass(frozen=True)
class CalibrateOptions:
    """Which judge to calibrate, on what."""

    official: Annotated[Path, typer.Option(metavar="DIR", help="A checkout of deepseek-ai/ESFT, or its results.")]
    suite: Annotated[str, typer.Option(help="Take the judge of this suite.")] = ""
    reference: Annotated[bool, typer.Option("--reference", help="The judge that needs no endpoint (chrF).")] = False
    model: Annotated[str | None, typer.Option(help="The judge's model.")] = None
    base_url: Annotated[str | None, typer.Option(help="Any OpenAI-compatible endpoint.")] = None
    key_env: Annotated[str | None, typer.Option(help="The environment variable that holds the key.")] = None
    budget: Annotated[float | None, typer.Option(min=0, help="Dollars that it may cost.")] = None
    batch: Annotated[bool | None, typer.Option("--batch", help="Judge by batches: cheaper, within a day.")] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first answers of each task.")] = None
    out: Annotated[Path | None, typer.Option(help="File to keep it in, in place of the user's cache.")] = None

    @property
    def changes(self) -> dict[str, Any]:
        """The judge's settings that are given here."""
        return {name: getattr(self, name) for name in ("model", "base_url", "key_env", "budget", "batch")}


@dataclass(frozen=True)
class ExportOptions:
    """Which cell of a run to export, how, and where to."""

    run: Annotated[Path, typer.Argument(help="A run's folder, e.g. runs/mini.")]
    to: Annotated[Path, typer.Option(help="The folder to write, which must not be there.")]
    best: Annotated[bool, typer.Option("--best", help="The row that the report advises for the task.")] = False
    method: Annotated[str | None, typer.Option(help="A row by its name, e.g. esft-gate.")] = None
    task: Annotated[str | None, typer.Option(help="The task trained on, where there are several.")] = None
    seed: Annotated[int | None, typer.Option(help="The training seed; the first unless given.")] = None
    form: Annotated[str, typer.Option(help="merged (a plain checkpoint), adapter or both.")] = "merged"
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to the hub too, with your own login.")
    ] = None
    public: Annotated[bool, typer.Option("--public", help="What is uploaded is for everyone to see.")] = False


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command for typer that takes the fields of its dataclass parameters as options of its own."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        parameters += [parameter.replace(kind=parameter.KEYWORD_ONLY)] if group is None else _flat(group)

    @wraps(command)
    def flat(**given: Any) -> Any:
        objects = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        return command(**objects, **given)

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return flat


def _flat(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    return [
        inspect.Parameter(
            field.name, kind, default=empty if field.default is MISSING else field.default, annotation=hints[field.name]
        )
        for field in fields(group)
    ]


def check_arguments(arguments: Iterable[str]) -> None:
    """Refuse an argument that is no text: a path that is not UTF-8, a control character."""
    for argument in arguments:
        if found := flaw(argument):
            raise UserError(f"The argument '{argument[:80]}' holds {found}: write it without.")
