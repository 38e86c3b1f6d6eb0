"""Judging by batches, against a server that imitates /v1/files and /v1/batches."""

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from esft_bench.harness.judge import Usage
from esft_bench.harness.judge.cache import ReplyCache
from tests.harness.judge_server import KEY, RUBRIC, Item, MakeJudge, Response, Server, answer_in, gives, says

ITEMS = [Item(f"answer {number}") for number in range(5)]
PRICE = {"input": 1000.0, "output": 1000.0, "batch": 0.5}


def by_answer(number: int, body: dict[str, Any]) -> Response:
    return gives(int(answer_in(body).split()[1]))


def test_a_batch_gives_each_item_its_own_verdict_at_the_batch_price(server: Server, judge: MakeJudge) -> None:
    server.respond, server.looks = by_answer, 3
    verdicts = judge(batch=True, price=PRICE).score(RUBRIC, [*ITEMS, ITEMS[0]])
    assert [verdict.score for verdict in verdicts] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.0]
    assert astuple(verdicts[0].usage) == pytest.approx((1, 5, 2, 0.0035))
    assert verdicts[-1].usage == Usage()
    assert len(server.batches) == 1
    [line] = [json.loads(text) for text in server.files["file-0"].splitlines()][:1]
    assert (line["method"], line["url"], line["body"]["temperature"]) == ("POST", "/v1/chat/completions", 0)


def test_what_a_batch_brought_is_stored_like_any_reply(server: Server, judge: MakeJudge) -> None:
    server.respond = by_answer
    judge(batch=True).score(RUBRIC, ITEMS)
    asked = len(server.requests)
    for way in (True, False):
        assert judge(batch=way).score(RUBRIC, ITEMS)[3].score == 0.3
    assert (len(server.requests), len(server.batches)) == (asked, 1)


def test_an_announced_batch_is_fetched_and_not_sent_twice(server: Server, judge: MakeJudge) -> None:
    server.respond = by_answer
    batched = judge(batch=True)
    batched.announce(RUBRIC, ITEMS[:3])
    batched.announce(RUBRIC, ITEMS[2:])
    batched.announce(RUBRIC, ITEMS)
    assert len(server.batches) == 2
    assert [verdict.score for verdict in batched.score(RUBRIC, ITEMS)] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert set(server.paid.values()) == {1}


@pytest.mark.parametrize("batch", [True, False])
def test_a_batch_that_a_killed_run_left_is_fetched_by_the_next_in_whichever_way_it_judges(
    server: Server, judge: MakeJudge, batch: bool
) -> None:
    server.respond = by_answer
    judge(batch=True).announce(RUBRIC, ITEMS)
    assert [verdict.score for verdict in judge(batch=batch).score(RUBRIC, ITEMS)] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert (len(server.batches), set(server.paid.values())) == (1, {1})


def test_a_batch_that_was_created_and_not_yet_noted_is_found_at_the_server(
    server: Server, judge: MakeJudge, tmp_path: Path
) -> None:
    server.respond = by_answer
    judge(batch=True).announce(RUBRIC, ITEMS)
    cache = ReplyCache(tmp_path / "j.sqlite")
    with cache._open() as database:
        database.execute("DELETE FROM pending")  # as if the kill had come before the note
    judge(batch=True).score(RUBRIC, ITEMS)
    assert (len(server.batches), set(server.paid.values())) == (1, {1})


def test_what_failed_in_a_batch_is_sent_again(server: Server, judge: MakeJudge) -> None:
    server.respond = by_answer
    server.broken = lambda index: index == 2 and len(server.batches) == 1
    assert [verdict.score for verdict in judge(batch=True).score(RUBRIC, ITEMS)] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert [len(server.files[batch["input_file_id"]].splitlines()) for batch in server.batches.values()] == [5, 1]


def test_what_fails_in_every_batch_is_failed_and_never_zero(server: Server, judge: MakeJudge) -> None:
    server.broken = lambda index: True
    [verdict] = judge(batch=True).score(RUBRIC, ITEMS[:1])
    assert (verdict.score, verdict.state) == (None, "failed")
    assert "oops" in verdict.reason


@pytest.mark.parametrize("end", ["expired", "cancelled", "failed"])
def test_a_batch_that_ends_without_replies_is_failed(server: Server, judge: MakeJudge, end: str) -> None:
    server.ends_as = end
    [verdict] = judge(batch=True).score(RUBRIC, ITEMS[:1])
    assert (verdict.score, verdict.state) == (None, "failed")
    assert end in verdict.reason


def test_a_batch_that_the_server_lost_is_sent_anew(server: Server, judge: MakeJudge) -> None:
    server.respond = by_answer
    judge(batch=True).announce(RUBRIC, ITEMS)
    server.batches.clear()
    assert judge(batch=True).score(RUBRIC, ITEMS)[4].score == 0.4


def test_an_unreadable_reply_in_a_batch_is_asked_for_in_a_second_one(server: Server, judge: MakeJudge) -> None:
    server.respond = lambda number, body: gives(6) if len(body["messages"]) == 4 else says("between 5 and 7")
    [verdict] = judge(batch=True).score(RUBRIC, ITEMS[:1])
    assert (verdict.score, verdict.usage.requests, len(server.batches)) == (0.6, 2, 2)


def test_a_temperature_that_is_refused_in_a_batch_is_left_out_of_the_next(server: Server, judge: MakeJudge) -> None:
    refusal = json.dumps({"error": {"message": "Unsupported value: 'temperature' does not support 0 with this model."}})
    server.respond = lambda number, body: (400, {}, refusal) if "temperature" in body else gives(6)
    assert judge(batch=True).score(RUBRIC, ITEMS[:2])[1].score == 0.6


def test_a_batch_keeps_to_the_budget_and_a_higher_one_goes_on(server: Server, judge: MakeJudge) -> None:
    cheap = {
        "batch": True,
        "price": {"input": 0.0, "output": 1000.0, "batch": 0.5},
        "max_tokens": 1000,
    }  # at most 0.5 dollars a reply
    verdicts = judge("run", budget=0.501, **cheap).score(RUBRIC, ITEMS)
    states = [verdict.state for verdict in verdicts]
    assert 1 <= states.count("scored") < 5
    assert all("budget" in verdict.reason for verdict in verdicts if verdict.state == "failed")
    assert {v.state for v in judge("run", budget=5, **cheap).score(RUBRIC, ITEMS)} == {"scored"}
    assert set(server.paid.values()) == {1}


@pytest.mark.parametrize("status", [200, 404])
def test_an_endpoint_that_knows_no_batches_is_failed(
    server: Server, judge: MakeJudge, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(server, "_batch", lambda *request: (status, {}, '"what?"'))
    [verdict] = judge(batch=True).score(RUBRIC, ITEMS[:1])
    assert (verdict.score, verdict.state) == (None, "failed")


def test_an_endpoint_that_is_not_there_is_failed_in_a_sentence_without_the_key(judge: MakeJudge) -> None:
    [verdict] = judge(batch=True, base_url="http://127.0.0.1:9/v1").score(RUBRIC, ITEMS[:1])
    assert (verdict.score, verdict.state) == (None, "failed")
    assert verdict.reason
    assert KEY not in verdict.reason


def test_a_batch_that_never_ends_is_failed(server: Server, judge: MakeJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esft_bench.harness.judge.batch.LONGEST_WAIT", 0.1)
    server.looks = 10**9
    [verdict] = judge(batch=True).score(RUBRIC, ITEMS[:1])
    assert verdict.state == "failed"
    assert "has not ended" in verdict.reason


@pytest.mark.parametrize("body", ["{}", '{"choices": []}', '"text"', "[]"])
def test_a_line_that_is_no_reply_is_sent_once_more_and_failed(server: Server, judge: MakeJudge, body: str) -> None:
    server.respond = lambda number, asked: (200, {}, body)
    [verdict] = judge(batch=True).score(RUBRIC, ITEMS[:1])
    assert (verdict.state, len(server.requests)) == ("failed", 2)
    assert "no chat completion" in verdict.reason


def test_a_verdict_with_odd_line_ends_and_odd_usage_is_read_from_a_batch(server: Server, judge: MakeJudge) -> None:
    reply = {"choices": [{"message": {"content": [{"type": "text", "text": '{"reason": "a\u2028b", "score": 8}'}]}}]}
    server.respond = lambda number, asked: (200, {}, json.dumps(reply | {"usage": None}))
    assert judge(batch=True).score(RUBRIC, ITEMS[:1])[0].score == 0.8
    text = server.files["batch-0-output_file_id"].replace("\\u2028", "\u2028")
    assert len(text.splitlines()) > len(text.split("\n")) - 1


@pytest.mark.parametrize("answer", ["[" * 500_000, "<html>", '{"id": 3}', '{"id": ""}', "a" * 3_000_000])
def test_a_batch_endpoint_that_answers_nonsense_is_failed(
    server: Server, judge: MakeJudge, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(server, "_batch", lambda *request: (200, {}, answer))
    [verdict] = judge(batch=True, retries=1).score(RUBRIC, ITEMS[:1])
    assert (verdict.score, verdict.state) == (None, "failed")
    assert verdict.reason
