"""A whole run on vLLM servers that others run: the records of one on a server of our own."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from esft_bench.harness.serving.server import Settings, VllmServer, choose_port
from esft_bench.tasks.mini import BACKBONE
from tests.harness.runs import SUITE, artifacts, finish

ROWS = "  base: {title: Base}\n  esft-token: {title: ESFT-Token, learning_rate: 1.1e-2, p: 0.2}\n"
HEAD, _, REST = SUITE.partition("  base:")
SMALL = HEAD + ROWS + REST.partition("ablates: esft-token}\n")[2].replace("steps: 60", "steps: 10")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[VllmServer]]:
    """Two servers with our worker extension."""
    pytest.importorskip("vllm")
    logs = tmp_path_factory.mktemp("servers")
    with ExitStack() as stack:
        yield [
            stack.enter_context(VllmServer(BACKBONE, logs / f"{n}.log", Settings(max_length=512), choose_port(None)))
            for n in range(2)
        ]


def run(folder: Path, evaluation: str) -> list[dict[str, Any]]:
    """A run's records of tests."""
    (folder / "path.yaml").write_text(SMALL.replace("engine: ENGINE", evaluation))
    command = [sys.executable, "-m", "esft_bench.harness.cli", "run", str(folder / "path.yaml")]
    done = finish([*command, "--run-dir", str(folder / "runs")])
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folder / "runs" / "path" / "results.jsonl").read_text().splitlines()
    return [each for each in map(json.loads, lines) if each["benchmark"]]


@pytest.mark.slow
def test_servers_of_others_give_the_records_of_our_own(servers: list[VllmServer], tmp_path: Path) -> None:
    (theirs := tmp_path / "theirs").mkdir()
    (ours := tmp_path / "ours").mkdir()
    found = run(theirs, f"endpoints: [{', '.join(each.url for each in servers)}]")
    expected = run(ours, "engine: vllm")
    assert found == expected
    assert any(each["value"] for each in found)
    assert artifacts(theirs).keys() == artifacts(ours).keys()  # where a model is served is in no key
    assert _started(theirs) == 2  # cells, or a cell's benchmarks, went to both
    assert _started(ours) <= 1  # none where it was started beside the trainings


def _started(folder: Path) -> int:
    manifests = (folder / "runs" / ".store" / "answers").glob("*/manifest.json")
    return sum(json.loads(path.read_text())["measured"]["loaded"] == "start" for path in manifests)
