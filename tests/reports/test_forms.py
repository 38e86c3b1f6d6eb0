"""Reports are written again where something that they are made of changed, and nowhere else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from esft_bench.reports import inputs
from esft_bench.reports.forms import write_if_changed, write_reports
from tests.reports.conftest import MadeUpRun

CHECK = """
import sys
from pathlib import Path
from esft_bench.reports.forms import write_if_changed
assert not write_if_changed(Path(sys.argv[1]))
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run whose reports are written."""
    folder = tmp_path_factory.mktemp("run")
    made = MadeUpRun(methods=["base", "fft"], tasks={"law": "Law"}, general={"facts": "Facts"})
    made.items = made.general_items = 10
    made.build(folder)
    assert write_if_changed(folder)
    return folder


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_a_second_time_nothing_is_written_and_nothing_is_imported_that_computes(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = subprocess.run([sys.executable, "-c", CHECK, str(run)], capture_output=True, text=True, check=True)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert not {"jinja2", "matplotlib", "numpy", "pandas", "scipy", "torch"} & set(done.stdout.split())


def test_times_alone_are_no_reason_and_everything_else_is(run: Path) -> None:
    manifest, items = run / "manifest.json", next(run.glob("items/*.jsonl"))
    edited(manifest, started="2031-01-01T00:00:00Z", finished="2031-01-01T00:01:00Z")
    assert not write_if_changed(run)
    edited(manifest, notes=["Another note."])
    assert write_if_changed(run)
    assert "Another note." in (run / "report.md").read_text(encoding="utf-8")
    items.write_text(items.read_text(encoding="utf-8").replace('"prompt":""', '"prompt":"?"'), encoding="utf-8")
    assert write_if_changed(run)
    (run / "curves.jsonl").write_text("")
    assert write_if_changed(run)
    assert not write_if_changed(run)


def test_a_report_that_is_gone_is_written_again(run: Path) -> None:
    (run / "report.html").unlink()
    assert write_if_changed(run)
    assert (run / "report.html").is_file()


def test_other_code_writes_other_reports(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not write_if_changed(run)
    monkeypatch.setattr(inputs, "_code", lambda: "other code")
    assert write_if_changed(run)


def test_a_report_written_on_the_way_has_no_figures_and_is_not_the_last(run: Path) -> None:
    write_reports(run, draw=False)
    assert "](figures/" not in (run / "report.md").read_text(encoding="utf-8")
    assert write_if_changed(run)
    assert "](figures/" in (run / "report.md").read_text(encoding="utf-8")


def test_a_manifest_that_cannot_be_read_is_a_manifest_too(run: Path) -> None:
    (run / "manifest.json").write_text("{half")
    assert write_if_changed(run)
    assert not write_if_changed(run)
