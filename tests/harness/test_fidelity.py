"""Fidelity: the partial copy of the official release verifies, and whatever is changed in it is caught."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esft_bench.harness import cli
from esft_bench.harness.official.verify import (
    PAPER,
    Row,
    check_intent,
    check_items,
    check_judged,
    check_scores,
    check_selections,
    verify,
)
from esft_bench.spec.errors import UserError

TASKS = ("intent", "translation")


@pytest.fixture
def official(shared_data: Path, tmp_path: Path) -> Path:
    """A copy, free to be changed, of the real part of the release."""
    return Path(shutil.copytree(shared_data / "esft_official", tmp_path / "official"))


@pytest.fixture
def checkout(shared_data: Path, official: Path) -> Path:
    """The same laid out as a checkout, with the evaluation items."""
    folder = official.parent / "checkout"
    shutil.copytree(official, folder / "results")
    (folder / "datasets" / "eval").mkdir(parents=True)
    for task in TASKS:
        shutil.copy(shared_data / f"esft_{task}" / "eval.jsonl", folder / "datasets" / "eval" / f"{task}.jsonl")
    return folder


def found(rows: list[Row]) -> dict[str, tuple[str, str, str]]:
    """Published, ours and verdict by what is compared, without what is missing."""
    return {row.what: (row.published, row.ours, row.verdict) for row in rows if row.verdict != "missing"}


def change_lines(path: Path, change: Callable[[list[str]], None]) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    change(lines)
    path.write_text("\n".join(lines), encoding="utf-8")


def change_json(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def log(official: Path, layer: int) -> Path:
    return official / "expert_scores" / "translation" / f"expert_weights_{layer}.txt"


def test_the_released_configs_are_rebuilt_with_as_many_experts_as_published(official: Path) -> None:
    assert found(check_selections(official)) == {
        "intent": ("26 layers, 124 experts", "26 of 26 equal, 124 experts", "ok"),
        "translation": ("26 layers, 83 experts", "26 of 26 equal, 83 experts", "ok"),
    }


def test_the_released_scores_are_rebuilt_from_the_logs_that_are_there(official: Path) -> None:
    expected = ("26 layers, 4 decimals", "3 layers, largest gap 0.0000", "ok")
    assert found(check_scores(official)) == {"translation token": expected, "translation gate": expected}


def test_every_intent_completion_gets_its_score_and_the_means_stand_beside_the_papers(official: Path) -> None:
    rows = found(check_intent(official))
    each = ("500 stored scores", "500 of 500 equal", "ok")
    assert (rows["token, each item"], rows["gate, each item"]) == (each, each)
    assert rows["token, mean"] == ("75.6", "76.00 [72.2, 79.8], +0.40", "info")
    assert rows["gate, mean"] == ("78.6", "80.00 [76.5, 83.5], +1.40", "info")


def test_the_judges_means_are_information_beside_the_papers(official: Path) -> None:
    rows = found(check_judged(official))
    assert {what: (row[0], row[1].split()[0], row[2]) for what, row in rows.items()} == {
        "translation token": ("36.2", "38.05", "info"),
        "translation gate": ("35.2", "36.15", "info"),
    }


def test_a_checkout_is_read_like_its_results_and_its_completions_answer_its_items(
    official: Path, checkout: Path
) -> None:
    by_part = {(row.part, row.what): row for row in verify(checkout)}
    for row in verify(official):
        if row.verdict != "missing":
            assert by_part[row.part, row.what] == row
    for task in TASKS:
        count = PAPER[task].items
        for score in ("token", "gate"):
            expected = (f"{count} items", f"{count} of {count} equal", "ok")
            assert found(check_items(checkout))[f"{task} {score}"] == expected


def test_what_is_not_there_is_missing_and_never_passed(official: Path) -> None:
    shutil.rmtree(official / "completions")
    shutil.rmtree(official / "expert_scores" / "translation")
    rows = verify(official)
    assert [(row.what, row.verdict) for row in rows if row.verdict != "missing"] == [("intent", "ok")]
    assert {row.ours for row in check_intent(official)} == {"no token/intent.jsonl", "no gate/intent.jsonl"}


@pytest.mark.parametrize(
    "content", [None, "README.md", "datasets/eval/intent.jsonl"], ids=["no folder", "others", "items alone"]
)
def test_a_folder_with_nothing_to_verify_is_refused_in_one_sentence(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "official"
    if content:
        (folder / content).parent.mkdir(parents=True)
        (folder / content).write_text("")
    with pytest.raises(UserError, match=r"holds nothing to verify: give --official a checkout of deepseek-ai/ESFT"):
        verify(folder)


def test_two_swapped_experts_are_caught(official: Path) -> None:
    def swap(config: Any) -> None:
        config["experts"]["10"][:2] = reversed(config["experts"]["10"][:2])

    change_json(official / "expert_configs" / "intent.json", swap)
    _, ours, verdict = found(check_selections(official))["intent"]
    assert verdict == "differs"
    assert ours == "25 of 26 equal, 124 experts; layer 10 is [45, 33, 59, 50, 41] there, [33, 45, 59, 50, 41] here"


def test_a_layer_left_out_of_config_and_scores_alike_is_caught(official: Path) -> None:
    change_json(official / "expert_configs" / "intent.json", lambda config: config["experts"].pop("10"))
    change_json(official / "expert_scores" / "intent" / "summary.json", lambda it: it["token_scores"].pop("10"))
    assert found(check_selections(official))["intent"][1:] == ("25 of 26 equal, 119 experts", "differs")


@pytest.mark.parametrize("score", ["token", "gate"])
def test_a_changed_score_is_caught_by_the_logs_however_small(official: Path, score: str) -> None:
    def change(summary: Any) -> None:
        summary[f"{score}_scores"]["14"]["3"] += 0.0001

    change_json(official / "expert_scores" / "translation" / "summary.json", change)
    other = {"token": "gate", "gate": "token"}[score]
    rows = found(check_scores(official))
    assert rows[f"translation {score}"][1:] == ("3 layers, largest gap 0.0001", "differs")
    assert rows[f"translation {other}"][2] == "ok"


def test_a_score_that_is_no_number_is_caught(official: Path) -> None:
    def change(summary: Any) -> None:
        summary["token_scores"]["14"]["3"] = float("nan")

    change_json(official / "expert_scores" / "translation" / "summary.json", change)
    assert found(check_scores(official))["translation token"][2] == "differs"
    assert found(check_selections(official))["translation"][2] == "differs"


def cut_in_a_line(lines: list[str]) -> None:
    lines[4] = lines[4][: len(lines[4]) * 3 // 4]


def cut_a_token(lines: list[str]) -> None:
    lines[4] = "\t\t".join("\t".join(part.split("\t")[:-6]) for part in lines[4].split("\t\t"))


def cut_a_line(lines: list[str]) -> None:
    del lines[4]


def cut_everything(lines: list[str]) -> None:
    lines[:] = []


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (cut_in_a_line, "expert_weights_14.txt, line 5: not expert ids, two tabs and as many weights"),
        (cut_a_token, "expert_weights_14.txt is not about the same sequences as expert_weights_1.txt"),
        (cut_a_line, "expert_weights_14.txt is not about the same sequences as expert_weights_1.txt"),
        (cut_everything, "expert_weights_14.txt is empty"),
    ],
)
def test_a_truncated_log_is_caught_and_named(official: Path, cut: Callable[[list[str]], None], reason: str) -> None:
    change_lines(log(official, 14), cut)
    rows = found(check_scores(official))
    for score in ("token", "gate"):
        assert rows[f"translation {score}"][2] == "differs"
        assert reason in rows[f"translation {score}"][1]
        assert str(official) not in rows[f"translation {score}"][1]


def test_a_log_of_a_layer_without_scores_is_caught(official: Path) -> None:
    shutil.copy(log(official, 14), log(official, 27))
    expected = ("–", "There is a log of layer 27, and no score of it.", "differs")
    assert found(check_scores(official))["translation token"] == expected


def test_a_changed_intent_score_is_caught_with_its_line(official: Path) -> None:
    def flip(lines: list[str]) -> None:
        row = json.loads(lines[7])
        lines[7] = json.dumps(row | {"score": 1 - row["score"]})

    change_lines(official / "completions" / "gate" / "intent.jsonl", flip)
    rows = found(check_intent(official))
    assert rows["gate, each item"][2] == "differs"
    assert rows["gate, each item"][1].startswith("499 of 500 equal; line 8 has ")
    assert rows["token, each item"][2] == "ok"


def test_a_lost_completion_is_caught(official: Path) -> None:
    for task in TASKS:
        change_lines(official / "completions" / "token" / f"{task}.jsonl", cut_a_line)
    assert found(check_intent(official))["token, each item"] == ("499 stored scores", "499 of 500 equal", "differs")
    assert found(check_intent(official))["token, mean"] == ("75.6", "499 of 500 items", "differs")
    assert found(check_judged(official))["translation token"] == ("36.2", "99 of 100 items", "differs")


def test_a_completion_that_cannot_be_read_is_named_by_file_line_and_field(official: Path) -> None:
    def spoil(lines: list[str]) -> None:
        lines[2] = json.dumps(json.loads(lines[2]) | {"score": 3.8})
        lines[3] = lines[3][:50]

    change_lines(official / "completions" / "token" / "translation.jsonl", spoil)
    _, ours, verdict = found(check_judged(official))["translation token"]
    assert verdict == "differs"
    assert ours == "completions/token/translation.jsonl, line 3, score: Input should be less than or equal to 1."


@pytest.mark.parametrize("task", TASKS)
def test_a_file_that_is_no_utf8_is_named(official: Path, task: str) -> None:
    (official / "completions" / "token" / f"{task}.jsonl").write_bytes(b'{"example": "\xff"}')
    rows = [row for row in verify(official) if row.verdict == "differs"]
    assert rows
    assert all(row.ours.startswith(f"completions/token/{task}.jsonl cannot be read: ") for row in rows)


def test_a_reference_that_is_no_object_is_caught(official: Path) -> None:
    def change(lines: list[str]) -> None:
        row = json.loads(lines[0])
        row["example"]["raw_answers"] = ["[]"]
        lines[0] = json.dumps(row)

    change_lines(official / "completions" / "token" / "intent.jsonl", change)
    assert found(check_intent(official))["token, each item"][2] == "differs"


def test_a_changed_prompt_is_caught_beside_the_evaluation_items(checkout: Path) -> None:
    def change(lines: list[str]) -> None:
        lines[0] = lines[0].replace("User: ", "User:", 1)

    change_lines(checkout / "datasets" / "eval" / "translation.jsonl", change)
    rows = found(check_items(checkout))
    assert rows["translation token"] == ("100 items", "99 of 100 equal", "differs")
    assert rows["intent token"][2] == "ok"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    """`typed("--official", …)`: exit code, what was printed, what was complained about."""

    def run(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["esft-bench", "verify-paper", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


def test_the_command_ends_with_0_where_all_that_is_there_is_rebuilt(official: Path, typed: Any) -> None:
    code, out, _ = typed("--official", str(official))
    assert code == 0
    assert "26 of 26 equal, 124 experts" in out
    assert "not in DIR" in out
    assert "17 as published, 0 differ, 5 for information, 20 not in DIR" in out


def test_the_command_ends_with_1_where_a_rebuild_fails_and_still_shows_the_rest(official: Path, typed: Any) -> None:
    change_lines(log(official, 14), cut_in_a_line)
    code, out, _ = typed("--official", str(official))
    assert code == 1
    assert "15 as published, 2 differ, 5 for information, 20 not in DIR" in out
    assert "500 of 500 equal" in out


def test_the_command_ends_with_2_in_one_sentence_where_there_is_nothing_to_verify(tmp_path: Path, typed: Any) -> None:
    code, out, complaint = typed("--official", str(tmp_path))
    assert (code, out) == (2, "")
    assert len(complaint.strip().splitlines()) == 1
    assert "nothing to verify" in complaint
