"""A judge within a run: its budget, its costs in the report, its batches, and the key that must appear nowhere."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from esft_bench.harness.commands.options import RunOptions
from esft_bench.harness.commands.run import execute
from esft_bench.harness.judge.calibrations import default_file, identity
from esft_bench.harness.judge.question import rubric_key
from esft_bench.harness.official.calibrate import keep
from esft_bench.harness.terminal import Terminal
from esft_bench.reports import calibration
from esft_bench.spec import opinions
from esft_bench.spec.judge import JudgeSettings
from tests.harness.judge_server import KEY, Response, Server, answer_in, gives
from tests.harness.plans import prepared

SUITE = """\
name: judged
tasks: [mini-law]
methods:
  base: {title: Base}
evaluation: {engine: transformers, max_length: 512, limit: 6}
judge: {kind: openai, model: the-judge, base_url: URL, key_env: JUDGE_KEY, cache: CACHE,
        price: {input: 0, output: 1000}, max_tokens: 1000, backoff: 0.01, poll: 0.02, retries: 1, MORE}
"""
Run = Callable[[str], tuple[int, str, Path]]


@pytest.fixture
def run(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the suite with more settings of its judge: the cells that failed, what was printed, the run's folder."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def once(more: str) -> tuple[int, str, Path]:
        text = SUITE.replace("URL", server.url).replace("CACHE", str(tmp_path / "j.sqlite")).replace("MORE", more)
        printed = io.StringIO()
        console = Terminal(file=printed, width=200)
        failed = execute(prepared(tmp_path, text), RunOptions(workers=1), console, "esft-bench run judged.yaml")
        return len(failed), printed.getvalue(), tmp_path / "runs" / "judged"

    return once


@pytest.mark.slow
def test_a_run_whose_budget_is_spent_says_so_and_goes_on_with_a_higher_one(server: Server, run: Run) -> None:
    refusal = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})
    server.respond = lambda number, body: (401, {}, refusal) if number == 1 else gives(6)
    failed, printed, folder = run("concurrency: 1, budget: 1.004")  # a reply costs 0.2 cents, at most 1 dollar
    assert failed == 1
    assert "could not be judged" in printed
    assert "with more the same command goes on" in printed
    report = (folder / "report.md").read_text()
    assert r"The judge's budget of \$1.004 is spent" in report
    asked = server.paid.total()
    assert 1 <= asked < 6
    frame = pandas.read_csv(folder / "results.csv")
    assert frame[frame.metric == "judge"].scored.item() == asked

    failed, printed, folder = run("concurrency: 1, budget: 5")
    assert (failed, server.paid.total()) == (0, 6)
    values = pandas.read_csv(folder / "results.csv").set_index("metric").value
    assert values["judge"] == pytest.approx(60)
    assert values["judge_requests"] == 6
    assert values["judge_tokens_in"] == 30
    assert values["judge_tokens_out"] == 12
    assert values["judge_dollars"] == pytest.approx(0.012)
    report = (folder / "report.md").read_text()
    assert "Tokens read, k" in report
    assert "budget" not in report.partition("## Notes")[2]

    assert server.keys == {f"Bearer {KEY}"}
    holding = [path for path in folder.parent.parent.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holding == [], "the key was written"
    assert KEY not in printed


@pytest.mark.slow
def test_a_run_judges_by_batches_and_carries_its_judges_calibration(server: Server, run: Run, tmp_path: Path) -> None:
    server.respond = lambda number, body: gives(7)
    failed, _, folder = run("batch: true")
    assert (failed, len(server.batches), len(server.requests)) == (0, 1, 6)
    assert not (folder / calibration.NAME).exists()
    one = prepared(tmp_path, (tmp_path / "suite.yaml").read_text())
    rubric = one.plan.tasks["mini-law"].rubric
    assert rubric
    known = calibration.Calibration(
        judge="the-judge",
        identity=identity(one.judges.first),
        rubric=rubric_key(rubric),
        **{"task": "mini-law", "title": "Law", "against": "gpt-4", "answers": 2, "scored": 2, "items": 2},
        **{"difference": 10, "low": -1, "high": 21, "absolute_error": 12, "spearman": 0.5, "made": "today"},
        **{"alpha": 0.25, "standard_error": 2.0},
    )
    keep(default_file(), [known, known.model_copy(update={"identity": "of another judge"})])
    assert run("batch: true")[0] == 0
    assert calibration.read(folder / calibration.NAME) == [known.model_copy(update={"benchmarks": ["mini-law"]})]
    report = (folder / "report.md").read_text()
    assert known.sentence.partition("[")[0] in report
    assert "Agreement of the judge with gpt-4 on released answers: Law alpha 0.25, Spearman 0.50." in report
    table = report.partition("On the scale of gpt-4")[2]
    assert "60.0 [56.1, 63.9]" in table.replace("**", ""), "70 − 10, and 1.96 standard errors of the difference"


@pytest.mark.slow
def test_a_second_judge_and_the_probes_stand_beside_the_scores_and_change_none(server: Server, run: Run) -> None:
    def respond(number: int, body: dict[str, Any]) -> Response:
        first = body["messages"][1]["content"]
        doubled = "\n\n" in answer_in(body) if "Answer" in first or "待评" in first else False
        return gives(4 if body["model"] == "another" else 9 if doubled else 6)

    server.respond = respond
    second = f"{{kind: openai, model: another, base_url: {server.url}, key_env: JUDGE_KEY}}"
    failed, _, folder = run(f"probes: 2, second: {second}")
    assert failed == 0
    found = {one.kind: one for one in opinions.read(folder)}
    assert set(found) == {"second", "order", "verbosity"}
    assert [further for _, _, further in found["second"].scores] == [40.0] * 6
    assert len(found["order"].scores) == len(found["verbosity"].scores) == 2
    assert [shown for _, shown, _ in found["second"].scores] == [60.0] * 6
    values = pandas.read_csv(folder / "results.csv").set_index("metric").value
    assert values["judge"] == pytest.approx(60)
    report = (folder / "report.md").read_text()
    assert "## How far the judge can be trusted" in report
    assert "another and the-judge on 6 answers" in report
    asked = len(server.requests)
    assert run(f"probes: 2, second: {second}")[0] == 0
    assert len(server.requests) == asked, "nothing is asked twice"


def test_a_second_judge_that_is_the_first_is_refused() -> None:
    with pytest.raises(ValueError, match="the same judge once more"):
        JudgeSettings.model_validate({"kind": "openai", "model": "m", "second": {"kind": "openai", "model": "m"}})
