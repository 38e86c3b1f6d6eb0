"""Choosing a judge: its settings, its key, its address; and the reference judge."""

from typing import Any

import pytest
from pydantic import ValidationError

from esft_bench.harness.judge import choose
from esft_bench.harness.judge.reference import ReferenceJudge
from esft_bench.spec.errors import UserError
from esft_bench.spec.judge import DEFAULT_MODEL, JudgeSettings
from tests.harness.judge_server import RUBRIC, Item, MakeJudge, Server


def test_a_missing_key_means_the_reference_judge_and_a_note_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    judge, note = choose(JudgeSettings(kind="openai", model="the-judge", key_env="JUDGE_KEY"))
    assert judge.name == "reference (chrF)"
    assert "JUDGE_KEY" in note
    assert "the-judge" in note
    assert choose(JudgeSettings())[1] == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "openai", "base_url": "http://localhost:8000/v1"},
        {"kind": "oracle"},
        {"concurrency": 0},
        {"api_key": "x"},
        {"options": {"temperature": 1}},
        {"base_url": "http://me:secret@localhost/v1"},
        {"base_url": "http://localhost/v1?api-key=secret"},
        {"budget": 0},
        {"price": {"input": 1}},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JudgeSettings.model_validate(wrong)


def test_without_a_model_the_default_one_judges_and_its_price_is_known() -> None:
    default = JudgeSettings(kind="openai")
    assert default.model == DEFAULT_MODEL
    assert default.rate is not None
    assert JudgeSettings(kind="openai", model=DEFAULT_MODEL, base_url="http://localhost:8000/v1").rate is None


ADDRESSES = [
    *("htp:/x", "http://", "localhost:8000/v1", "ftp://h/v1", "http://h:99999/v1", "http://h:0/v1", "http://h:abc/v1"),
    *("http:///v1", "http:h/v1", "http:/h/v1", "http://a b/v1", "http://h/v1\n", " http://h/v1", "http://[::1/v1", ""),
    *("http://256.1.1.1/v1", "http://h\ud800/v1", "http://.../v1", f"http://{'a' * 64}/v1", "http://h\\@evil/v1"),
    *("http://h/v1#key", "http://h\0/v1", "https://", "//h/v1", "http://h:-1/v1", "http://%/v1"),
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_cannot_be_one_is_refused_when_the_suite_is_read(address: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        JudgeSettings(kind="openai", model="m", base_url=address)


@pytest.mark.parametrize(
    "address", ["http://[::1]:8000/v1", "https://h.example/v1/", "HTTP://H_x:1", "https://例え.jp/v1"]
)
def test_an_address_that_can_be_one_is_taken_as_it_stands(address: str) -> None:
    assert JudgeSettings(kind="openai", model="m", base_url=address).base_url == address


def test_the_environment_does_not_steer_where_the_judge_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.example/v1")
    monkeypatch.setenv("JUDGE_KEY", "sk-something-long")
    judge, _ = choose(JudgeSettings(kind="openai", key_env="JUDGE_KEY"))
    assert str(judge._endpoint.client.base_url) == "https://api.openai.com/v1/"  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-“quoted”", "sk-\x7f"])
def test_a_key_that_no_request_can_carry_is_a_sentence_without_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(UserError, match="The key in JUDGE_KEY") as caught:
        choose(JudgeSettings(kind="openai", key_env="JUDGE_KEY"))
    assert key not in str(caught.value)


def test_a_reply_is_bounded_and_the_bound_is_no_part_of_the_judges_identity(server: Server, judge: MakeJudge) -> None:
    long, short = judge(max_tokens=300), judge(max_tokens=200)
    assert long.identity == short.identity
    long.score(RUBRIC, [Item("a")])
    short.score(RUBRIC, [Item("a"), Item("b")])
    assert [request["max_tokens"] for request in server.requests] == [300, 200]


def test_a_bound_among_the_options_is_the_one_that_is_sent(server: Server, judge: MakeJudge) -> None:
    judge(options={"max_completion_tokens": 50}).score(RUBRIC, [Item("a")])
    assert "max_tokens" not in server.requests[0]
    assert JudgeSettings(options={"max_completion_tokens": 50}).output_limit == 50


def test_the_reference_judge_ranks_by_likeness_and_reaches_both_ends() -> None:
    reference = "客户要求退款，已转交售后处理。"
    items = [Item(text, reference) for text in (reference, "客户要求退款，已处理。", "今天天气很好", "")]
    scores = [verdict.score or 0.0 for verdict in ReferenceJudge().score(RUBRIC, items)]
    assert scores[0] == 1.0
    assert 1 > scores[1] > scores[2] >= scores[3] == 0


def test_the_reference_judge_agrees_with_sacrebleu() -> None:
    import sacrebleu

    expected = sacrebleu.sentence_chrf("the cat sat", ["the cat sat down"]).score
    [verdict] = ReferenceJudge().score(RUBRIC, [Item("the cat sat", "the cat sat down")])
    assert verdict.score == pytest.approx(expected / 100)


def test_an_item_without_a_reference_is_unscored() -> None:
    [verdict] = ReferenceJudge().score(RUBRIC, [Item("an answer", " ")])
    assert (verdict.score, verdict.state) == (None, "unscored")
