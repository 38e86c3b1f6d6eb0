"""A task without code: the rows that a user has, how they are read, and how answers to them are scored."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from esft_bench.spec.names import Count, Title
from esft_bench.spec.strict import Strict

Metric = Literal["auto", "exact_match", "choice", "contains", "token_f1", "rouge", "chrf", "json", "judge", "tests"]
CleanUp = Literal["strip", "text", "number", "first-line", "letter"]
Part = Literal["messages", "system", "tools", "prompt", "input", "answer", "label", "choices", "tests"]
TESTED = ("tasks", "tested_only", "general")
"""The sections of a suite that name tasks to be tested on."""
ALIGNMENT = "alignment"
"""The section that names data to be mixed in, and what they are called where they are described without a name."""
OF_TESTS = ("test", "test_split", "test_share", "metric", "clean", "rubric", "best", "longest_answer")
"""What is said of a task for its tests' sake alone."""
SYNONYMS: dict[str, str] = {
    **{"conversation": "messages", "conversations": "messages"},
    **{"question": "prompt", "instruction": "prompt", "text": "prompt", "context": "input"},
    **{"completion": "answer", "output": "answer", "response": "answer"},
}
"""Other names of the parts of a row."""


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _named(value: object) -> object:
    """Columns by the names of the parts that they are."""
    return {SYNONYMS.get(str(key), key): each for key, each in value.items()} if isinstance(value, dict) else value


Paths = Annotated[list[str], BeforeValidator(_listed)]


class OwnTask(Strict):
    """A task without code.

    Its rows come from `files` (JSONL, JSON, CSV, TSV, Parquet, Arrow, or folders of them), or from `hub`, a `revision`.
    Which `columns` are what is found out unless it is said; `prompt` is a template in which `{column}` stands for a
    column. What is tested on are the rows of `test`, or of the hub's `test_split`, or the `test_share` of the rows that
    a hash of their question holds out.
    """

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)
    title: Title = ""
    files: Paths = Field([])
    hub: str = ""
    revision: str = ""
    config: str = ""
    split: str = "train"
    test_split: str = ""
    columns: Annotated[dict[Part, str], BeforeValidator(_named)] = Field({})
    prompt: str = ""
    choices: list[str] = Field([])
    test: Paths = Field([])
    test_share: float = Field(0.2, gt=0, lt=1)
    metric: Metric = "auto"
    clean: CleanUp = "strip"
    rubric: str = ""
    best: float = Field(10.0, gt=0)
    longest_answer: Count | None = None

    @model_validator(mode="after")
    def _has_rows_and_a_measure(self) -> "OwnTask":
        if bool(self.files) == bool(self.hub):
            raise ValueError(f"task '{self.name}' needs either `files` or `hub`")
        if self.hub and not self.revision:
            raise ValueError(f"task '{self.name}': give the `revision` of {self.hub}, so that its rows stay the same")
        if (self.metric == "judge") != bool(self.rubric):
            raise ValueError(f"task '{self.name}': `metric: judge` and a `rubric` belong together")
        if self.metric == "choice" and self.columns.get("answer") and not (self.choices or self.columns.get("choices")):
            raise ValueError(f"task '{self.name}': `metric: choice` needs `choices`, or a column of labels")
        return self

    @property
    def shown(self) -> str:
        """How tables and sentences call it."""
        return self.title or self.name

    @property
    def of_tests(self) -> list[str]:
        """What is said of it that only a task that is tested on has."""
        return [name for name in OF_TESTS if name in self.model_dump(exclude_defaults=True)]


def with_own(said: Any) -> Any:
    """What a file says, with the tasks that it describes under `own`, and their names where they stood."""
    if not isinstance(said, dict):
        return said
    own = dict(said.get("own") or {})
    changed: dict[str, Any] = {}
    for section in TESTED:
        entries = said[section] if isinstance(said.get(section), list) else []
        named = [_described(entry, f"{section}-{place}", own) for place, entry in enumerate(entries, start=1)]
        changed |= {section: named} if named else {}
    if isinstance(mixed_in := said.get(ALIGNMENT), dict):
        changed[ALIGNMENT] = _described({"name": ALIGNMENT, **mixed_in}, ALIGNMENT, own)
    return {**said, **changed, "own": own} if own else said


def _described(entry: Any, otherwise: str, own: dict[str, Any]) -> Any:
    """The name of a task; where this is its description, that goes to `own`. One without a name is `otherwise`."""
    if not isinstance(entry, dict):
        return entry
    name = str(entry.get("name", otherwise))
    if name in own:
        raise ValueError(f"two tasks are called '{name}': rename one")
    own[name] = entry
    return name
