"""Which cell of a run is exported, and what it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esft_bench.harness.commands.prepare import STORE
from esft_bench.harness.store.artifacts import Artifact, DamagedError, Store
from esft_bench.reports.content import Content, gather
from esft_bench.reports.formatting import listing
from esft_bench.reports.prose.task_advice import TaskAdvice
from esft_bench.spec.errors import UserError
from esft_bench.spec.record import Record
from esft_bench.spec.results import check_run


@dataclass(frozen=True)
class Chosen:
    """A trained cell.

    Attributes:
        content: its run, read.
        records: the cell's own records.
        trainings: the artifacts whose adapters make its model, in order, its own last.
        why: how it came to be chosen, a sentence.
    """

    content: Content
    records: Sequence[Record]
    trainings: Sequence[Artifact]
    why: str

    @property
    def about(self) -> Record:
        """What names the cell."""
        return self.records[0]

    @property
    def settings(self) -> dict[str, Any]:
        """What its last training was told, with the values that it was tuned to."""
        manifest = self.trainings[-1].manifest
        told, tuned = manifest.settings, manifest.measured.get("tuned")
        if not tuned:
            return told
        training = {**told["training"], "learning_rate": tuned["learning_rate"]}
        return {**told, "hyperparameters": tuned["hyperparameters"], "training": training}

    @property
    def backbone(self) -> Path:
        """The checkpoint that it was trained from."""
        return Path(self.trainings[-1].manifest.inputs["backbone"].path)


def choose(run: Path, *, best: bool, method: str | None, task: str | None, seed: int | None) -> Chosen:
    """The cell that is asked for; `best` leaves the row to the report's advice.

    Of several seeds the first is taken unless one is named: the best of them on the test items would be better on those
    items alone. Raises UserError where the run has no such cell, or where its advice names no row.
    """
    check_run(run)
    content = gather(run)
    scored = (one for one in content.of_rows if one.role not in ("cost", "drift"))
    trained = [one for one in scored if one.task and one.training]
    if not trained:
        raise UserError(f"{run} has no trained cell with results yet: there is nothing to export.")
    task = _task(run, trained, task)
    why = "It was named."
    if best == bool(method):
        raise UserError("Say which row to export: --best for the one that the report advises, or --method NAME.")
    if best:
        method, why = _advised(content, task)
    ours = [one for one in trained if (one.method, one.task) == (method, task)]
    seeds = sorted({one.seed for one in ours})
    if not ours or (seed is not None and seed not in seeds):
        there = ", ".join(sorted({f"{one.method} on {one.task}, seed {one.seed}" for one in trained})[:12])
        raise UserError(f"{run} has no results of {method} on {task}{_of(seed)}; it has: {there}.")
    chosen = seeds[0] if seed is None else seed
    if seed is None and len(seeds) > 1:
        why += f" Of {len(seeds)} seeds it is the first, not the best: that would be chosen on the test items."
    return Chosen(content, [one for one in ours if one.seed == chosen], _trainings(run, ours, chosen), why)


def _task(run: Path, trained: Sequence[Record], task: str | None) -> str:
    """The task that is meant where only one was trained on."""
    tasks = list(dict.fromkeys(one.task for one in trained))
    if task is None and len(tasks) > 1:
        raise UserError(f"{run} has models of {len(tasks)} tasks: name one with --task, of {', '.join(tasks)}.")
    return task or tasks[0]


def _advised(content: Content, task: str) -> tuple[str, str]:
    """The row that the report advises for a task, and in whose words."""
    for backbone in content.backbones:
        for one in backbone.advice.tasks:
            tested = {column.name for column in backbone.ability.columns if task in column.tasks}
            if one.task in tested and one.pick is not None:
                return one.pick.name, f"The report advises it for {one.title}: {one.sentences[0].text}"
            if one.task in tested and one.candidates:
                return _fastest(one, content)
    raise UserError(
        f"{content.folder} has no advice for {task}, since nothing was gained there: name a row by --method."
    )


def _fastest(advice: TaskAdvice, content: Content) -> tuple[str, str]:
    """Where the report names no row, the one that trained fastest, the first where no time is known."""
    names = [row.name for row in advice.candidates]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for record in content.of_rows:
        if record.metric == "train_seconds" and record.method in seconds and record.value is not None:
            seconds[record.method].append(record.value)
    known = {name: sum(values) / len(values) for name, values in seconds.items() if values}
    chosen = min(known, key=lambda name: known[name]) if known else names[0]
    equal = listing([row.title for row in advice.candidates])
    why = advice.sentences[0].text
    return chosen, (
        f"The report advises no row for {advice.title}. {why[:1].upper()}{why[1:]} Of {equal} it trained fastest."
    )


def _trainings(run: Path, records: Sequence[Record], seed: int) -> list[Artifact]:
    """The trainings whose adapters make the cell's model: those on earlier tasks, and its own, which hold all else."""
    store = Store(run.parent / STORE)
    record = next(one for one in records if one.seed == seed)
    kind, _, key = record.training.partition("/")
    own = _sound(store, kind, key)
    inputs = own.manifest.inputs
    before = [inputs[f"training {number}"] for number in range(len(record.earlier))]
    return [*(_sound(store, one.kind, one.key) for one in before), own]


def _sound(store: Store, kind: str, key: str) -> Artifact:
    again = "run the suite again, which makes it anew"
    artifact = store.find(kind, key)
    if artifact is None:
        raise UserError(f"{store.root / kind / key} is not there or damaged: {again}.")
    try:
        store.check(artifact)
    except DamagedError as error:
        raise UserError(f"{error}: {again}.") from error
    return artifact


def _of(seed: int | None) -> str:
    return "" if seed is None else f" with seed {seed}"
