"""Learning rates and rows for a backbone that nobody tuned for: what is known of its size, and what fits the memory."""

import json
import math
from pathlib import Path

import pytest
import transformers

from esft_bench.harness.commands.options import SuiteOptions
from esft_bench.harness.commands.prepare import prepare
from esft_bench.harness.plan.price import fit as fitting
from esft_bench.harness.plan.price.fit import fit, fitting_rows
from esft_bench.harness.plan.price.hardware import Accelerator
from esft_bench.spec.errors import UserError
from esft_bench.spec.learning_rates import known, learning_rate
from tests.harness.plans import graph_of, prepared
from tests.harness.speakers import tokenizer

SUITE = """\
name: fits
tasks: [mini-law]
methods:
  base: {title: Base}
  fft: {title: FFT}
  esft-token: {title: ESFT-Token}
training: {batch_size: 8, sequence_length: 128}
evaluation: {engine: transformers, limit: 2}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    return prepared(tmp_path_factory.mktemp("fits"), SUITE)


@pytest.mark.parametrize("method", known())
def test_rates_between_two_sizes_lie_on_a_line_of_logarithms_and_stay_beyond_the_last(method: str) -> None:
    rows = known()[method]
    low, high = rows[0], rows[-1]
    assert learning_rate(method, 1) == (low.rate, low.source)
    assert learning_rate(method, 10**6) == (high.rate, high.source)
    middle = math.isqrt(low.hidden * high.hidden)
    found = learning_rate(method, middle)
    assert found
    assert found[0] == pytest.approx(math.sqrt(low.rate * high.rate), rel=0.05)
    assert all(row.source for row in rows)


def test_a_method_of_which_nothing_is_known_has_no_rate() -> None:
    assert learning_rate("nobody", 2048) is None


def test_rows_that_do_not_fit_are_left_out_by_name_and_the_others_take_fewer_sequences(made) -> None:
    graph = graph_of(made)
    least = fitting._peaks(made.plan, graph, Accelerator("x", 0.0, 1.0, 1.0), 1)
    whole = fitting._peaks(made.plan, graph, Accelerator("x", 0.0, 1.0, 1.0), 8)
    assert least["esft-token"] < least["fft"] < whole["fft"]
    roomy = fit(made.plan, graph, Accelerator("roomy", 2 * max(whole.values()), 1.0, 1.0))
    assert (dict(roomy.left_out), roomy.micro_batch) == ({}, None)
    tight = fit(made.plan, graph, Accelerator("tight", (least["fft"] - 1) / 0.9, 1.0, 1.0))
    assert list(tight.left_out) == ["fft"]
    assert "FFT is left out: it needs" in tight.left_out["fft"]
    assert tight.micro_batch is None or whole["esft-token"] > 0.9 * (least["fft"] - 1) / 0.9


def test_a_machine_on_which_nothing_can_be_trained_is_one_sentence(made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "this_machine", lambda: Accelerator("a thimble", 1000.0, 1.0, 1.0))
    with pytest.raises(UserError, match="No row can be trained here: FFT is left out"):
        fitting_rows(made.plan, made.store)


LARGE = {
    "hidden_size": 2048,
    "num_hidden_layers": 6,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "head_dim": 128,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 151_936,
    "max_position_embeddings": 40_960,
}
"""Qwen3-30B-A3B, an eighth of its layers: 4.4 billion parameters."""


@pytest.mark.parametrize(("gib", "left_out"), [(2000, set()), (40, {"fft"})])
def test_of_a_large_backbone_whose_weights_are_not_here_the_rows_that_fit_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gib: int, left_out: set[str]
) -> None:
    transformers.Qwen3MoeConfig(architectures=["Qwen3MoeForCausalLM"], **LARGE).save_pretrained(tmp_path / "large")
    tokenizer("qwen3", bos=False).save_pretrained(tmp_path / "large")
    rows = ({"text": f"Film {n} was {'fine' if n % 2 else 'dull'}.", "label": ["no", "yes"][n % 2]} for n in range(60))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitting, "this_machine", lambda: Accelerator("the card", gib * 2.0**30, 1.0, 1.0))
    options = SuiteOptions(data=["rows.jsonl"], engine="transformers", backbone="large")
    made = prepare(options, weights=False)
    assert {"base", "fft", "lora", "esft-token", "esft-gate"} - set(made.plan.suite.methods) == left_out
    told = [note for note in made.notes if "is left out: it needs" in note]
    assert len(told) == len(left_out)
    assert all(f"GiB, and the card has {gib}" in note for note in told)
