"""The whole path on a cluster: two nodes of one core give what one machine gives, also where the first cluster dies."""

import json
import os
import subprocess
import time
from pathlib import Path

import pandas
import pytest

pytest.importorskip("ray")

from tests.harness.nodes import cluster, kill
from tests.harness.runs import SUITE, artifacts, command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROWS = ("fft", "random-token")
"""Rows of the suite that show nothing here."""
SMALL = "\n".join(line for line in SUITE.splitlines() if not line.strip().startswith(ROWS))


def digests(folder: Path) -> dict[str, str]:
    """What each artifact holds, by its kind and key."""
    store = folder / "runs" / ".store"
    return {name: json.loads((store / name / "manifest.json").read_text())["digest"] for name in artifacts(folder)}


def begin(folder: Path, where: str, address: str = "") -> subprocess.Popen[str]:
    """Begin a run in a folder."""
    folder.mkdir(exist_ok=True)
    arguments = command(folder, "transformers", "--steps", "4", "--on", where)
    (folder / "path.yaml").write_text(SMALL.replace("ENGINE", "transformers"))
    environment = os.environ | {"RAY_ADDRESS": address}
    return subprocess.Popen(arguments, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def check_ends_well(run: subprocess.Popen[str]) -> None:
    said, complaints = run.communicate(timeout=280)
    assert (run.returncode, complaints) == (0, ""), said


def test_a_run_on_two_nodes_gives_what_one_machine_gives_though_its_first_cluster_lost_its_head(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    check_ends_well(begin(here, "local"))
    first = cluster(2)
    run = begin(there, "ray", first.address)
    deadline = time.monotonic() + 280
    while not artifacts(there):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    first.head_node.all_processes["gcs_server"][0].process.kill()
    _, complaints = run.communicate(timeout=120)
    assert run.returncode == 2
    assert complaints.startswith("esft-bench: The Ray cluster's head has not answered for 40 seconds: ")
    assert complaints.count("\n") == 1
    finished = artifacts(there)
    for node in first.list_all_nodes():
        kill(node)
    second = cluster(2)
    check_ends_well(begin(there, "ray", second.address))
    second.shutdown()
    assert finished.items() <= artifacts(there).items()
    assert digests(here) == digests(there)
    scores = [
        pandas.read_csv(next((folder / "runs").glob("path*/results.csv"))).query("role != 'cost'").value
        for folder in (here, there)
    ]
    assert scores[0].tolist() == scores[1].tolist()
