"""A judge's endpoint that is busy, slow, broken or choosy, and how fast it is asked."""

import json
import random
import threading
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.harness.judge.endpoint import retry_after
from esft_bench.harness.judge.limiter import START, ConcurrencyLimiter, StoppedError
from tests.harness.judge_server import CUT, RUBRIC, Item, MakeJudge, Response, Server, gives


def test_with_a_third_of_all_requests_failing_every_item_is_judged_in_a_few_runs_and_none_is_paid_for_twice(
    server: Server, judge: MakeJudge
) -> None:
    chance, over = random.Random(0), threading.Event()
    faults: list[Response | None] = [
        (429, {"Retry-After": "0.05"}, "{}"),
        (429, {}, "{}"),
        (500, {}, "{}"),
        (503, {"Retry-After": "0"}, "<html>down</html>"),
        (200, {}, '{"choices": [{"mess'),
        (200, {CUT: ""}, gives(3)[2]),
        None,  # nothing for longer than the client waits
    ]

    def respond(number: int, body: dict[str, Any]) -> Response:
        with server.lock:
            fault = chance.choice(faults) if chance.random() < 0.3 else gives(7)
        if fault is None:
            over.wait(100)
            return 500, {}, "{}"
        return fault

    server.respond = respond
    items = [Item(f"answer {number}") for number in range(60)]
    patient = {"retries": 12, "concurrency": 8, "timeout": 3.0}
    first = [verdict.state for verdict in judge(**patient).score(RUBRIC, items)]
    assert first.count("scored") > 45
    assert set(first) <= {"scored", "failed"}
    for _ in range(5):  # what lost two answers that may have been paid for is left to the next run
        verdicts = judge(**patient).score(RUBRIC, items)
    over.set()
    assert [verdict.score for verdict in verdicts] == [0.7] * 60
    assert len(server.requests) > 60
    assert server.paid == {item.completion: 1 for item in items}


@pytest.mark.parametrize("header", ["0.4", "date"])
def test_a_pause_that_the_server_asks_for_holds_for_every_request(
    server: Server, judge: MakeJudge, header: str
) -> None:
    def respond(number: int, body: dict[str, Any]) -> Response:
        if number > 1:
            return gives(9)
        wait = formatdate(time.time() + 1.5, usegmt=True) if header == "date" else header  # dates have whole seconds
        return 429, {"Retry-After": wait}, "{}"

    server.respond = respond
    verdicts = judge(retries=1).score(RUBRIC, [Item("a"), Item("b")])
    assert [verdict.score for verdict in verdicts] == [0.9, 0.9]
    assert server.times[1] - server.times[0] >= 0.39


def test_a_server_that_asks_for_an_hour_is_an_outage(server: Server, judge: MakeJudge) -> None:
    server.respond = lambda number, body: (429, {"Retry-After": "3600"}, "{}")
    [verdict] = judge(retries=5).score(RUBRIC, [Item("a")])
    assert (verdict.state, len(server.requests)) == ("failed", 1)


def test_an_account_without_money_is_not_asked_again_and_again(server: Server, judge: MakeJudge) -> None:
    problem = json.dumps({"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}})
    server.respond = lambda number, body: (429, {}, problem)
    [verdict] = judge(retries=5).score(RUBRIC, [Item("a")])
    assert (verdict.state, len(server.requests)) == ("failed", 1)
    assert "quota" in verdict.reason


def test_a_model_that_refuses_a_temperature_is_asked_without_it_and_the_report_is_told(
    server: Server, judge: MakeJudge
) -> None:
    def respond(number: int, body: dict[str, Any]) -> Response:
        for name in ("temperature", "seed"):
            if name in body:
                message = f"Unsupported value: '{name}' does not support {body[name]} with this model."
                return 400, {}, json.dumps({"error": {"message": message, "param": name}})
        return gives(5)

    server.respond = respond
    choosy = judge(options={"reasoning_effort": "low"})
    assert [verdict.score for verdict in choosy.score(RUBRIC, [Item("a"), Item("b")])] == [0.5, 0.5]
    assert len(server.requests) == 4
    assert set(server.requests[3]) == {"model", "messages", "max_tokens", "reasoning_effort"}
    assert len(choosy.notes) == 2
    assert "the-judge refuses a set temperature" in choosy.notes[1]


def test_a_refusal_for_another_reason_is_not_asked_again(server: Server, judge: MakeJudge) -> None:
    server.respond = lambda number, body: (400, {}, json.dumps({"error": {"message": "the prompt is too long"}}))
    assert judge(retries=5).score(RUBRIC, [Item("a")])[0].state == "failed"
    assert len(server.requests) == 1


def test_a_setting_of_none_is_not_sent(server: Server, judge: MakeJudge) -> None:
    judge(temperature=None, seed=None).score(RUBRIC, [Item("a")])
    assert set(server.requests[0]) == {"model", "messages", "max_tokens"}


def test_fewer_requests_are_under_way_while_the_server_bears_fewer(server: Server, judge: MakeJudge) -> None:
    under_way, most_after_warning, refusals = 0, 0, 0

    def respond(number: int, body: dict[str, Any]) -> Response:
        nonlocal under_way, most_after_warning, refusals
        with server.lock:
            under_way += 1
            busy = under_way > 3
            refusals += busy
        time.sleep(0.01)
        with server.lock:
            under_way -= 1
        return (429, {"Retry-After": "0.02"}, "{}") if busy else gives(6)

    server.respond = respond
    verdicts = judge(retries=20, concurrency=16).score(RUBRIC, [Item(str(number)) for number in range(80)])
    assert all(verdict.score == 0.6 for verdict in verdicts)
    assert 0 < refusals < 40


def test_the_pace_rises_by_about_one_a_round_and_halves_once_for_what_was_under_way_together() -> None:
    limiter = ConcurrencyLimiter(16)
    with limiter.slot() as early:
        pass
    for _ in range(START):
        limiter.succeeded()
    assert START + 0.8 < limiter.limit <= START + 1
    for _ in range(1000):
        limiter.succeeded()
    assert limiter.limit == 16
    with limiter.slot() as began:
        pass
    limiter.throttled(began, 0)
    limiter.throttled(began, 0)
    limiter.throttled(early, 0)
    assert limiter.limit == 8


def test_the_pace_never_falls_below_one() -> None:
    limiter = ConcurrencyLimiter(2)
    for _ in range(5):
        with limiter.slot() as began:
            pass
        limiter.throttled(began, 0)
    assert limiter.limit == 1
    with limiter.slot():
        pass


def test_whoever_waits_for_a_turn_is_woken_when_all_is_stopped() -> None:
    limiter, ended = ConcurrencyLimiter(4), threading.Event()
    limiter.throttled(time.monotonic(), 600)

    def wait() -> None:
        with pytest.raises(StoppedError), limiter.slot():
            pass
        with pytest.raises(StoppedError):
            limiter.sleep(600)
        ended.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    limiter.close()
    assert ended.wait(100)
    waiting.join()


def test_a_pause_is_read_as_seconds_milliseconds_or_a_date() -> None:
    assert retry_after({"retry-after": "2"}) == 2
    assert retry_after({"retry-after-ms": "1500", "retry-after": "2"}) == 1.5
    later = retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)})
    assert later is not None
    assert 57 < later <= 60
    assert retry_after({}) is None


@given(st.text())
def test_no_pause_is_negative_whatever_a_server_sends(text: str) -> None:
    found = retry_after({"retry-after": text})
    assert found is None or not found < 0


def test_a_request_under_way_is_given_up_when_all_is_stopped(server: Server, judge: MakeJudge) -> None:
    asked = threading.Event()

    def respond(number: int, body: dict[str, Any]) -> Response:
        asked.set()
        ended.wait(100)
        return gives(8)

    server.respond = respond
    slow, ended = judge(timeout=60), threading.Event()

    def score() -> None:
        with pytest.raises(StoppedError):
            slow.score(RUBRIC, [Item("a")])
        ended.set()

    thread = threading.Thread(target=score)
    thread.start()
    assert asked.wait(100)
    slow.close()
    assert ended.wait(50)
    thread.join()
