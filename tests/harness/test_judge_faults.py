"""The ways a judge's endpoint misbehaves: each ends soon in a verdict or a state with a reason, and is paid once."""

import gzip
import json
import sqlite3
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.harness.judge import Usage
from esft_bench.harness.judge.question import MOST_SENT_BACK, parse
from esft_bench.harness.judge.reading import loads, read_completion
from tests.harness.judge_server import CUT, DRIP, RUBRIC, Item, MakeJudge, Response, Server, gives, running, says

VERDICT = json.dumps({"reason": "fine", "score": 8})
PRICE = {"input": 0.0, "output": 1000.0}
"""Dollars a million: with 1000 tokens at most, a reply costs at most 1 dollar."""


def body(content: Any, **more: Any) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}], **more})


def usage(tokens: Any) -> str:
    return body(VERDICT, usage={"prompt_tokens": tokens, "completion_tokens": tokens})


READ: dict[str, Any] = {
    "parts": body([{"type": "text", "text": VERDICT[:9]}, {"type": "text", "text": VERDICT[9:]}]),
    "parts of another kind between": body([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": VERDICT}]),
    "texts": body([VERDICT]),
    "one part": body({"type": "text", "text": VERDICT}),
    "an object that is parsed already": body({"reason": "fine", "score": 8}),
    "usage null": body(VERDICT, usage=None),
    "usage a list": body(VERDICT, usage=[3]),
    "usage a word": body(VERDICT, usage="plenty"),
    **{
        f"tokens {tokens!r}"[:30]: usage(tokens)
        for tokens in (None, "many", -(10**12), 10**30, True, [1], {"n": 1}, 7.5)
    },
    "tokens NaN": usage(1).replace(": 1,", ": NaN,"),
    "tokens infinite": usage(1).replace(": 1,", ": 1e999,"),
    "tokens of 5000 digits": usage(1).replace(": 1,", f": {'9' * 5000},"),
    "details of usage": body(VERDICT, usage={"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": 3}),
    "a number of 5000 digits elsewhere": body(VERDICT, created=1).replace(": 1", f": {'1' * 5000}"),
    "half a surrogate pair in the body": body("X").replace("X", json.dumps(VERDICT.replace("fine", "\ud800"))[1:-1]),
    "half a surrogate pair in the reply": body(VERDICT.replace("fine", "\\ud800")),
    "a reason that is null": body('{"reason": null, "score": 8}'),
    "a reason that is a list": body('{"reason": ["a"], "score": 8}'),
    "zero bytes and line separators": body(json.dumps({"reason": "a\0b\u2028c", "score": 8})),
    "a byte order mark": "\ufeff" + body(VERDICT),
    "bytes that are no UTF-8": body(VERDICT.replace("fine", "f")).encode().replace(b'f\\"', b'\xff\\"'),
    "a fence": body(f"```json\n{VERDICT}\n```"),
    "no refusal, and more choices": json.dumps({"choices": [{"message": {"content": VERDICT, "refusal": None}}, 3]}),
    "names twice in the body": body(VERDICT).replace("{", '{"choices": 3, ', 1),
}
UNREADABLE = {
    "null": body(None),
    "a number": body(8),
    "empty parts": body([]),
    "a picture": body([{"type": "image_url", "image_url": {"url": "x"}}]),
    "refusal": json.dumps({"choices": [{"message": {"content": None, "refusal": "I cannot"}}]}),
    "cut by length": body(VERDICT[:20]),
    "score twice": body('{"score": 2, "score": 9}'),
    "score of 5000 digits": body(f'{{"score": {"9" * 5000}}}'),
    "score infinite": body('{"score": 1e400}'),
    "deep": body("[" * 50_000),
    "deep objects": body('{"a":' * 50_000),
    "a score in an array": body('[{"score": 8}]'),
}
USELESS: dict[str, Response] = {
    "html": (200, {"Content-Type": "text/html"}, "<html>Bad gateway</html>"),
    "nothing": (200, {}, ""),
    "no content": (204, {}, ""),
    "half": (200, {}, body(VERDICT)[:30]),
    "deep": (200, {}, "[" * 500_000),
    "no choices": (200, {}, '{"choices": [], "usage": {"prompt_tokens": 300, "completion_tokens": 20}}'),
    "an error": (200, {}, '{"error": {"message": "overloaded"}}'),
    "large": (200, {}, body("a" * 3_000_000)),
    "large reason": (200, {}, body(json.dumps({"reason": "a" * 3_000_000, "score": 8}))),
    "cut": (200, {CUT: ""}, body(VERDICT)),
    "longer than it says": (200, {"Content-Length": "20"}, body(VERDICT)),
    "shorter than it says": (200, {"Content-Length": "5000"}, body(VERDICT)),
    "not packed": (200, {"Content-Encoding": "gzip"}, b"not packed"),
    "packed in an unknown way": (200, {"Content-Encoding": "br"}, b"not packed"),
    "a bomb": (200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 300_000_000, 9)),
    "dripping": (200, {DRIP: "body"}, body(VERDICT) + " " * 500),
    "dripping head": (200, {DRIP: "head"}, body(VERDICT)),
}
REFUSED: dict[str, Response] = {
    "redirect": (307, {"Location": "http://127.0.0.1:9/v1"}, ""),
    "redirect to itself": (308, {"Location": "/v1/chat/completions"}, ""),
    "redirect to nowhere": (302, {}, ""),
    "not modified": (304, {}, ""),
    "deep": (400, {}, "[" * 500_000),
    "large": (403, {}, "a" * 3_000_000),
    "bomb": (404, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 300_000_000, 9)),
    "null": (422, {}, '{"error": null}'),
    "a pause of years": (429, {"Retry-After": "1000000000"}, "{}"),
    "an endless pause": (503, {"Retry-After": "inf"}, "{}"),
    "half a surrogate pair": (400, {}, '{"error": {"message": "\\ud800", "code": "\\ud800"}}'),
}
PASSING: dict[str, Response] = {
    "negative": (429, {"Retry-After": "-5"}, "{}"),
    "no number": (429, {"Retry-After": "nan"}, "{}"),
    "word": (429, {"Retry-After": "soon"}, "{}"),
    "date beyond dates": (429, {"Retry-After": "Mon, 01 Jan 99999999 00:00:00 GMT"}, "{}"),
    "plain": (500, {}, "oops"),
    "deep": (500, {}, "[" * 500_000),
    "large": (502, {}, "a" * 3_000_000),
    "dripping": (503, {DRIP: "body"}, "a" * 3),
    "empty": (529, {}, '{"error": null}'),
}


@pytest.mark.parametrize("answer", READ.values(), ids=READ)
def test_a_good_verdict_is_read_whatever_stands_beside_it(server: Server, judge: MakeJudge, answer: str) -> None:
    server.respond = lambda number, asked: (200, {}, answer)
    for _ in range(2):
        [verdict] = judge(retries=8).score(RUBRIC, [Item("a")])
        assert (verdict.score, verdict.state) == (0.8, "scored")
        assert verdict.reason.isprintable()
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", UNREADABLE.values(), ids=UNREADABLE)
def test_a_reply_without_a_verdict_is_asked_for_once_more_and_unscored(
    server: Server, judge: MakeJudge, answer: str
) -> None:
    server.respond = lambda number, asked: (200, {}, answer)
    for _ in range(2):
        [verdict] = judge(retries=8).score(RUBRIC, [Item("a")])
        assert (verdict.score, verdict.state) == (None, "unscored")
        assert verdict.reason
    assert len(server.requests) == 2


@pytest.mark.parametrize("answer", USELESS.values(), ids=USELESS)
def test_an_answer_that_is_no_reply_is_asked_for_once_more_and_failed(
    server: Server, judge: MakeJudge, answer: Response
) -> None:
    server.respond = lambda number, asked: answer
    began = time.monotonic()
    [verdict] = judge(retries=8, timeout=0.4).score(RUBRIC, [Item("a")])
    assert (verdict.score, verdict.state) == (None, "failed")
    assert verdict.reason
    assert len(server.requests) == 2
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("answer", REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_failed_at_once(server: Server, judge: MakeJudge, answer: Response) -> None:
    server.respond = lambda number, asked: answer
    [verdict] = judge(retries=8).score(RUBRIC, [Item("a")])
    assert (verdict.score, verdict.state, len(server.requests)) == (None, "failed", 1)
    assert verdict.reason


@pytest.mark.parametrize("answer", PASSING.values(), ids=PASSING)
def test_what_passes_is_waited_out_at_no_cost(server: Server, judge: MakeJudge, answer: Response) -> None:
    server.respond = lambda number, asked: answer if number < 5 else gives(8)
    [verdict] = judge("run", retries=8, price=PRICE).score(RUBRIC, [Item("a")])
    assert (verdict.score, len(server.requests)) == (0.8, 5)
    assert replace(verdict.usage, dollars=0) == Usage(1, 5, 2)
    assert verdict.usage.dollars == pytest.approx(0.002)


def test_a_lost_answer_and_an_unreadable_reply_are_together_all_that_is_paid_for_in_a_run(
    server: Server, judge: MakeJudge
) -> None:
    server.respond = lambda number, asked: (200, {}, "<html>") if number == 1 else says("eight")
    assert judge(retries=8).score(RUBRIC, [Item("a")])[0].state == "failed"
    assert len(server.requests) == 2
    assert judge(retries=8).score(RUBRIC, [Item("a")])[0].state == "unscored"
    assert len(server.requests) == 3


@pytest.mark.parametrize("answer", [usage(-(10**12)), usage(None), "<html>"], ids=["negative", "none", "lost"])
def test_a_budget_ends_whatever_the_endpoint_says_of_its_usage(server: Server, judge: MakeJudge, answer: str) -> None:
    server.respond = lambda number, asked: (200, {}, answer)
    poor = judge("run", budget=3.5, price=PRICE, max_tokens=1000)
    states = [poor.score(RUBRIC, [Item(str(number))])[0] for number in range(8)]
    assert len(server.requests) == 3
    assert "budget" in states[-1].reason
    if answer != "<html>":
        assert "no believable token counts for 3 replies" in poor.notes[0]


def test_a_key_does_not_follow_a_redirect(server: Server, judge: MakeJudge) -> None:
    with running() as elsewhere:
        server.respond = lambda number, asked: (307, {"Location": f"{elsewhere.url}/chat/completions"}, "")
        [verdict] = judge(retries=8).score(RUBRIC, [Item("a")])
        assert (verdict.state, elsewhere.requests, elsewhere.keys) == ("failed", [], set())
        assert elsewhere.url in verdict.reason


def test_a_long_unreadable_reply_is_not_sent_back_whole(server: Server, judge: MakeJudge) -> None:
    server.respond = lambda number, asked: says("a" * 500_000) if number == 1 else gives(8)
    assert judge().score(RUBRIC, [Item("a")])[0].score == 0.8
    assert server.requests[1]["messages"][2]["content"] == "a" * MOST_SENT_BACK


def test_an_answer_with_half_a_surrogate_pair_is_judged(server: Server, judge: MakeJudge) -> None:
    assert judge().score(RUBRIC, [Item("a\ud800b")])[0].score == 0.8
    assert "a?b" in server.requests[0]["messages"][1]["content"]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_bound_by_another_name_is_tried_where_one_is_refused(server: Server, judge: MakeJudge, name: str) -> None:
    def respond(number: int, asked: dict[str, Any]) -> Response:
        sent = {"max_tokens", "max_completion_tokens"} & asked.keys()
        if sent != {name}:
            message = f"Unsupported parameter: {sent} is not supported with this model. Use '{name}' instead."
            return 400, {}, json.dumps({"error": {"message": message}})
        return gives(8)

    server.respond = respond
    choosy = judge()
    assert choosy.score(RUBRIC, [Item("a")])[0].score == 0.8
    assert choosy.notes == []


def test_an_older_cache_that_others_may_read_is_closed(server: Server, judge: MakeJudge, tmp_path: Path) -> None:
    judge().score(RUBRIC, [Item("a")])
    (tmp_path / "j.sqlite").chmod(0o644)
    judge()
    assert (tmp_path / "j.sqlite").stat().st_mode & 0o777 == 0o600
    assert sqlite3.connect(tmp_path / "j.sqlite").execute("SELECT count(*) FROM said").fetchone() == (1,)


@given(st.binary() | st.text().map(str.encode))
def test_whatever_an_endpoint_sends_is_json_or_a_value_error(data: bytes) -> None:
    with suppress(ValueError):
        read_completion(loads(data))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["content", "text", "type"]), inner),
)


@given(JSON, JSON)
def test_any_content_and_any_usage_is_a_reply(content: Any, tokens: Any) -> None:
    taken = {"prompt_tokens": tokens, "completion_tokens": content}
    found = read_completion({"choices": [{"message": {"content": content}}], "usage": taken})
    assert found.text.encode().decode() == found.text
    assert all(count is None or count >= 0 for count in (found.tokens_in, found.tokens_out))


@given(JSON)
def test_any_object_gives_a_score_in_range_or_none(score: Any) -> None:
    found = parse(json.dumps({"score": score}), RUBRIC)
    assert found is None or 0 <= found.score <= 10
