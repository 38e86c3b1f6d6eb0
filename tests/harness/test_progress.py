"""How far a run is: the time left, what a log says, and what another shell reads."""

import io
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from esft_bench.harness.commands.status import status
from esft_bench.harness.progress import display, live
from esft_bench.harness.progress.display import Display
from esft_bench.harness.progress.live import Live, StepSeen
from esft_bench.harness.progress.pace import Pace, in_words
from esft_bench.harness.terminal import Terminal
from esft_bench.spec.cell import Cell
from esft_bench.spec.errors import UserError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_foretold_of_a_kind_of_step_that_never_ended() -> None:
    pace = Pace(["train", "train", "answers"], Clock())
    pace.started("train")
    pace.ended("train")
    assert pace.seconds_left() is None


def test_what_is_left_takes_as_long_a_step_as_what_is_done_however_many_ran_side_by_side() -> None:
    clock = Clock()
    pace = Pace(["train"] * 6 + ["answers"], clock)
    for _ in range(2):
        pace.started("train")
    clock.now = 10.0
    for _ in range(2):
        pace.ended("train")
    pace.started("answers")
    clock.now = 13.0
    pace.ended("answers")
    assert pace.seconds_left() == pytest.approx(4 * 5.0)


def test_kinds_that_ran_beside_each_other_are_taken_to_go_on_so() -> None:
    clock = Clock()
    pace = Pace(["train"] * 3 + ["answers"] * 2, clock)
    pace.started("train")
    pace.started("answers")
    clock.now = 10.0
    pace.ended("answers")
    pace.ended("train")
    assert pace.seconds_left() == pytest.approx((2 * 10.0 + 10.0) / 2)


def test_a_step_that_failed_is_not_waited_for_and_tells_nothing_of_the_others() -> None:
    pace = Pace(["train", "train"], Clock())
    pace.started("train")
    pace.ended("train", well=False)
    assert pace.seconds_left() is None
    pace.started("train")
    pace.ended("train", well=False)
    assert pace.seconds_left() == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0.4, "about 0 s left"),
        (75, "about 75 s left"),
        (300, "about 5.0 min left"),
        (9000, "about 2.5 h left"),
    ],
)
def test_time_left_is_said_in_a_unit_that_fits(seconds: float | None, words: str) -> None:
    assert in_words(seconds) == words


def shown(folder: Path, out: io.StringIO) -> Display:
    cells = [Cell("fft", "mini-law", 0), Cell("fft", "mini-law", 1)]
    plan: Any = SimpleNamespace(suite=SimpleNamespace(name="s", tasks=[], methods={}), cells=cells, tasks={})
    return Display(plan, Terminal(file=out, width=120), {cells[0]: "done", cells[1]: "to do"}, folder)


def test_a_log_gets_a_line_now_and_then_and_another_shell_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "TOLD_EVERY", 0.02)
    monkeypatch.setattr(display, "SAID_EVERY", 0.1)
    out = io.StringIO()
    with shown(tmp_path, out) as one:
        one.begin(["train"])
        one.enter_phase("training")
        one.step("fft · mini-law · seed 1", 3, 60)
        until = time.monotonic() + 100
        while "3/60" not in out.getvalue() and time.monotonic() < until:
            time.sleep(0.02)
        [first, second, *_] = status(tmp_path)
        assert f"training (process {os.getpid()}" in first
        assert second == "2 cells: 1 done, 1 to do"
    assert "1 of 2 cells done. fft · mini-law · seed 1  3/60" in out.getvalue()
    assert "ended" in next(status(tmp_path))


def test_a_run_that_was_killed_counts_as_stopped(tmp_path: Path) -> None:
    live.write(Live(phase="training", pid=2**22 + 1, steps=[StepSeen(name="x")]), tmp_path)
    said = list(status(tmp_path))
    assert "stopped" in said[0]
    assert "goes on where it was" in said[0]
    assert len(said) == 2, "a stopped run is at no step"


def test_a_later_process_with_the_number_of_the_run_is_not_the_run(tmp_path: Path) -> None:
    live.write(Live(phase="training", updated=datetime.now(UTC) - timedelta(days=3000)), tmp_path)
    assert "stopped" in next(status(tmp_path))


def test_a_run_on_another_machine_is_believed_while_it_speaks(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for age, word in ((5, "training"), (300, "stopped")):
        live.write(Live(phase="training", host="elsewhere", updated=now - timedelta(seconds=age)), tmp_path)
        assert word in next(status(tmp_path))


@pytest.mark.parametrize("content", [None, "", "{}x", '{"phase": 3}'])
def test_a_folder_of_no_run_is_one_sentence(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / live.FILE).write_text(content)
    with pytest.raises(UserError, match="name the folder of a run"):
        list(status(tmp_path))
