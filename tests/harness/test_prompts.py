"""Prompt formats: what is trained on and what is asked have the same ids, and users' texts are texts."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.harness.backbone.model import load_model, load_tokenizer
from esft_bench.harness.backbone.prompts import ChatTemplate, Form, Release, ends, form_of, question_ids
from esft_bench.harness.evaluate import lm_eval_task
from esft_bench.harness.plan.prompting import Prompting, with_prompt
from esft_bench.harness.serving import canary
from esft_bench.harness.serving.client import Client
from esft_bench.harness.serving.engines import TransformersEngine
from esft_bench.harness.serving.lm import ServerLM
from esft_bench.harness.training.data import IGNORED, encode, first_turns, turn_ids
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import write_jsonl
from esft_bench.spec.suite import Backbone
from esft_bench.tasks.task import turn
from tests.harness.conftest import untrained
from tests.harness.speakers import checkpoint, tokenizer

KINDS: dict[str, tuple[str | None, bool]] = {
    "release with BOS": (None, True),
    "release without BOS": (None, False),
    "template without BOS": ("qwen3", False),
    "template with BOS": ("mixtral", True),
    "template that leaves BOS out": ("qwen3", True),
}
LONG: list[Any] = [*turn("one", "1"), *turn("two", "2"), *turn("three", "3")]
SYSTEM: list[Any] = [{"role": "system", "content": "Be brief."}, *turn("Say <s>.", "so <|im_end|>")]
TOOLS: list[Any] = [
    {"role": "user", "content": "Sum?", "tools": [{"type": "function", "function": {"name": "sum"}}]},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "sum", "arguments": {"of": [1, 2]}}]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]


def made(kind: str) -> Form:
    template, bos = KINDS[kind]
    return form_of("auto", tokenizer(template, bos=bos))


def counted(form: Form, sample: Any) -> str:
    """What the loss counts of a sample, as text."""
    return str(form.tokenizer.decode([label for label in sample.labels if label != IGNORED]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [turn("how are you", "so so"), LONG], ids=["one turn", "three turns"])
def test_what_is_asked_before_an_answer_has_the_ids_that_were_trained_on(kind: str, row: Any) -> None:
    form = made(kind)
    samples = encode(form, row)
    trained = [tuple(sample.ids[:end]) for sample in samples for end in range(len(sample.ids))]
    for place, message in enumerate(row):
        if message["role"] == "assistant":
            assert tuple(question_ids(form.tokenizer, form.question(row[:place]))) in trained
    assert sum(counted(form, sample).count("3") for sample in samples) == (row is LONG)


@pytest.mark.parametrize("kind", KINDS)
def test_bos_stands_once_at_the_beginning_or_nowhere(kind: str) -> None:
    form = made(kind)
    (sample,) = encode(form, turn("a", "b"))
    wanted = kind not in ("release without BOS", "template without BOS", "template that leaves BOS out")
    assert sample.ids.count(1) == wanted
    assert (sample.ids[0] == 1) == wanted


@pytest.mark.parametrize("kind", ["template without BOS", "template with BOS", "template that leaves BOS out"])
@given(asked=st.text(min_size=1), answered=st.text(st.characters(min_codepoint=33, codec="utf-8"), min_size=1))
def test_a_template_gives_the_ids_that_transformers_makes_of_it(kind: str, asked: str, answered: str) -> None:
    form, row = made(kind), turn(asked, answered)
    (sample,) = encode(form, row)
    theirs = form.tokenizer.apply_chat_template(row, tokenize=True, return_dict=False)
    assert sample.ids == theirs[: len(sample.ids)]
    assert form.tokenizer.decode(theirs[len(sample.ids) :]).strip() == ""
    prompt = form.tokenizer.apply_chat_template(
        row[:1], tokenize=True, return_dict=False, add_generation_prompt=True, enable_thinking=False
    )
    assert question_ids(form.tokenizer, form.question(row[:1])) == prompt


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token", ["</s>", "<s>", "<|im_end|>", "<pad>"])
def test_a_control_token_in_a_users_text_is_text(kind: str, token: str) -> None:
    form = made(kind)
    number = form.tokenizer.convert_tokens_to_ids(token)
    (plain,), (written,) = encode(form, turn("a", "b")), encode(form, turn(f"a{token}", f"b {token}{token}"))
    assert written.ids.count(number) == plain.ids.count(number)
    assert len(written.ids) == len(plain.ids) + 3 * len(token) + 1
    assert token in form.tokenizer.decode(written.ids, skip_special_tokens=True)


def test_several_turns_are_one_sample_where_a_template_repeats_what_it_said_and_one_each_where_not() -> None:
    assert len(encode(made("template with BOS"), LONG)) == 1
    form = made("template without BOS")
    assert [counted(form, sample) for sample in encode(form, LONG)] == [f"{n}<|im_end|>" for n in (1, 2, 3)]


def test_system_messages_and_tools_are_kept_where_the_format_has_them() -> None:
    form = made("template without BOS")
    (sample,) = encode(form, SYSTEM)
    assert "system\nBe brief.<|im_end|>" in form.tokenizer.decode(sample.ids)
    call, said = encode(form, TOOLS)
    assert counted(form, call).startswith('<tool_call>\n{"name": "sum"')
    assert counted(form, said) == "It is 3.<|im_end|>"
    assert 'Tools: [{"type": "function"' in form.tokenizer.decode(said.ids)


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        ("release with BOS", SYSTEM, "`release` has no place for messages of the role 'system'"),
        ("release with BOS", TOOLS[2:], "no place for messages of the role 'tool'"),
        ("release with BOS", TOOLS[:2], "no place for tools"),
        ("template with BOS", SYSTEM, "the chat template cannot take it .*must alternate"),
    ],
)
def test_roles_that_a_format_cannot_take_are_refused(kind: str, row: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        made(kind).turns(row)


def test_a_template_that_asks_for_the_date_gives_the_same_ids_on_any_day() -> None:
    form = form_of("chat_template", tokenizer("dated"))
    assert "2025-01-01" in form.question(turn("a", "b")[:1])


def test_the_end_of_a_turn_ends_an_answer_too() -> None:
    assert ends(tokenizer()) == [2]
    assert ends(tokenizer("mixtral")) == [2]
    assert ends(tokenizer("qwen3")) == [2, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_both_engines_are_asked_in_the_ids_of_training(tmp_path: Path, kind: str) -> None:
    template, bos = KINDS[kind]
    folder = checkpoint(tmp_path / "model", "olmoe", template, bos=bos, pad=False)
    form = form_of("auto", load_tokenizer(folder))
    rows = [turn("how are you", "so so"), turn("Say </s>.", "</s>")]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    turns = first_turns(form, tmp_path / "rows.jsonl", 2)
    prompts = [turn_ids(form, *each) for each in turns]
    engine = TransformersEngine()
    engine.load(untrained(folder), canary.measure(load_model(folder), prompts, turns))  # the proof that compares ids
    local, remote = engine.lm(), ServerLM.connect(Client("http://127.0.0.1:9", 1), folder, 64)
    items = [{"id": str(n), "prompt": row[0]["content"], "answer": row[1]["content"]} for n, row in enumerate(rows)]
    task = lm_eval_task(_Chat(tmp_path), items, form)
    for doc, (sample,) in zip(task.test_docs(), (encode(form, row) for row in rows), strict=True):
        (request,) = [task.construct_requests(doc, task.doc_to_text(doc), metadata=("chat", 0, 1))]
        for lm in (local, remote):
            context, _ = lm._encode_pair(request.args[0], "")
            assert context == sample.ids[: len(context)]
            assert sample.labels[len(context) - 1] == IGNORED != sample.labels[len(context)]
    assert remote.ends == ends(form.tokenizer)


class _Chat:
    """A task that generates, asked in the form that models are trained in."""

    name, metric = "chat", "bypass"
    otherwise: ClassVar[dict[str, Any]] = {}

    def __init__(self, folder: Path) -> None:
        self.lm_eval = folder / "chat.yaml"
        self.lm_eval.write_text(
            "dataset_path: json\ntest_split: test\noutput_type: generate_until\n"
            'doc_to_text: "User: {{prompt}}\\n\\nAssistant:"\ndoc_to_target: "{{answer}}"\n'
        )


@pytest.mark.parametrize(
    ("name", "template", "asked", "found"),
    [
        ("Qwen3-30B-A3B", "qwen3", "auto", "chat_template"),
        ("Qwen3-30B-A3B-Base", "qwen3", "auto", "release"),
        ("Qwen3-30B-A3B", "qwen3", "release", "release"),
        ("my-base-model", "qwen3", "chat_template", "chat_template"),
        ("Databases-Chat", "qwen3", "auto", "chat_template"),
        ("Mixtral", None, "auto", "release"),
    ],
)
def test_the_format_follows_from_the_model_unless_it_is_said(
    tmp_path: Path, name: str, template: str | None, asked: Any, found: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    tokenizer(template).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "mixtral"}))
    assert with_prompt(Backbone(path=str(folder), prompt=asked), folder).prompt == found


def test_a_template_that_is_not_there_is_refused(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"backbone\.prompt: .* has no chat template: set it to release"):
        with_prompt(Backbone(path=str(tmp_path), prompt="chat_template"), tmp_path)


def test_the_plan_says_what_a_template_cannot_take(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "mixtral", "mixtral")
    backbone = with_prompt(Backbone(path=str(folder)), folder)
    assert not Prompting(backbone, folder).refusal(turn("a", "b"))
    assert "must alternate" in Prompting(backbone, folder).refusal(SYSTEM)
    assert "no place for" in Prompting(Backbone(prompt="release"), folder).refusal(SYSTEM)


def test_both_formats_refuse_in_the_words_of_one_sentence() -> None:
    for form in (Release(tokenizer()), ChatTemplate(tokenizer("mixtral"))):
        with pytest.raises(UserError) as refused:
            form.turns(SYSTEM)
        assert "\n" not in str(refused.value)
