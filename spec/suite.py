"""A suite: what to compare, checked before anything runs."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from esft_bench.spec.backbone import Backbone as Backbone
from esft_bench.spec.curve import Curve
from esft_bench.spec.judge import JudgeSettings
from esft_bench.spec.names import Count, Names, Once, RowName, Seed, Title
from esft_bench.spec.own import TESTED, OwnTask, with_own
from esft_bench.spec.sections import DataAddress, Evaluation, Quick, TableOf
from esft_bench.spec.strict import Strict
from esft_bench.spec.training import PackedAttention, Training, Truncation
from esft_bench.spec.tuning import Space, Tune

Average = Literal["tasks", "items"]

ABLATED = "of"
"""The hyperparameter of an ablation that holds those of the method it ablates."""


class Profiling(Strict):
    """How much of a task's data the expert scores are taken from (paper, Section 4.1: 32 sequences).

    With `after_training` every trained cell is profiled on its task's data too, so that the report can say how far
    training moved the routing; it costs a forward pass over those sequences for each cell. `packed_attention` is as in
    training.
    """

    sequences: Count = 32
    sequence_length: Count = 4096
    after_training: bool = False
    truncation: Truncation = "refuse"
    packed_attention: PackedAttention = "within"


class Row(BaseModel):
    """One row of the matrix: a method with its hyperparameters, as the suite names it.

    Any further field is a hyperparameter of the method. `ablates` names another row: this one then trains as many
    random experts in each layer as that row selects, with its learning rate unless another is given. `steps` and
    `profile_every` are in place of those under `training`, `learning_rates` in place of `learning_rate` on some tasks.

    `together` trains all tasks of the suite on their mixture, one cell a seed (a method may ask for that by itself).
    `continues` names another row and `after` tasks: each cell then goes on from what that row's training on those
    tasks, one after another, ended with, and is tested on them too.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    method: str = ""
    title: Title = ""
    learning_rate: PositiveFloat | None = None
    learning_rates: dict[str, PositiveFloat] = {}
    steps: Count | None = None
    profile_every: Count | None = None
    ablates: str = ""
    together: bool | None = None
    continues: str = ""
    after: Names = []
    tune: Space = Space()

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The fields that belong to the method itself."""
        return dict(self.model_extra or {})


class Suite(Strict):
    """backbone × task × method × seed: every combination is a cell.

    Before the first training every row is rehearsed (exported, merged, served and asked one item) on weights that
    nothing has trained yet; `rehearse: auto` leaves that out for the backbone that ships.
    With `paper`, the report sets that paper's published values beside ours, by the titles of rows and columns.
    Tasks without code, and data to be mixed in (`alignment`), are described where they are named, or in `own`;
    `lm-eval:NAME` is a task of lm-eval's, or one of those in the folder `include_path`.
    `average` is how Table 1's average weighs its columns: all alike, or by their items. `tested_on` names the
    benchmarks of a task in place of those it has itself; `filters` names tests that its training rows must pass, in the
    order in which they are asked. Rows that differ by less than `same_within` points, beyond chance, are called
    the same. `drift` names the measures of how far a model has moved that have no ceiling; `curve` trains every row at
    several multiples of its learning rate. With `tune`, learning rates are searched, on rows held out of the training
    data, before cells are trained.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)
    description: str = ""
    backbone: Backbone = Backbone()
    seeds: Annotated[list[Seed], Once] = Field([0], min_length=1)
    tasks: Names = Field(min_length=1)
    tested_only: Names = Field([])
    general: Names = Field([])
    drift: Names = Field([])
    alignment: str | None = None
    own: dict[str, OwnTask] = Field({})
    include_path: str = ""
    data: dict[str, DataAddress] = Field({})
    methods: dict[RowName, Row] = Field(min_length=1)
    curve: Curve = Curve()
    training: Training = Training()
    profiling: Profiling = Profiling()
    tune: Tune | None = None
    evaluation: Evaluation = Evaluation()
    judge: JudgeSettings = JudgeSettings()
    rehearse: Literal["auto", "always", "never"] = "auto"
    quick: Quick | None = None
    paper: Literal["", "esft", "das", "densemixer"] = ""
    average: Average = "tasks"
    same_within: PositiveFloat = 2.0
    tested_on: dict[str, list[str]] = Field({})
    filters: dict[str, Names] = Field({})
    tables: list[TableOf] = Field([])

    _own = model_validator(mode="before")(with_own)

    @model_validator(mode="after")
    def _names_what_there_is(self) -> "Suite":
        _check(self)
        return self

    def row(self, name: str) -> tuple[str, dict[str, Any], float]:
        """A row's method, its hyperparameters and its learning rate, with what it inherits filled in."""
        row, rate = self.methods[name], self.learning_rate(name)
        if row.continues:
            method, hyperparameters, _ = self.row(row.continues)
            return method, hyperparameters | row.hyperparameters, rate
        if not row.ablates:
            return row.method or name, row.hyperparameters, rate
        method, hyperparameters, _ = self.row(row.ablates)
        of = {ABLATED: {"method": method, **hyperparameters}}
        return row.method or "random-experts", of | row.hyperparameters, rate

    def learning_rate(self, name: str, task: str = "") -> float:
        """A row's learning rate, on a task: its own, that of the row it continues or ablates, or the suite's."""
        row = self.methods[name]
        before = row.continues or row.ablates
        own = row.learning_rates.get(task) or row.learning_rate
        return own or (self.learning_rate(before, task) if before else self.training.learning_rate)

    def steps(self, name: str, rows: int | None = None) -> int:
        """A row's training steps: its own, those of the row it continues or ablates, or the suite's.

        `rows`, how many a task has, are needed where the suite counts epochs.
        """
        row = self.methods[name]
        if before := row.continues or row.ablates:
            return row.steps or self.steps(before, rows)
        return row.steps or (self.training.steps if rows is None else self.training.steps_of(rows))

    def profile_every(self, name: str) -> int | None:
        """A row's steps from one look at its routing to the next: its own, or the suite's; None for no looks."""
        return self.methods[name].profile_every or self.training.profile_every

    def together(self, name: str) -> bool | None:
        """Whether a row trains all tasks together; None where its method decides."""
        row = self.methods[name]
        return self.together(row.ablates) if row.together is None and row.ablates else row.together

    def title(self, name: str) -> str:
        """How tables print a row."""
        return self.methods[name].title or name

    @property
    def own_alignment(self) -> str | None:
        """The name of the user's own data that are mixed in and are nothing else; None where there are none."""
        tested = {name for section in TESTED for name in getattr(self, section)}
        return self.alignment if self.alignment in self.own and self.alignment not in tested else None


def _check(suite: Suite) -> None:
    """Raise ValueError, naming the field, where a suite names what it does not have, or one thing twice."""
    _check_roles(suite)
    _check_titles(suite)
    for name, row in suite.methods.items():
        _check_row(suite, name, row)
    for name in suite.methods:
        _ends(suite, name)
    if (mixed_in := suite.own_alignment) and (said := suite.own[mixed_in].of_tests):
        raise ValueError(f"alignment: nothing is tested on data that are mixed in: leave out `{said[0]}`")
    _known("tested_on", suite.tested_on, suite.tasks, "no task of this suite")
    _known("filters", suite.filters, [*suite.tasks, suite.alignment or ""], "no task of this suite")
    if suite.tune is not None:
        if suite.training.epochs:
            raise ValueError("tune: a search counts steps: give training.steps in place of training.epochs")
        _known("tune.rows", suite.tune.rows or [], suite.methods, "no row of this suite")
        for row in suite.methods.values():
            suite.tune.first_rates(1.0, row.tune)
    for table in suite.tables:
        _known(f"tables.{table.title}", table.rows, suite.methods, "no row of this suite")
    if suite.quick is not None:
        _known("quick.tasks", suite.quick.tasks, suite.tasks, "not in this suite")
        _known("quick.methods", suite.quick.methods, suite.methods, "not in this suite")


def _check_row(suite: Suite, name: str, row: Row) -> None:
    """Refuse a row that names what the suite does not have, or half of what belongs together."""
    _known(f"methods.{name}.learning_rates", row.learning_rates, suite.tasks, "no task of this suite")
    if row.learning_rates and row.together:
        raise ValueError(f"methods.{name}.learning_rates: all tasks are trained together, at one `learning_rate`")
    if row.ablates:
        _known(f"methods.{name}.ablates", [row.ablates], suite.methods, "no row of this suite")
    if bool(row.continues) != bool(row.after):
        raise ValueError(f"methods.{name}: `continues` names a row and `after` the tasks it was trained on")
    if row.continues:
        _continues_well(suite, name, row)


def _known(field: str, names: Iterable[str], known: Iterable[str], otherwise: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{field} names '{name}', which is {otherwise}")


def _check_roles(suite: Suite) -> None:
    """Refuse a task under two of the sections that say what it is for."""
    place: dict[str, str] = {}
    for section in ("tasks", "tested_only", "general", "drift"):
        for name in getattr(suite, section):
            if name in place:
                raise ValueError(f"'{name}' is under {place[name]} and under {section}: leave it out of one")
            place[name] = section


def _check_titles(suite: Suite) -> None:
    """Refuse two rows that tables could not tell apart, or file systems that do not tell capitals apart."""
    titles: dict[str, str] = {}
    files: dict[str, str] = {}
    for name in suite.methods:
        for known, key, what in ((titles, suite.title(name), "title"), (files, name.casefold(), "file names")):
            if key in known:
                raise ValueError(f"methods.{name} and methods.{known[key]} have the same {what}: rename one")
            known[key] = name


def _ends(suite: Suite, name: str) -> None:
    """Refuse a row that, through the rows it ablates or continues, comes back to itself."""
    way = [name]
    while before := suite.methods[way[-1]].continues or suite.methods[way[-1]].ablates:
        if before in way:
            raise ValueError(f"methods.{name} comes back to itself: {' → '.join([*way, before])}")
        way.append(before)


def _continues_well(suite: Suite, name: str, row: Row) -> None:
    """Refuse a continuation of no row, of itself, or of what has no task left to train on."""
    _known(f"methods.{name}.continues", [row.continues], suite.methods, "no row of this suite")
    before = suite.methods[row.continues]
    if before.continues or before.together or row.together:
        raise ValueError(f"methods.{name}.continues names '{row.continues}', which is no row of single tasks")
    _known(f"methods.{name}.after", row.after, suite.tasks, "no task of this suite")
    if set(suite.tasks) <= set(row.after):
        raise ValueError(f"methods.{name}.after names every task, so none is left to train on")
