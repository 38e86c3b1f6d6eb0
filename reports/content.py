"""What a report says, worked out once from results and manifest, for every form that it is written in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from esft_bench.reports.advice import Advice, advise
from esft_bench.reports.paper import BesideTable, Kind, beside
from esft_bench.reports.retention import retention_table
from esft_bench.reports.samples import Sample, choose
from esft_bench.reports.scores import Role, Row, Scores
from esft_bench.reports.summary import summary
from esft_bench.reports.tables import (
    Table,
    ability_table,
    ablation_table,
    efficiency_table,
    general_table,
    judging_table,
    table_of,
)
from esft_bench.reports.words import code
from esft_bench.spec.results import LEFT_OUT, read

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Part:
    """What is to be said of one backbone."""

    backbone: str
    scores: Scores

    @cached_property
    def ability(self) -> Table:
        """Table 1."""
        return ability_table(self.scores)

    @cached_property
    def general(self) -> Table:
        """Table 2."""
        return general_table(self.scores)

    @cached_property
    def ablation(self) -> Table:
        """Table 3."""
        return ablation_table(self.scores)

    @cached_property
    def efficiency(self) -> Table:
        """What training costs."""
        return efficiency_table(self.scores)

    @cached_property
    def views(self) -> list[Table]:
        """The tables of some rows that the suite asks for, under its titles, and what earlier tasks retained."""
        asked = self.scores.suite.get("tables")
        wanted = [mapping(one) for one in asked] if isinstance(asked, list) else []
        tables = [
            table_of(
                self.scores,
                str(one.get("title") or "Some rows"),
                [str(name) for name in one.get("rows") or []],
                "general" if one.get("role") == "general" else "ability",
            )
            for one in wanted
        ]
        retained = retention_table(self.scores)
        return [*tables, *([retained] if retained else [])]

    @cached_property
    def beside(self) -> list[BesideTable]:
        """A paper's values beside ours, where the suite is that paper's."""
        paper = str(self.scores.suite.get("paper") or "")
        tables: dict[Kind, Table] = {"ability": self.ability, "general": self.general, "ablation": self.ablation}
        return beside(paper, self.scores, tables, self.backbone) if paper else []

    @cached_property
    def advice(self) -> Advice:
        """Which method to take, task by task and in sum."""
        return advise(self.scores, self.ability, self.general)

    @cached_property
    def judging(self) -> Table | None:
        """What a model's judging cost, where one judged."""
        return judging_table(self.scores)

    @cached_property
    def base(self) -> Row | None:
        """The row that is not trained."""
        return next((row for row in self.ability.rows if self.scores.is_base(row)), None)

    def table(self, role: Role) -> Table:
        """The table of a role."""
        return self.ability if role == "ability" else self.general

    @cached_property
    def samples(self) -> list[Sample]:
        """Items that say most, with every row's answer."""
        return choose(self.scores)

    @cached_property
    def in_short(self) -> list[str]:
        """The tables in plain words, escaped as `words.line` does."""
        return summary(self.scores, self.ability, self.general, self.ablation)


@dataclass(frozen=True)
class Content:
    """A run folder, read. `left_out` says what is missing or was not sound, a sentence each."""

    folder: Path
    manifest: Mapping[str, Any]
    parts: Sequence[Part]
    left_out: Sequence[str]

    @property
    def suite(self) -> dict[str, Any]:
        """The suite as the manifest has it; empty where it is not known."""
        return mapping(self.manifest.get("suite"))

    @property
    def command(self) -> str:
        """The command that made the run, fit for a code span."""
        return code(str(self.manifest.get("command") or "esft-bench run"))

    @property
    def notes(self) -> list[str]:
        """What the run itself had to remark."""
        notes = self.manifest.get("notes")
        return [str(note) for note in notes] if isinstance(notes, list) else []

    @property
    def at_work(self) -> bool:
        """True while the run has been started and not finished."""
        return bool(self.manifest.get("started")) and not self.manifest.get("finished")


def gather(folder: Path) -> Content:
    """Read a run folder. Nothing in it can stop this: what is not sound is left out and named."""
    manifest, complaints = read_manifest(folder)
    frame = read(folder)
    suite = mapping(manifest.get("suite")) | {"benchmarks": manifest.get("benchmarks")}
    names = list(dict.fromkeys(frame["backbone"]))
    parts = [Part(name, Scores(frame[frame["backbone"] == name], folder, suite)) for name in names]
    unsound = [sentence for part in parts for sentence in part.scores.unsound()]
    return Content(folder, manifest, parts, [*complaints, *frame.attrs[LEFT_OUT], *unsound])


def read_manifest(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The manifest of a run folder, and what is wrong with it."""
    try:
        return mapping(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))), []
    except OSError:
        return {}, [f"There is no {MANIFEST}: command, order of rows, versions and hardware are not known."]
    except ValueError:
        return {}, [f"{MANIFEST} is not readable: command, order of rows, versions and hardware are not known."]


def mapping(value: Any) -> dict[str, Any]:
    """A mapping as a dict; anything else as an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}
