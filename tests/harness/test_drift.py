"""How far a model has moved: bits a byte are lm-eval's own, and the divergence is what its equation says."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from esft_bench.harness.backbone.model import load_model, load_tokenizer
from esft_bench.harness.backbone.prompts import text_ids
from esft_bench.harness.evaluate import asked, evaluate
from esft_bench.harness.serving import canary
from esft_bench.harness.serving.divergence import divergence, draw
from esft_bench.harness.serving.engines import TransformersEngine, VllmEngine
from esft_bench.harness.serving.local_lm import LocalLM
from esft_bench.harness.serving.requests import TrainingIds
from esft_bench.harness.steps.step import silent
from esft_bench.tasks.general_text import LONG, passages
from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.source import Source
from tests.conftest import build
from tests.harness.conftest import BACKBONE, Checkpoint, untrained

PROMPTS = [{"id": f"p-{n}", "prompt": text, "answer": ""} for n, text in enumerate(["Say 7.", "a b c", "", "x" * 300])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with the shipped tokenizer that reads 64 tokens."""
    made = tmp_path_factory.mktemp("model")
    build("olmoe", vocab_size=2048, max_position_embeddings=128).save_pretrained(made)
    load_tokenizer(BACKBONE).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def lm(folder: Path) -> LocalLM:
    engine = TransformersEngine()
    engine.load(untrained(folder), canary.measure(load_model(folder), [[1, 5, 9]]))
    found = engine.lm()
    assert isinstance(found, LocalLM)
    return found


@torch.no_grad()
def by_hand(model: torch.nn.Module, ids: list[int], known: int) -> float:
    """The log-likelihood of the ids from place `known` on, given all before them."""
    logits = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return sum(float(logits[place - 1, ids[place]]) for place in range(known, len(ids)))


def test_a_texts_likelihood_is_that_of_its_tokens_after_bos(lm: LocalLM, folder: Path) -> None:
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    texts = ["The cat sat. " * 20, "Other."]
    asked = [Instance("loglikelihood_rolling", {}, (text,), n) for n, text in enumerate(texts)]
    expected = [by_hand(model, [1, *text_ids(tokenizer, text)], 1) for text in texts]
    assert lm.loglikelihood_rolling(asked) == pytest.approx(expected, rel=1e-5)


class Recorder(TrainingIds):
    """Notes what is asked; each token's log-likelihood is -1."""

    prefix_token_id = 1

    def __init__(self, max_length: int) -> None:
        self.tokenizer, self.max_length = load_tokenizer(BACKBONE), max_length
        self.asked: list[tuple[list[int], list[int]]] = []

    def _loglikelihood_tokens(self, requests, **_: object) -> list[tuple[float, bool]]:  # type: ignore[no-untyped-def]
        self.asked += [(context, continuation) for _, context, continuation in requests]
        return [(-float(len(continuation)), False) for _, _, continuation in requests]


@given(st.text(max_size=300), st.integers(8, 80))
def test_windows_of_a_text_hold_each_token_once_after_the_tokens_before_it(text: str, longest: int) -> None:
    recorder = Recorder(longest)
    ids = text_ids(recorder.tokenizer, text)
    assert recorder.loglikelihood_rolling([SimpleNamespace(args=(text,))]) == [-len(ids)]
    assert [token for _, continuation in recorder.asked for token in continuation] == ids
    done = 0
    for context, continuation in recorder.asked:
        assert context == [1, *ids][: done + 1][-len(context) :]
        assert len(context) >= 1
        assert len(context) + len(continuation) < longest
        done += len(continuation)


@pytest.mark.parametrize("name", ["mini-text", "general-text"])
def test_the_mean_of_the_items_is_lm_evals_own_bits_per_byte(lm: LocalLM, name: str) -> None:
    task = load_tasks()[name]
    texts = ["Short.", "A longer text than that, with é and 速度.", "x"]
    items = [{"id": str(n), "prompt": "Say:", "answer": text} for n, text in enumerate(texts)]
    found = evaluate(lm, [asked(task, items)])[name]
    told = found.results["results"][name]
    values = [score.score for score in found.scores if score.score is not None]
    assert np.mean(values) == pytest.approx(told["bits_per_byte,none"])
    assert values[1] > values[0] > 0


def test_passages_of_general_text_are_of_like_length_and_lose_nothing_but_blank_lines() -> None:
    lines = [f"line {n} " + "x" * 150 for n in range(60)]
    found = list(passages(iter([*lines[:30], "", "\n".join(lines[30:])])))
    assert all(LONG <= len(passage) + passage.count("\n") < LONG + 400 for passage in found[:-1])
    assert "\n".join(found).split("\n") == lines[: len("\n".join(found).split("\n"))]


def test_general_text_is_read_from_a_folder_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "general_text").mkdir()
    (tmp_path / "general_text" / "test.jsonl").write_text(json.dumps({"text": "word " * 500}) + "\n")
    found = list(load_tasks()["general-text"].items(Source(tmp_path)))  # type: ignore[misc]
    assert len(found) == 1
    assert found[0]["answer"].startswith("word word")


def test_no_text_of_drift_is_about_what_alignment_data_know() -> None:
    tasks = load_tasks()
    trained = {row[0]["content"] for row in tasks["mini-alignment"].training(Source())}  # type: ignore[misc]
    for name in ("mini-text", "mini-own-answers"):
        prompts = [item["prompt"] for item in tasks[name].items(Source())]  # type: ignore[misc]
        assert len(set(prompts)) == len(prompts)
        assert sum(prompt in trained for prompt in prompts) < len(prompts) / 50


def test_a_model_does_not_diverge_from_itself(lm: LocalLM) -> None:
    drawn = draw(lm, PROMPTS, silent)
    scores = divergence(lm, drawn)
    assert [score.id for score in scores] == [item["id"] for item in PROMPTS]
    assert [score.score for score in scores] == pytest.approx([0.0] * len(PROMPTS), abs=1e-6)


def test_answers_are_drawn_anew_with_another_seed_and_the_same_with_the_same(lm: LocalLM) -> None:
    prompts = [[1, 5, 9], [1, 7]]
    first, again, other = (lm.sample(prompts, 12, seed) for seed in (1, 1, 2))
    assert first == again != other
    end = lm.tokenizer.eos_token_id
    assert all(len(answer) == 12 or answer[-1] == end for answer in first)
    assert all(end not in answer[:-1] for answer in first)


class Categorical:
    """A model whose answers are one token each, with known probabilities."""

    max_length = 512

    def __init__(self, tokenizer: object, likely: list[float]) -> None:
        self.tokenizer, self.likely = tokenizer, np.array(likely)

    def sample(self, prompts: Sequence[list[int]], longest: int, seed: int) -> list[list[int]]:
        return [[int(one)] for one in np.random.default_rng(seed).choice(3, len(prompts), p=self.likely)]

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        return [(math.log(self.likely[answer[0]]), False) for _, _, answer in requests]


def test_the_estimate_is_the_divergence_of_known_distributions() -> None:
    tokenizer = load_tokenizer(BACKBONE)
    p, q = [0.6, 0.3, 0.1], [0.2, 0.3, 0.5]
    exact = sum(a * math.log2(a / b) for a, b in zip(p, q, strict=True))
    prompts = [{"id": str(n), "prompt": "", "answer": ""} for n in range(4000)]
    drawn = draw(Categorical(tokenizer, p), prompts, silent)
    scores = [score.score for score in divergence(Categorical(tokenizer, q), drawn)]
    error = np.std(scores) / len(scores) ** 0.5
    assert abs(np.mean(scores) - exact) < 4 * error < 0.15


@pytest.mark.slow
def test_the_server_gives_the_likelihoods_of_transformers(engine: VllmEngine, checkpoints: list[Checkpoint]) -> None:
    engine.load(checkpoints[0].model, checkpoints[0].canary)
    local = TransformersEngine()
    local.load(checkpoints[0].model, checkpoints[0].canary)
    asked = [Instance("loglikelihood_rolling", {}, ("The cat sat. " * 40,), 0)]
    whole = SimpleNamespace(args=("Short.",))
    server, there = engine.lm(), local.lm()
    assert server.loglikelihood_rolling([*asked, whole]) == pytest.approx(
        there.loglikelihood_rolling([*asked, whole]), rel=1e-4
    )
    drawn = draw(server, PROMPTS, silent)
    assert [score.score for score in divergence(there, drawn)] == pytest.approx([0.0] * len(drawn), abs=1e-3)
