"""What a judge costs: never twice for one reply, and never more than the budget."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esft_bench.harness.judge import Usage, choose
from esft_bench.harness.judge.cache import Reply, ReplyCache
from esft_bench.spec.errors import UserError
from esft_bench.spec.judge import JudgeSettings
from tests.harness.judge_server import KEY, RUBRIC, Item, MakeJudge, Response, Server, gives, says

PRICE = {"input": 1000.0, "output": 1000.0, "batch": 0.5}
"""Dollars a million: a reply of 5 + 2 tokens costs 0.7 cents."""
CENTS = 0.007


@pytest.fixture
def process(server: Server, tmp_path: Path) -> Any:
    """Starts a process that judges items and prints its scores."""
    program = (
        "import sys, json; from esft_bench.harness.judge import make_judge;"
        "from esft_bench.spec.judge import JudgeSettings;"
        "from tests.harness.judge_server import RUBRIC, Item;"
        "judge = make_judge(JudgeSettings.model_validate(json.loads(sys.argv[1])));"
        "print([verdict.score for verdict in judge.score(RUBRIC, [Item(f'answer {n}') for n in range(12)])])"
    )
    settings = {"kind": "openai", "model": "the-judge", "key_env": "JUDGE_KEY", "base_url": server.url}
    quick = {"concurrency": 2, "cache": str(tmp_path / "j.sqlite")}

    def start() -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", program, json.dumps(settings | quick)]
        return subprocess.Popen(arguments, env={**os.environ, "JUDGE_KEY": KEY}, stdout=subprocess.PIPE, text=True)

    return start


def test_a_judge_killed_in_the_middle_pays_again_for_nothing_that_was_stored(server: Server, process: Any) -> None:
    killed = threading.Event()

    def respond(number: int, body: dict[str, Any]) -> Response:
        if number > 6:
            killed.wait(60)
        return gives(7)

    server.respond = respond
    first = process()
    while len(server.requests) < 8 and first.poll() is None:
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    killed.set()
    assert len(server.requests) == 8
    second = process()
    assert json.loads(second.communicate(timeout=280)[0]) == [0.7] * 12
    assert len(server.paid) == 12
    assert len(server.requests) == 12 + 2, "more was lost than the two replies that were under way"


def test_two_processes_that_judge_the_same_pay_once(server: Server, process: Any) -> None:
    def respond(number: int, body: dict[str, Any]) -> Response:
        time.sleep(0.03)
        return gives(7)

    server.respond = respond
    both = [process(), process()]
    assert [json.loads(each.communicate(timeout=280)[0]) for each in both] == [[0.7] * 12] * 2
    assert set(server.paid.values()) == {1}


def test_a_kill_between_an_unreadable_reply_and_the_second_question_asks_only_that(
    server: Server, judge: MakeJudge, tmp_path: Path
) -> None:
    server.respond = lambda number, body: says("eight") if number == 1 else (500, {}, "{}")
    assert judge().score(RUBRIC, [Item("a")])[0].state == "failed"
    server.respond = lambda number, body: gives(8)
    [verdict] = judge().score(RUBRIC, [Item("a")])
    assert (verdict.score, verdict.usage.requests, len(server.requests)) == (0.8, 2, 3)
    assert server.requests[2]["messages"][2]["content"] == "eight"


def test_what_a_reply_took_is_priced(server: Server, judge: MakeJudge) -> None:
    [verdict] = judge(price=PRICE).score(RUBRIC, [Item("a")])
    assert replace(verdict.usage, dollars=0) == Usage(1, 5, 2)
    assert verdict.usage.dollars == pytest.approx(CENTS)


def test_a_spent_budget_ends_the_asking_and_a_higher_one_goes_on(server: Server, judge: MakeJudge) -> None:
    cheap = {
        "price": {"input": 0.0, "output": 1000.0},
        "concurrency": 4,
        "max_tokens": 1000,
    }  # a reply is taken to cost at most 1 dollar
    items = [Item(str(number)) for number in range(10)]
    first = judge("run", budget=1.01, **cheap)
    verdicts = first.score(RUBRIC, items)
    states = [verdict.state for verdict in verdicts]
    assert 1 <= states.count("scored") < 10
    assert set(states) == {"scored", "failed"}
    assert all(
        verdict.score is None and "budget" in verdict.reason for verdict in verdicts if verdict.state == "failed"
    )
    assert sum(verdict.usage.dollars for verdict in verdicts) <= 1.01
    assert "budget of $1.01 is spent" in first.notes[0]
    asked = len(server.requests)
    assert {v.state for v in judge("run", budget=1.01, **cheap).score(RUBRIC, items[-1:])} == {"failed"}
    assert len(server.requests) == asked
    higher = judge("run", budget=5, **cheap)
    assert {verdict.score for verdict in higher.score(RUBRIC, items)} == {0.8}
    assert set(server.paid.values()) == {1}
    assert higher.notes == []


def test_what_earlier_attempts_at_a_run_paid_counts_and_what_another_run_paid_does_not(
    server: Server, judge: MakeJudge, tmp_path: Path
) -> None:
    ReplyCache(tmp_path / "j.sqlite").put("key", 0, Reply("{}", Usage(1, 5, 2, 2.5)), "run")
    dear = {"price": {"input": 0.0, "output": 1000.0}, "budget": 3.0, "max_tokens": 1000}
    assert judge("run", **dear).score(RUBRIC, [Item("a")])[0].state == "failed"
    assert judge("another", **dear).score(RUBRIC, [Item("a")])[0].state == "scored"


def test_a_budget_without_a_known_price_is_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"judge\.price.*dollars per million tokens"):
        choose(JudgeSettings(kind="openai", model="my-own", base_url="http://localhost:1/v1", budget=1))


def test_a_reply_that_is_stored_is_there_for_every_other_connection_at_once(tmp_path: Path) -> None:
    writer, reader = ReplyCache(tmp_path / "j.sqlite"), ReplyCache(tmp_path / "j.sqlite")
    reply = Reply("text", Usage(1, 2, 3, 0.5))
    assert writer.put("key", 0, reply, "run")
    assert reader.replies("key") == [reply]
    assert not reader.put("key", 0, Reply("other", Usage(1, 2, 3, 0.5)), "run")
    assert (reader.replies("key"), reader.spent("run"), reader.spent("another")) == ([reply], 0.5, 0.0)
