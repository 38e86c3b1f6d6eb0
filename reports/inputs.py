"""What a report is made of, as one digest: all that it reads in a run folder, and the code that reads and draws it.

Of the manifest everything counts but when the run was started and finished. Imports nothing that computes.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from esft_bench.spec.results import write_text

FILE = ".report.json"
READ = (
    "results.jsonl",
    "curves.jsonl",
    "tuning.jsonl",
    "routing.json",
    "opinions.jsonl",
    "calibration.json",
    "items/*.jsonl",
)
FIGURES = "figures"
MADE = ("report.md", "report.html", "equal_gain.csv")
MANIFEST = "manifest.json"
TIMES = ("started", "finished")
LIBRARIES = ("jinja2", "matplotlib", "numpy", "scipy")
"""What else a report's bytes depend on."""
PACKAGE = Path(__file__).parent
SPEC = PACKAGE.parent / "spec"
SOURCES = (".py", ".jinja", ".css", ".js", ".yaml")


def digest(run_folder: Path) -> str:
    """SHA-256 over the names and contents of everything that a run's report depends on."""
    total = hashlib.sha256(_code().encode())
    for name, content in _inputs(run_folder):
        total.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\0".encode())
    return total.hexdigest()


def remembered(run_folder: Path) -> str:
    """The digest of the inputs that the reports in the folder were made of; empty where it is not known.

    Nor is it where a report is not what was written.
    """
    noted = _noted(run_folder)
    return noted["inputs"] if noted and noted["made"] == _made(run_folder) else ""


def damaged(run_folder: Path) -> list[str]:
    """A sentence for each report or figure that is there and is not what was written."""
    noted, made = _noted(run_folder), _made(run_folder)
    if noted is None:
        there = (run_folder / FILE).exists()
        return [f"Damaged: {run_folder / FILE} cannot be read; the report is written again."] if there else []
    wrong = [name for name, digest in noted["made"].items() if made.get(name, digest) != digest]
    return [f"Damaged: {run_folder / name} is not what was written; it is written again." for name in wrong]


def remember(run_folder: Path, made_of: str) -> None:
    """Note which inputs the reports in the folder were made of, and what they are."""
    write_text(run_folder / FILE, json.dumps({"inputs": made_of, "made": _made(run_folder)}) + "\n")


def forget(run_folder: Path) -> None:
    """Note that the reports in the folder are being written, and make way for them."""
    if os.path.lexists(run_folder / FIGURES) and not (run_folder / FIGURES).is_dir():
        (run_folder / FIGURES).unlink()
    for path in (*(run_folder / name for name in (FILE, *MADE)), *(run_folder / FIGURES).glob("*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    write_text(run_folder / FILE, json.dumps({"inputs": "", "made": {}}) + "\n")


def _noted(run_folder: Path) -> dict[str, Any] | None:
    """What is noted; None where nothing is, or not in this form."""
    try:
        noted = json.loads((run_folder / FILE).read_text("utf-8"))
        sound = isinstance(noted["inputs"], str) and isinstance(noted["made"], dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return dict(noted) if sound else None


def _made(run_folder: Path) -> dict[str, str]:
    """The reports and figures in the folder, and digests of them."""
    there = (*(run_folder / name for name in MADE), *sorted((run_folder / FIGURES).glob("*")))
    return {path.relative_to(run_folder).as_posix(): _digest_of(path) for path in there if os.path.lexists(path)}


def _digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""


def _inputs(run_folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names, relative to the run folder, and contents."""
    for pattern in READ:
        for path in sorted(run_folder.glob(pattern)):
            yield path.relative_to(run_folder).as_posix(), path.read_bytes()
    manifest = run_folder / MANIFEST
    if manifest.is_file():
        yield MANIFEST, _without_times(manifest.read_bytes())


def _without_times(manifest: bytes) -> bytes:
    """A manifest without its times; as it is where it cannot be read. Whether the run has ended stays."""
    try:
        found = json.loads(manifest)
        kept = {key: bool(value) if key in TIMES else value for key, value in found.items()}
    except (ValueError, AttributeError):
        return manifest
    return json.dumps(kept, sort_keys=True).encode()


@cache
def _code() -> str:
    """A digest of the sources of this package and of spec/, and of the libraries' versions."""
    total = hashlib.sha256()
    for path in [*sorted(PACKAGE.rglob("*")), *sorted(SPEC.glob("*.py"))]:
        if path.suffix in SOURCES:
            total.update(f"{path.name}\0".encode() + path.read_bytes())
    for name in LIBRARIES:
        total.update(f"{name} {importlib.metadata.version(name)}\0".encode())
    return total.hexdigest()
