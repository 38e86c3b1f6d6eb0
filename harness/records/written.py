"""What a run's folder says, written from what is finished: records, curves, routing and report; only what changed."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.store.keys import Code
from esft_bench.spec.cell import Cell
from esft_bench.spec.files import canonical, digest_of_files, digest_of_text, write_json

FILE = ".written.json"
CODE = Code(("esft_bench.harness.records.all", "esft_bench.reports.forms"), ("matplotlib", "scipy", "pandas"))


class Written:
    """Keeps a run's folder up to date."""

    def __init__(self, plan: Plan, graph: Graph, folder: Path) -> None:
        self.folder = folder
        self._plan, self._graph = plan, graph
        self._last = self._took = 0.0

    def refresh(self, failures: Mapping[Cell, str]) -> None:
        """Write records and report, with all figures, unless the folder's are made of the very same."""
        told = self._told(failures)
        noted = self._noted()
        if noted.get("made_of") == told and all((self.folder / name).exists() for name in noted["files"]):
            return
        self._write(failures, draw=True)
        files = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        write_json(self.folder / FILE, {"made_of": told, "files": files})

    def refresh_now_and_then(self, failures: Mapping[Cell, str]) -> None:
        """Keep the report of a run at work fresh, at no more than a twentieth of its time, and without figures."""
        if time.monotonic() - self._last > 20 * self._took:
            self._write(failures, draw=False)

    def _write(self, failures: Mapping[Cell, str], *, draw: bool) -> None:
        from esft_bench.harness.records.all import write_all  # here: what draws takes seconds to import

        began = time.monotonic()
        write_all(self._plan, self._graph, self.folder, failures, draw=draw)
        self._last, self._took = time.monotonic(), time.monotonic() - began

    def _told(self, failures: Mapping[Cell, str]) -> str:
        """A digest of all that records and report are made of."""
        artifacts = sorted(f"{made.name} {made.digest} {made.measured}" for made in self._graph.artifacts.values())
        files = [path for name in ("manifest.json", "calibration.json") if (path := self.folder / name).exists()]
        failed = sorted((cell.label, why) for cell, why in failures.items())
        beside = digest_of_files(files, self.folder)
        suite = self._plan.suite.model_dump(mode="json")
        return digest_of_text(canonical([suite, artifacts, failed, beside, CODE.sources(), CODE.versions()]))

    def _noted(self) -> dict[str, Any]:
        """What the folder's files are made of, and which they are."""
        try:
            return dict(json.loads((self.folder / FILE).read_text("utf-8")))
        except (OSError, ValueError):
            return {}
