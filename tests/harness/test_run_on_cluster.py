"""The whole path on a cluster: two nodes of one core give what one machine gives."""

import json
import os
import subprocess
from pathlib import Path

import pandas
import pytest

pytest.importorskip("ray")

from tests.harness.nodes import cluster
from tests.harness.runs import artifacts, command


@pytest.fixture
def address():
    made = cluster(2)
    yield made.address
    made.shutdown()


def digests(folder: Path) -> dict[str, str]:
    """What each artifact holds, by its kind and key."""
    store = folder / "runs" / ".store"
    return {name: json.loads((store / name / "manifest.json").read_text())["digest"] for name in artifacts(folder)}


@pytest.mark.slow
def test_a_run_on_two_nodes_gives_what_one_machine_gives(address, tmp_path):
    for name, more in (("here", ("--on", "local")), ("there", ("--on", "ray"))):
        folder = tmp_path / name
        folder.mkdir()
        environment = os.environ | {"RAY_ADDRESS": address}
        arguments = command(folder, "transformers", "--steps", "4", *more)
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    here, there = (digests(tmp_path / name) for name in ("here", "there"))
    assert here == there
    scores = [
        pandas.read_csv(next((tmp_path / name / "runs").glob("path*/results.csv"))).query("role != 'cost'").value
        for name in ("here", "there")
    ]
    assert scores[0].tolist() == scores[1].tolist()
