"""A run folder, read: what every form of the report writes, and nothing else."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esft_bench.reports import calibration, manifest
from esft_bench.reports.backbone_report import BackboneReport
from esft_bench.reports.backbone_results import BackboneResults
from esft_bench.reports.comparisons import Families
from esft_bench.reports.manifest import Manifest
from esft_bench.reports.prose.judged import opinions_in_words
from esft_bench.reports.prose.spent import spent
from esft_bench.reports.tables.equal_gain import LINE
from esft_bench.reports.tables.view import TableView
from esft_bench.spec import opinions
from esft_bench.spec.record import Record
from esft_bench.spec.results import read as read_results

FACTS = ("git", "versions", "hardware", "seeds", "started", "finished", "states")
"""Of the manifest, what a report repeats word for word."""


@dataclass(frozen=True)
class Content:
    """A run folder, read. `left_out` says what is missing or was not sound, a sentence each."""

    folder: Path
    manifest: Manifest
    backbones: Sequence[BackboneReport]
    left_out: Sequence[str]

    @property
    def records(self) -> list[Record]:
        """All records that were read, further points of curves among them."""
        return [record for one in self.backbones for record in one.results.every]

    @property
    def of_rows(self) -> list[Record]:
        """The records of the rows themselves, without further points of their curves."""
        return [record for record in self.records if record.is_row]

    @property
    def title(self) -> str:
        """The suite's name, or the folder's."""
        return self.manifest.suite.name or self.folder.name

    @property
    def readings(self) -> str:
        """The curves of all backbones, read at equal gain, as CSV; empty where there are none."""
        lines = [[one.backbone, *line] for one in self.backbones for line in one.equal_gain.lines()]
        if not lines:
            return ""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["backbone", *LINE], *lines])
        return text.getvalue()

    @property
    def spent(self) -> list[str]:
        """What the whole run has cost."""
        return spent(self.records, self.manifest.accelerators)

    @property
    def judging(self) -> list[str]:
        """How far the judge can be trusted: beside the paper's judge and a second one, and when it is probed."""
        return [*calibration.sentences(self.folder), *opinions_in_words(opinions.read(self.folder))]

    @property
    def debiased(self) -> list[TableView]:
        """Judged columns on the scale of the paper's judge, where it is known how far ours is from that."""
        found = (one.debiased_view() for one in self.backbones)
        return [view for view in found if view is not None]

    @property
    def facts(self) -> dict[str, str]:
        """What the manifest says under each of FACTS, in one line."""
        return {key: flat(self.manifest.raw[key]) for key in FACTS if self.manifest.raw.get(key)}


def gather(folder: Path) -> Content:
    """Read a run folder. Nothing in it can stop this: what is not sound is left out and named."""
    about, complaints = manifest.read(folder)
    found = read_results(folder)
    names = list(dict.fromkeys(record.backbone for record in found.records))
    backbones = []
    families = Families()
    for name in names:
        results = BackboneResults([one for one in found.records if one.backbone == name], folder, about)
        backbones.append(BackboneReport(name, results, f" ({name})" if len(names) > 1 else "", families))
    unsound = [sentence for one in backbones for sentence in one.results.unsound()]
    return Content(folder, about, backbones, [*complaints, *found.left_out, *unsound])


def flat(value: object) -> str:
    """A value of the manifest in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {flat(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(flat(inner) for inner in value) or "none"
    return str(value)
