"""A run's manifest: which suite it describes."""

from pathlib import Path

from esft_bench.harness.manifest import FILE, is_of, write
from esft_bench.spec.suite_file import load


def test_a_manifest_is_that_of_its_suite_and_of_no_other(tmp_path: Path) -> None:
    path, suite = tmp_path / FILE, load("mini")
    assert not is_of(path, suite)
    write(path, suite, command="esft-bench run")
    assert is_of(path, load("mini"))
    assert not is_of(path, load("mini", ["same_within=3"]))
    path.write_text("{damaged", encoding="utf-8")
    assert not is_of(path, suite)
