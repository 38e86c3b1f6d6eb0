"""A run's folder, kept up to date: records and report are written from what is finished, where that changed."""

import os
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.records.beside import write_beside
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.store.artifacts import DamagedError
from esft_bench.harness.store.keys import Code
from esft_bench.harness.store.leases import Lease
from esft_bench.harness.store.notes import Notes
from esft_bench.reports import inputs
from esft_bench.reports.forms import write_if_changed
from esft_bench.spec.cell import Cell
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, digest_of_file, digest_of_text, remove

NOTE = ".records"
"""The note of what the records are made of, and of what they are."""
RECORDS = ("results.*", "routing.json", "curves.jsonl", "tuning.jsonl", "opinions.jsonl", "items/*", "lm_eval/*")
CODE = Code(("esft_bench.harness.records.all",))
FIRST = 3.0
"""Seconds that a report is taken to need before there was one: another process imports what draws tables."""


class Written:
    """Writes a run's folder, with what of the plan is finished; several runs may be at work on it."""

    def __init__(self, plan: Plan, graph: Graph, folder: Path) -> None:
        self.folder = folder
        self._plan, self._graph = plan, graph
        self._notes = Notes(folder, graph.store.news)
        self._claim = f"run-{folder.name}"
        self._last, self._took = time.monotonic(), FIRST

    def alone(self) -> AbstractContextManager[None]:
        """Keep every other run of this folder from writing into it, once none does."""
        return self._graph.store.leases.held(self._claim)

    def refresh(self, failures: Mapping[Cell, str]) -> None:
        """Write records and report, with all figures, unless they are there, whole and made of the very same.

        Raises UserError where what a step measured cannot be read any more.
        """
        told, noted = self._told(failures), self._notes.read(NOTE) or {}
        same = noted.get("made_of") == told
        lost = [name for name, digest in noted.get("files", {}).items() if self._lost(name, digest, say=same)]
        if not same or lost:
            try:
                self._write_records(failures)
            except DamagedError as error:
                raise UserError(f"{error}: run the same command again, which makes it anew.") from error
            self._notes.write(NOTE, {"made_of": told, "files": self._files()})
        self._graph.store.news += inputs.damaged(self.folder)
        write_if_changed(self.folder)

    def _lost(self, name: str, digest: str, *, say: bool) -> bool:
        """Whether a file is not what was written; one that is there is removed, and that is said where it is news."""
        path = self.folder / name
        if path.is_file() and not path.is_symlink() and digest_of_file(path) == digest:
            return False
        if os.path.lexists(path):
            self._graph.store.news += [f"Damaged: {path} is not what was written; it is written again."] if say else []
            remove(path)
        return True

    def _files(self) -> dict[str, str]:
        """The files that are records, and their digests."""
        there = (path for pattern in RECORDS for path in sorted(self.folder.glob(pattern)))
        return {path.relative_to(self.folder).as_posix(): digest_of_file(path) for path in there}

    def refresh_now_and_then(self, failures: Mapping[Cell, str]) -> None:
        """Keep the report of a run at work fresh, at no more than a twentieth of its time, and without figures.

        Records are written here, the report is by another process, which is not waited for. Nothing is written where
        another run of this folder is writing.
        """
        if time.monotonic() - self._last < 20 * self._took:
            return
        if (lease := self._graph.store.leases.claim(self._claim)) is None:
            return
        began = time.monotonic()
        try:
            self._write_records(failures, copies=False)
        except DamagedError:  # who uses it makes it again; else it is said when the last report is written
            lease.release()
        except BaseException:
            lease.release()
            raise
        else:
            threading.Thread(target=self._report, args=(lease, began), daemon=True).start()
        self._noted(began)

    def _report(self, lease: Lease, began: float) -> None:
        """See the report written, and then let others write."""
        try:
            write_beside(self.folder)
        finally:
            self._noted(began)
            lease.release()

    def _noted(self, began: float) -> None:
        """How long it took, up to now."""
        self._last, self._took = time.monotonic(), time.monotonic() - began

    def _write_records(self, failures: Mapping[Cell, str], *, copies: bool = True) -> None:
        from esft_bench.harness.records.all import write_records  # here: it takes seconds to import

        remove(self.folder / f"{NOTE}.json")
        write_records(self._plan, self._graph, self.folder, failures, copies=copies)

    def _told(self, failures: Mapping[Cell, str]) -> str:
        """A digest of all that records are made of."""
        artifacts = sorted(f"{made.name} {made.seal}" for made in self._graph.artifacts.values())
        failed = sorted((cell.label, why) for cell, why in failures.items())
        suite = self._plan.suite.model_dump(mode="json")
        return digest_of_text(canonical([suite, artifacts, failed, CODE.sources()]))
