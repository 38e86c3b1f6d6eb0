"""A key appears in nothing that is stored or shown, however an endpoint echoes it."""

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.harness.judge.secret import Secret
from tests.harness.judge_server import RUBRIC, Item, MakeJudge, Server, says

KEY = "sk-pro/j+very=secret&1234"
ECHOES = {
    "as it is": KEY,
    "in a header": f"Authorization: Bearer {KEY}",
    "in a repeated header": json.dumps({"headers": {"authorization": f"Bearer {KEY}"}}),
    "in a URL": quote(KEY, safe=""),
    "in base64": base64.b64encode(KEY.encode()).decode(),
    "in base64 for URLs": base64.urlsafe_b64encode(f"me:{KEY}:more".encode()).decode(),
    "as a basic header": f"Basic {base64.b64encode(f'user:{KEY}'.encode()).decode()}",
    "in hexadecimal": KEY.encode().hex(),
    "backwards": KEY[::-1],
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("way", ["reason", "unreadable", "refusal"])
def test_an_echoed_key_is_neither_stored_nor_shown(
    server: Server, judge: MakeJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, echo: str, way: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    answers = {
        "reason": says(json.dumps({"reason": f"you sent {echo}", "score": 8})),
        "unreadable": says(f"you sent {echo}"),
        "refusal": (401, {}, json.dumps({"error": {"message": f"no: {echo}"}})),
    }
    server.respond = lambda number, asked: answers[way]
    [verdict] = judge().score(RUBRIC, [Item("a")])
    core = [echo, json.dumps(echo)[1:-1], KEY]
    assert server.keys == {f"Bearer {KEY}"}
    assert "***" in verdict.reason
    assert not [form for form in core if form in verdict.reason]
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not [form for form in core if form.encode() in stored]


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_base64_is_masked_wherever_the_key_stands_in_it(before: bytes, after: bytes) -> None:
    text = base64.b64encode(before + KEY.encode() + after).decode()
    masked = Secret(KEY).mask(text)
    assert "***" in masked
    inside = base64.b64encode(KEY.encode()[3:-3]).decode()
    assert inside not in masked


@given(st.text())
def test_a_text_without_a_key_stays_as_it_is(text: str) -> None:
    if not {"bearer", "basic"} & {word.lower() for word in text.split()}:
        assert Secret(KEY).mask(text) == text


@pytest.mark.parametrize("key", ["x", "EMPTY", "none", "8"])
def test_a_word_that_stands_in_for_a_key_is_no_secret(server: Server, judge: MakeJudge, key: str) -> None:
    assert Secret(key).mask(f'{{"score": 8, "reason": "{key}"}}') == f'{{"score": 8, "reason": "{key}"}}'
