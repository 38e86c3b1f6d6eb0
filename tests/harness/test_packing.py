"""Samples of one sequence do not attend to each other, whatever the attention, unless a suite asks for it."""

import itertools

import pytest
import torch
from transformers import Lfm2MoeConfig, Lfm2MoeForCausalLM

from esft_bench.harness.training.data import IGNORED, Sample, packed, profiling_batches, profiling_sequences, stack
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.harness.training.packing import check_isolation
from esft_bench.methods.moe.packing import apart
from esft_bench.methods.moe.profile import profile
from esft_bench.spec.errors import UserError
from esft_bench.spec.suite import Profiling
from esft_bench.spec.suite_file import available, load
from esft_bench.spec.training import Training
from tests.conftest import ARCHITECTURES, build


def samples(*lengths: int) -> list[Sample]:
    """Random samples of these lengths whose second half counts."""
    draw = torch.Generator().manual_seed(sum(lengths))
    rows = [torch.randint(3, 96, (length,), generator=draw).tolist() for length in lengths]
    return [Sample(ids, [IGNORED] * (len(ids) // 2) + ids[len(ids) // 2 :]) for ids in rows]


def summed(model: torch.nn.Module, rows: list[Sample]) -> float:
    """The loss of a batch."""
    with torch.no_grad():
        return float(AnswerLoss(model)(**stack(rows)))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_packed_sample_has_the_loss_that_it_has_alone(architecture: str, attention: str) -> None:
    if (architecture, attention) == ("gpt-oss", "sdpa"):
        pytest.skip("gpt-oss has sinks, which SDPA has not")
    model = build(architecture, attn_implementation=attention, max_position_embeddings=64)
    own = samples(7, 4, 9)
    alone = sum(summed(model, [sample]) for sample in own)
    (sequence,) = itertools.islice(packed(iter(own), 20, "within"), 1)
    assert summed(model, [sequence]) == pytest.approx(alone, rel=1e-5)
    (crossed,) = itertools.islice(packed(iter(own), 20, "across"), 1)
    assert abs(summed(model, [crossed]) - alone) > 1e-3
    check_isolation(model)


def test_a_batch_for_flash_attention_is_one_row_with_the_same_loss() -> None:
    model = build("olmoe", max_position_embeddings=64)
    rows = list(itertools.islice(packed(itertools.cycle(samples(6, 4, 5)), 15, "within"), 2))
    expected = summed(model, rows)
    model.config._attn_implementation = "flash_attention_2"
    flat = apart(model, stack(rows))
    model.config._attn_implementation = "sdpa"
    flat.pop("attention_mask", None)
    assert {name: tuple(tensor.shape) for name, tensor in flat.items()} == dict.fromkeys(flat, (1, 30))
    with torch.no_grad():
        assert float(AnswerLoss(model)(**flat)) == pytest.approx(expected, rel=1e-5)


def test_layers_that_carry_a_state_along_are_found_out() -> None:
    torch.manual_seed(0)
    config = Lfm2MoeConfig(
        **{"vocab_size": 96, "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16},
        **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "num_experts": 4},
        **{
            "num_experts_per_tok": 2,
            "num_dense_layers": 1,
            "initializer_range": 0.2,
            "layer_types": ["conv", "full_attention"],
        },
    )
    with pytest.raises(UserError, match=r"set training\.packed_attention and profiling\.packed_attention to across"):
        check_isolation(Lfm2MoeForCausalLM(config).eval())


def test_experts_are_profiled_as_if_samples_stood_alone() -> None:
    model, own = build("qwen3-moe", max_position_embeddings=64), samples(8, 8)
    wanted = Profiling(sequences=1, sequence_length=16)
    first, _ = profiling_sequences(own, wanted)
    together = profile(model, profiling_batches(first))
    alone = profile(model, profiling_batches(own))
    assert torch.equal(together.token_counts, alone.token_counts)
    torch.testing.assert_close(together.gate_sums, alone.gate_sums, rtol=1e-5, atol=1e-6)
    crossed, _ = profiling_sequences(own, wanted.model_copy(update={"packed_attention": "across"}))
    assert not torch.equal(profile(model, profiling_batches(crossed)).gate_sums, alone.gate_sums)


def test_the_papers_suites_pack_as_the_official_code_does_and_others_keep_samples_apart() -> None:
    assert Training().packed_attention == Profiling().packed_attention == "within"
    for name in available():
        suite = load(name)
        if (suite.paper and suite.training.packing) or name.startswith("mini"):
            assert suite.training.packed_attention == suite.profiling.packed_attention == "across", name
            assert suite.backbone.prompt == "release" or suite.backbone.path == "mini"
