"""How far a judge agrees with the judge of the ESFT paper, as measured on the released completions.

`calibration.json`, written by `esft-bench judge calibrate` and carried along in a run's folder:

    {"schema_version": 1, "entries": [a `Calibration`, …]}
"""

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from esft_bench.spec.results import write_text

NAME = "calibration.json"
SCHEMA_VERSION = 1


class Calibration(BaseModel):
    """A judge, a rubric and a task: its scores beside the stored ones, in points of 100."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    judge: str
    """How tables call the judge."""
    identity: str
    """A digest of what makes it another judge: model, endpoint, temperature, seed, options."""
    rubric: str
    """A digest of the rubric and the frame around it."""
    task: str
    """The task whose rubric it was."""
    title: str
    """How tables call the task."""
    against: str
    """Whose stored scores they were compared with."""
    answers: int
    """Answers that have a stored score."""
    scored: int
    """How many of them this judge scored."""
    items: int
    """Items they answer: each is answered once by each released model."""
    difference: float
    """Mean of this judge's score minus the stored one; the mean over items of the mean over an item's answers."""
    low: float | None
    """Lower end of the difference's 95% t-interval over items; none where there is one item."""
    high: float | None
    """Its upper end."""
    absolute_error: float
    """Mean absolute difference over the answers."""
    spearman: float | None
    """Spearman's rank correlation over the answers; none where one of the two gives all the same score."""
    alpha: float | None = None
    """Krippendorff's alpha for intervals, over the answers; none where all scores are one and the same."""
    standard_error: float | None = None
    """Of `difference`, over items."""
    benchmarks: list[str] = []
    """In a run's folder: the run's benchmarks that have the rubric."""
    made: str
    """When it was measured, UTC."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes it another calibration."""
        return self.identity, self.rubric, self.task, self.against

    @property
    def sentence(self) -> str:
        """The calibration in words."""
        interval = "" if self.low is None else f" [{self.low:+.1f}, {self.high:+.1f}]"
        rank = "not defined" if self.spearman is None else f"{self.spearman:.2f}"
        readable = "" if self.scored == self.answers else f" ({self.scored} of them scored)"
        return (
            f"{self.title}: {self.judge} against {self.against} on {self.answers} released answers{readable}: mean "
            f"difference {self.difference:+.1f} points{interval}, mean absolute error {self.absolute_error:.1f}, "
            f"Spearman {rank}{'' if self.alpha is None else f', Krippendorff alpha {self.alpha:.2f}'}."
        )


def read(path: Path) -> list[Calibration]:
    """The entries of a file, none where there is no file. Raises ValueError where it is not readable."""
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text("utf-8"))
        if found["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {found['schema_version']}, not {SCHEMA_VERSION}")
        return [Calibration.model_validate(entry) for entry in found["entries"]]
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no calibration file ({str(error).splitlines()[0]})") from error


def write(path: Path, entries: Iterable[Calibration]) -> None:
    """Replace a file by these entries, whole or not at all."""
    rows = [entry.model_dump(mode="json") for entry in entries]
    text = json.dumps({"schema_version": SCHEMA_VERSION, "entries": rows}, indent=2, ensure_ascii=False)
    write_text(path, text + "\n")


def merge(old: Iterable[Calibration], new: Iterable[Calibration]) -> list[Calibration]:
    """All entries; of those with the same key the new one."""
    return list({entry.key: entry for entry in [*old, *new]}.values())


def entries(folder: Path) -> list[Calibration]:
    """What a run's folder knows of its judge; nothing where it has no calibration, or none that can be read."""
    try:
        return read(folder / NAME)
    except ValueError:
        return []


def sentences(folder: Path) -> list[str]:
    """What the report of a run says of its judge's calibration; nothing where it has none."""
    try:
        return [entry.sentence for entry in read(folder / NAME)]
    except ValueError:
        return [f"{NAME} cannot be read, so the judge's calibration is not known."]
