"""Calibrating a judge on the released completions, made up here and, where they are, the real ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from esft_bench.harness import cli
from esft_bench.harness.judge import make_judge
from esft_bench.harness.official import calibrate
from esft_bench.reports import calibration
from esft_bench.reports.calibration import Calibration
from esft_bench.spec.errors import UserError
from esft_bench.spec.judge import JudgeSettings
from esft_bench.tasks.task import Rubric, Task
from tests.harness.judge_server import MakeJudge, Response, Server, answer_in, gives

RUBRIC = Rubric("Does it say the same?")
TASKS = {name: Task(name, name, "ability", metric="bypass", rubric=RUBRIC) for name in calibrate.TASKS.values()}
REAL = Path(__file__).parents[3] / "shared" / "data" / "esft_official"


def release(folder: Path, scores: dict[str, list[float]]) -> Path:
    """A made-up release: translations by ESFT-Token and ESFT-Gate with stored scores."""
    for method, stored in scores.items():
        path = folder / "completions" / method / "translation.jsonl"
        path.parent.mkdir(parents=True)
        rows = [
            {
                "example": {
                    "prompt": f"User: question {place}\n\nAssistant:",
                    "raw_prediction": f" {method} {place}",
                    "raw_answers": ["the reference"],
                },
                "score": score,
            }
            for place, score in enumerate(stored)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_judge_is_compared_with_the_stored_scores_item_by_item(
    server: Server, judge: MakeJudge, tmp_path: Path
) -> None:
    ours = {"token 0": 2, "token 1": 5, "token 2": 9, "gate 0": 4, "gate 1": 5, "gate 2": 10}
    server.respond = lambda number, body: gives(ours[answer_in(body)])
    official = release(tmp_path / "release", {"token": [0.1, 0.5, 0.8], "gate": [0.2, 0.7, 0.9]})
    [entry] = calibrate.calibrate(official, judge(), TASKS)
    assert (entry.title, entry.answers, entry.scored, entry.items) == ("translation-chren-fewshot", 6, 6, 3)
    # differences token +10 0 +10, gate +20 −20 +10: items +15 −10 +10
    assert entry.difference == pytest.approx(5)
    assert entry.absolute_error == pytest.approx(70 / 6)
    assert entry.low is not None
    assert entry.high is not None
    assert (entry.low + entry.high) / 2 == pytest.approx(5)
    assert entry.high - entry.difference == pytest.approx(4.3026527 * 13.2287566 / 3**0.5)
    assert entry.spearman == pytest.approx(0.98561, abs=1e-4)  # ranks 1 3.5 5 2 3.5 6 against 1 3 5 2 4 6
    assert server.requests[0]["messages"][1]["content"].count("question 0") == 1
    assert "User:" not in server.requests[0]["messages"][1]["content"]


def test_an_answer_that_could_not_be_judged_is_left_out_and_counted(
    server: Server, judge: MakeJudge, tmp_path: Path
) -> None:
    def respond(number: int, body: dict[str, Any]) -> Response:
        return (400, {}, "{}") if answer_in(body) == "token 1" else gives(5)

    server.respond = respond
    [entry] = calibrate.calibrate(release(tmp_path / "r", {"token": [0.5, 0.9, 0.6]}), judge(), TASKS)
    assert (entry.answers, entry.scored, entry.difference) == (3, 2, pytest.approx(-5))
    assert entry.spearman is None, "there is no rank where every score is the same"
    assert "3 released answers (2 of them scored)" in entry.sentence
    assert "Spearman not defined" in entry.sentence


def test_a_judge_that_cannot_be_asked_at_all_is_a_sentence(server: Server, judge: MakeJudge, tmp_path: Path) -> None:
    server.respond = lambda number, body: (500, {}, "{}")
    with pytest.raises(UserError, match="could score none of 1 answers"):
        calibrate.calibrate(release(tmp_path / "r", {"token": [0.5]}), judge(), TASKS)


def test_a_folder_without_judged_completions_is_a_sentence(judge: MakeJudge, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no judged completions"):
        calibrate.calibrate(tmp_path, judge(), TASKS)


@pytest.fixture
def entry(tmp_path: Path) -> Calibration:
    reference = make_judge(JudgeSettings())
    return calibrate.calibrate(release(tmp_path / "r", {"token": [0.5, 0.2]}), reference, TASKS)[0]


def test_a_newer_calibration_of_the_same_judge_and_rubric_takes_the_place_of_the_older(
    entry: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / "calibration.json"
    other = entry.model_copy(update={"rubric": "another"})
    calibrate.keep(path, [entry, other])
    newer = entry.model_copy(update={"difference": 1.0})
    calibrate.keep(path, [newer])
    assert calibration.read(path) == [newer, other]


def test_a_file_that_is_no_calibration_is_refused_when_it_would_be_written_and_named_in_a_report(
    entry: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / calibration.NAME
    path.write_text('{"entries": [')
    with pytest.raises(UserError, match=r"calibration\.json is no calibration file"):
        calibrate.keep(path, [entry])
    assert calibration.sentences(tmp_path) == [
        "calibration.json cannot be read, so the judge's calibration is not known."
    ]


def test_without_a_key_the_command_ends_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("sys.argv", ["esft-bench", "judge", "calibrate", "--official", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("esft-bench: No key in OPENAI_API_KEY")


@pytest.mark.skipif(not (REAL / "completions").is_dir(), reason="skipped, no data")
def test_likeness_to_the_reference_ranks_translations_somewhat_as_gpt_4_did_and_scores_them_lower() -> None:
    [entry] = calibrate.calibrate(REAL, make_judge(JudgeSettings()), TASKS)
    assert (entry.answers, entry.scored, entry.items) == (200, 200, 100)
    assert entry.spearman is not None
    assert 0.4 < entry.spearman < 0.6
    assert entry.high is not None
    assert entry.high < 0, "chrF is lower than the judge throughout"
