"""A run's folder, kept up to date: records and report are written from what is finished, where that changed."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.store.keys import Code
from esft_bench.reports.forms import write_if_changed, write_reports
from esft_bench.spec.cell import Cell
from esft_bench.spec.files import canonical, digest_of_text, write_json

FILE = ".records.json"
CODE = Code(("esft_bench.harness.records.all",))


class Written:
    """Writes a run's folder, with what of the plan is finished."""

    def __init__(self, plan: Plan, graph: Graph, folder: Path) -> None:
        self.folder = folder
        self._plan, self._graph = plan, graph
        self._last = self._took = 0.0

    def refresh(self, failures: Mapping[Cell, str]) -> None:
        """Write records and report, with all figures, unless they are there and made of the very same."""
        told, noted = self._told(failures), self._noted()
        if noted.get("made_of") != told or not all((self.folder / name).exists() for name in noted["files"]):
            self._write_records(failures)
            files = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
            write_json(self.folder / FILE, {"made_of": told, "files": sorted(path.as_posix() for path in files)})
        write_if_changed(self.folder)

    def refresh_now_and_then(self, failures: Mapping[Cell, str]) -> None:
        """Keep the report of a run at work fresh, at no more than a twentieth of its time, and without figures."""
        if time.monotonic() - self._last < 20 * self._took:
            return
        began = time.monotonic()
        self._write_records(failures)
        write_reports(self.folder, draw=False)
        self._last, self._took = time.monotonic(), time.monotonic() - began

    def _write_records(self, failures: Mapping[Cell, str]) -> None:
        from esft_bench.harness.records.all import write_records  # here: it takes seconds to import

        write_records(self._plan, self._graph, self.folder, failures)

    def _told(self, failures: Mapping[Cell, str]) -> str:
        """A digest of all that records are made of."""
        artifacts = sorted(f"{made.name} {made.digest} {made.measured}" for made in self._graph.artifacts.values())
        failed = sorted((cell.label, why) for cell, why in failures.items())
        suite = self._plan.suite.model_dump(mode="json")
        return digest_of_text(canonical([suite, artifacts, failed, CODE.sources()]))

    def _noted(self) -> dict[str, Any]:
        """What the folder's records are made of, and the files that were there then."""
        try:
            return dict(json.loads((self.folder / FILE).read_text("utf-8")))
        except (OSError, ValueError):
            return {}
