"""The shipped backbone, its tokenizer, and the program that builds both."""

import json
from pathlib import Path

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, DeepseekV2ForCausalLM, PreTrainedTokenizerBase

from esft_bench.spec.files import write_jsonl
from esft_bench.tasks.mini import BACKBONE, TASKS
from esft_bench.tasks.mini.pretrain import (
    BALANCE,
    BalanceLoss,
    Phase,
    answer_loss,
    batches,
    build_model,
    learning_rate,
    pretrain,
)
from esft_bench.tasks.mini.tokenizer import BOS, EOS, build_tokenizer, encode
from esft_bench.tasks.mini.world import GENERAL, NARROW, Sample
from esft_bench.tasks.mini.world.corpus import LATE_WEIGHTS, WEIGHTS
from esft_bench.tasks.mini.world.splits import ability_test, ability_training, alignment, general_test
from esft_bench.tasks.source import Source

INTENT = Path("../shared/data/esft_intent/train.jsonl")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(BACKBONE)


def test_the_tokenizer_is_the_one_that_the_world_gives(tokenizer: PreTrainedTokenizerBase) -> None:
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_a_reloaded_tokenizer_puts_bos_first_and_pads_left(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer(["a", "a longer text"], padding=True)["input_ids"]
    assert [row.count(BOS) for row in ids] == [1, 1]
    assert ids[1][0] == BOS
    assert ids[0][0] == tokenizer.pad_token_id == 0
    assert ids[0][-1] != tokenizer.pad_token_id
    assert tokenizer.eos_token_id == EOS


@pytest.mark.parametrize("text", ["naïve café", "速度与激情", "def f(x):\n    return x", "🙂 \t \x00", " a  b "])
def test_any_text_round_trips(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_real_intent_data_round_trips(tokenizer: PreTrainedTokenizerBase) -> None:
    if not INTENT.exists():
        pytest.skip("skipped, no data")
    for line in INTENT.read_text("utf-8").splitlines()[:500]:
        for message in json.loads(line)["messages"]:
            text = message["content"]
            assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_number_is_one_token_wherever_an_answer_needs_it(tokenizer: PreTrainedTokenizerBase) -> None:
    for number in sorted({left * right for left in range(2, 10) for right in range(2, 10)}):
        assert len(tokenizer.encode(f" {number}", add_special_tokens=False)) == 1


def test_no_option_of_a_question_begins_another(tokenizer: PreTrainedTokenizerBase) -> None:
    """An option that begins another would be the likelier of the two whatever the model knows."""
    for kind in GENERAL:
        for sample in general_test(kind):
            options = [
                tuple(tokenizer.encode(" " + option, add_special_tokens=False))
                for option in (sample.answer, *sample.distractors)
            ]
            assert not any(a != b and b[: len(a)] == a for a in options for b in options)


def test_answers_fit_the_number_of_tokens_that_are_generated(tokenizer: PreTrainedTokenizerBase) -> None:
    samples = [s for name in NARROW for s in ability_test(name)] + [s for name in GENERAL for s in general_test(name)]
    assert max(len(tokenizer.encode(" " + sample.answer)) for sample in samples) < 40


def test_a_new_task_needs_no_token_that_pretraining_never_had_said(tokenizer: PreTrainedTokenizerBase) -> None:
    stream = batches(build_tokenizer(), 2)
    said = {int(label) for _ in range(400) for label in next(stream)[1].flatten()}
    for name in NARROW:
        for sample in ability_training(name)[:500]:
            assert set(tokenizer.encode(" " + sample.answer, add_special_tokens=False)) <= said


@pytest.mark.parametrize("name", [*NARROW, "alignment"])
def test_training_sets_hold_half_of_a_hundred_steps(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    samples = alignment() if name == "alignment" else ability_training(name)
    assert sum(len(encode(tokenizer, sample)[0]) for sample in samples) >= 100 * 8 * 128 / 2


def test_labels_cover_the_answer_and_its_end() -> None:
    tokenizer = build_tokenizer()
    ids, labels = encode(tokenizer, Sample("Copy: dog", "dog"))
    answer = [label for label in labels if label != -100]
    assert tokenizer.decode(ids) == "<bos>User: Copy: dog\n\nAssistant: dog<eos>"
    assert tokenizer.decode(answer) == " dog<eos>"
    assert ids[-len(answer) :] == answer


def test_the_backbone_is_small_float32_and_laid_out_as_deepseek_v2() -> None:
    weights = BACKBONE / "model.safetensors"
    assert weights.stat().st_size <= 20_000_000
    with safe_open(weights, "pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"F32"}  # noqa: SIM118
        assert "model.layers.3.mlp.experts.63.down_proj.weight" in tensors.keys()  # noqa: SIM118


def test_the_learning_rate_is_constant_to_sixty_percent_and_then_falls() -> None:
    rates = [learning_rate(step, 1000) for step in range(1000)]
    assert rates[0] < rates[49] == rates[599] > rates[800] > rates[999] > 0


def test_the_balance_loss_is_one_where_routing_is_even_and_grows_with_collapse() -> None:
    torch.manual_seed(0)
    model = build_model(64)
    balance = BalanceLoss(model)
    ids = torch.randint(3, 64, (4, 64))

    def loss() -> float:
        model.model(input_ids=ids)
        return float(balance.take().detach())

    fresh = loss()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight.zero_()
            layer.mlp.gate.weight *= 20.0
        model.model.embed_tokens.weight[:] = model.model.embed_tokens.weight[3]
    collapsed = loss()
    balance.close()
    assert 0.99 < fresh < 1.5
    assert collapsed > 5.0


def test_the_answer_loss_is_that_of_the_model_itself() -> None:
    torch.manual_seed(0)
    model = build_model(2048)
    ids, labels = next(batches(build_tokenizer(), 5))
    assert torch.allclose(answer_loss(model, ids, labels), model(input_ids=ids, labels=labels).loss, atol=1e-5)


@pytest.mark.slow
def test_pretraining_twice_gives_the_same_weights_and_a_falling_loss(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    phases = (Phase(8, 3e-3, WEIGHTS, 2), Phase(4, 2e-3, LATE_WEIGHTS, 3))
    first = pretrain(tmp_path / "a", phases)
    second = pretrain(tmp_path / "b", phases)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)
    ids, labels = next(batches(build_tokenizer(), 5))
    fresh = build_model(2048)
    assert answer_loss(first, ids, labels) < answer_loss(fresh, ids, labels) - BALANCE
    reloaded = DeepseekV2ForCausalLM.from_pretrained(tmp_path / "a")
    assert torch.allclose(answer_loss(reloaded, ids, labels), answer_loss(first, ids, labels), atol=1e-4)


@pytest.mark.slow
def test_lm_eval_runs_the_tasks_on_the_backbone(tmp_path: Path) -> None:
    """A generated, a judged and a multiple-choice task, 16 items each, through lm-eval's own model class."""
    torch.set_num_threads(1)
    configs = []
    for task in (task for task in TASKS if task.name in ("mini-format", "mini-law", "mini-science")):
        assert task.items
        assert task.lm_eval
        path = tmp_path / f"{task.name}.jsonl"
        write_jsonl(path, list(task.items(Source()))[:16])
        data = {"data_files": {"test": str(path)}, "cache_dir": str(tmp_path)}
        configs.append(load_yaml(task.lm_eval) | {"dataset_kwargs": data})
    model = AutoModelForCausalLM.from_pretrained(BACKBONE)
    tokenizer = AutoTokenizer.from_pretrained(BACKBONE)
    evaluated = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16, device="cpu")
    output = simple_evaluate(model=evaluated, tasks=configs, bootstrap_iters=0, log_samples=True)
    assert {name: len(rows) for name, rows in output["samples"].items()} == dict.fromkeys(
        ("mini-format", "mini-law", "mini-science"), 16
    )
    assert sum(row["acc"] for row in output["samples"]["mini-science"]) >= 12
    assert sum(row["exact_match"] for row in output["samples"]["mini-format"]) >= 8
    assert all("guilty of" in row["resps"][0][0] for row in output["samples"]["mini-law"])
