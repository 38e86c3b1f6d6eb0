"""What a report is made of, as one digest: all that it reads in a run folder, and the code that reads and draws it.

Of the manifest everything counts but when the run was started and finished. Imports nothing that computes.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from esft_bench.spec.results import write_text

FILE = ".report.json"
READ = ("results.jsonl", "curves.jsonl", "routing.json", "calibration.json", "items/*.jsonl")
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
    """The digest of the inputs that the reports in the folder were made of; empty where it is not known."""
    try:
        return str(json.loads((run_folder / FILE).read_text("utf-8"))["inputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def remember(run_folder: Path, made_of: str) -> None:
    """Note which inputs the reports in the folder were made of."""
    write_text(run_folder / FILE, json.dumps({"inputs": made_of}) + "\n")


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
