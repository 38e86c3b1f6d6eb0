"""A suite: what to compare, checked before anything runs."""

import difflib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from esft_bench.spec.errors import UserError
from esft_bench.spec.judge import JudgeSettings

Truncation = Literal["refuse", "left"]
Average = Literal["tasks", "items"]


class Strict(BaseModel):
    """Frozen, and no unknown fields: a typing error in a suite is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Backbone(Strict):
    """The model every cell starts from.

    `path` is `mini` (the one that ships), a folder, or a name on the hub (then with a `revision`). `precision` is
    that of weights and products: `float32`; `bf16-mixed`, float32 weights with bf16 products; `bf16`, the same for
    weights that are trained, while those that are frozen are bf16, as the adapters are that come out.
    """

    path: str = "mini"
    revision: str | None = None
    precision: Literal["float32", "bf16-mixed", "bf16"] = "float32"
    trust_remote_code: bool = False


class Training(Strict):
    """The training loop's settings, the same for every method.

    Defaults follow the official config (deepseek-ai/ESFT, configs/base.yaml): AdamW 0.9/0.95, weight decay 0.1,
    constant learning rate, no warm-up, gradients clipped at 1.0; batch and length are the paper's.
    `alignment_share` is the share of alignment samples in the mix, half in the paper. `truncation` says what becomes of
    a question that fills the whole sequence: `refuse` it, or drop its beginning (`left`) so that its answer is seen.
    `gradient_checkpointing` keeps each layer's input alone and computes the rest again in the backward pass: less
    memory, more time, the same steps.
    """

    steps: PositiveInt = 500
    batch_size: PositiveInt = 32
    sequence_length: PositiveInt = 4096
    alignment_share: float = Field(0.5, ge=0, lt=1)
    learning_rate: PositiveFloat = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.1, ge=0)
    max_grad_norm: PositiveFloat = 1.0
    evaluate_every: PositiveInt | None = None
    validation_items: PositiveInt = 64
    choose: Literal["last", "best"] = "last"
    truncation: Truncation = "refuse"
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _choice_needs_a_measure(self) -> "Training":
        if self.choose == "best" and self.evaluate_every is None:
            raise ValueError("`choose: best` needs `evaluate_every`, the number of steps between two looks")
        return self


class Profiling(Strict):
    """How much of a task's data the expert scores are taken from (paper, Section 4.1: 32 sequences).

    With `after_training` every trained cell is profiled on its task's data too, so that the report can say how far
    training moved the routing; it costs a forward pass over those sequences for each cell.
    """

    sequences: PositiveInt = 32
    sequence_length: PositiveInt = 4096
    after_training: bool = False
    truncation: Truncation = "refuse"


class Row(BaseModel):
    """One row of the matrix: a method with its hyperparameters, as the suite names it.

    Any further field is a hyperparameter of the method. `ablates` names another row: this one then trains as many
    random experts in each layer as that row selects, with its learning rate unless another is given. `steps` are in
    place of the suite's.

    `together` trains all tasks of the suite on their mixture, one cell a seed (a method may ask for that by itself).
    `continues` names another row and `after` tasks: each cell then goes on from what that row's training on those
    tasks, one after another, ended with, and is tested on them too.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    method: str = ""
    title: str = ""
    learning_rate: PositiveFloat | None = None
    steps: PositiveInt | None = None
    ablates: str = ""
    together: bool | None = None
    continues: str = ""
    after: list[str] = []

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The fields that belong to the method itself."""
        return dict(self.model_extra or {})


class Quick(Strict):
    """What `--quick` keeps: a slice to see the whole path work."""

    tasks: list[str]
    methods: list[str]


class Evaluation(Strict):
    """How answers are generated: by a vLLM server, or in-process by transformers where vLLM cannot run.

    `batch_size` and `port` are transport: they do not change results. `limit` keeps the first items of each benchmark.
    """

    engine: Literal["vllm", "transformers"] = "vllm"
    max_length: PositiveInt = 4096
    limit: PositiveInt | None = None
    port: int | None = None
    batch_size: PositiveInt = 64


class TableOf(Strict):
    """A further table in the report: some rows, compared among themselves, on the tasks or the general benchmarks."""

    title: str
    rows: list[str] = Field(min_length=1)
    role: Literal["ability", "general"] = "ability"


class DataAddress(Strict):
    """Where on the hub a data set lies, if not where its task has it. A new `hub` name needs a `revision`."""

    hub: str = ""
    revision: str = ""
    config: str = ""


class Suite(Strict):
    """backbone × task × method × seed: every combination is a cell.

    With `paper`, the report sets that paper's published values beside ours, by the titles of rows and columns.
    `average` is how Table 1's average weighs its columns: all alike, or by their items. `tested_on` names the
    benchmarks of a task in place of those it has itself.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    backbone: Backbone = Backbone()
    seeds: list[int] = Field([0], min_length=1)
    tasks: list[str] = Field(min_length=1)
    tested_only: list[str] = []
    general: list[str] = []
    alignment: str | None = None
    data: dict[str, DataAddress] = {}
    methods: dict[str, Row] = Field(min_length=1)
    training: Training = Training()
    profiling: Profiling = Profiling()
    evaluation: Evaluation = Evaluation()
    judge: JudgeSettings = JudgeSettings()
    quick: Quick | None = None
    paper: Literal["", "esft", "das"] = ""
    average: Average = "tasks"
    tested_on: dict[str, list[str]] = {}
    tables: list[TableOf] = []

    @model_validator(mode="after")
    def _rows_refer_to_rows(self) -> "Suite":
        for name, row in self.methods.items():
            if row.ablates and row.ablates not in self.methods:
                raise ValueError(f"methods.{name}.ablates names '{row.ablates}', which is no row of this suite")
            if bool(row.continues) != bool(row.after):
                raise ValueError(f"methods.{name}: `continues` names a row and `after` the tasks it was trained on")
            self._continues_well(name, row)
        for task in self.tested_on:
            if task not in self.tasks:
                raise ValueError(f"tested_on names '{task}', which is no task of this suite")
        for table in self.tables:
            for name in table.rows:
                if name not in self.methods:
                    raise ValueError(f"tables.{table.title} names '{name}', which is no row of this suite")
        if self.quick is not None:
            for kind, named, known in (
                ("tasks", self.quick.tasks, self.tasks),
                ("methods", self.quick.methods, list(self.methods)),
            ):
                for name in named:
                    if name not in known:
                        raise ValueError(f"quick.{kind} names '{name}', which is not in this suite")
        return self

    def _continues_well(self, name: str, row: Row) -> None:
        """Refuse a continuation of no row, of itself, or of what has no task left to train on."""
        if not row.continues:
            return
        before = self.methods.get(row.continues)
        if before is None:
            raise ValueError(f"methods.{name}.continues names '{row.continues}', which is no row of this suite")
        if before.continues or before.together or row.together:
            raise ValueError(f"methods.{name}.continues names '{row.continues}', which is no row of single tasks")
        for task in row.after:
            if task not in self.tasks:
                raise ValueError(f"methods.{name}.after names '{task}', which is no task of this suite")
        if set(self.tasks) <= set(row.after):
            raise ValueError(f"methods.{name}.after names every task, so none is left to train on")

    def row(self, name: str) -> tuple[str, dict[str, Any], float]:
        """A row's method, its hyperparameters and its learning rate, with what it inherits filled in."""
        row = self.methods[name]
        own = row.learning_rate
        if row.continues:
            method, hyperparameters, learning_rate = self.row(row.continues)
            return method, hyperparameters | row.hyperparameters, own or learning_rate
        if not row.ablates:
            return row.method or name, row.hyperparameters, own or self.training.learning_rate
        method, hyperparameters, learning_rate = self.row(row.ablates)
        of = {"method": method, **hyperparameters}
        return row.method or "random-experts", {"of": of, **row.hyperparameters}, own or learning_rate

    def steps(self, name: str) -> int:
        """A row's training steps: its own, those of the row it continues or ablates, or the suite's."""
        row = self.methods[name]
        before = row.continues or row.ablates
        return row.steps or (self.steps(before) if before else self.training.steps)

    def together(self, name: str) -> bool | None:
        """Whether a row trains all tasks together; None where its method decides."""
        row = self.methods[name]
        return self.together(row.ablates) if row.together is None and row.ablates else row.together

    def title(self, name: str) -> str:
        """How tables print a row."""
        return self.methods[name].title or name


def with_seeds(suite: Suite, seeds: list[int]) -> Suite:
    """The same suite with other seeds."""
    return suite.model_copy(update={"seeds": seeds})


def quick_slice(suite: Suite) -> Suite:
    """What the suite's `quick` section keeps, under a name of its own."""
    if suite.quick is None:
        raise UserError(f"Suite '{suite.name}' has no `quick` section: leave out --quick, or choose with --only.")
    methods = {name: row for name, row in suite.methods.items() if name in suite.quick.methods}
    return suite.model_copy(update={"name": f"{suite.name}-quick", "tasks": suite.quick.tasks, "methods": methods})


def selection(suite: Suite, only: str) -> dict[str, set[str]]:
    """Read `method=a,method=b,task=c`: the rows and tasks to compute; a kind that is not named keeps all.

    Raises UserError naming what the suite does not have.
    """
    known = {"method": set(suite.methods), "task": set(suite.tasks)}
    chosen: dict[str, set[str]] = {"method": set(), "task": set()}
    kind = ""
    for part in filter(None, only.split(",")):
        left, equals, right = part.partition("=")
        kind, name = (left.strip(), right.strip()) if equals else (kind, part.strip())
        if kind not in known:
            raise UserError(f"--only {part}: write method=NAME or task=NAME, several with commas between.")
        if name not in known[kind]:
            near = difflib.get_close_matches(name, known[kind], n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(sorted(known[kind]))}."
            raise UserError(f"--only {kind}={name}: suite '{suite.name}' has no such {kind}; {hint}")
        chosen[kind].add(name)
    return {kind: names or known[kind] for kind, names in chosen.items()}
