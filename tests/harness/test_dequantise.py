"""Quantised numbers: what ours makes of them is what transformers and the plain rule make of them, to the last bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from esft_bench.harness.backbone.dequantise import from_fp8, from_mxfp4
from tests.harness.quantised import of_fp8, to_fp8, to_mxfp4

BLOCK = (128, 128)
SIZE = st.integers(1, 9)
FINITE = torch.tensor([code for code in range(256) if code & 127 != 127], dtype=torch.uint8).view(torch.float8_e4m3fn)


def test_fp8_is_read_as_transformers_reads_it() -> None:
    torch.manual_seed(0)
    packed, scales = to_fp8(torch.randn(256, 384) * torch.logspace(-3, 3, 384))
    theirs = Fp8Dequantize(None).convert({"weight$": packed, "weight_scale_inv": scales}, "weight")["weight"]
    assert torch.equal(from_fp8(packed, scales, BLOCK), (theirs).to(torch.bfloat16))


@given(st.tuples(SIZE, SIZE), st.tuples(SIZE, SIZE), st.integers(0, 999))
def test_each_number_of_fp8_is_multiplied_by_the_scale_of_its_block(
    shape: tuple[int, int], block: tuple[int, int], seed: int
) -> None:
    chance = torch.Generator().manual_seed(seed)
    packed = FINITE[torch.randint(len(FINITE), shape, generator=chance)]
    scales = torch.rand(-(-shape[0] // block[0]), -(-shape[1] // block[1]), generator=chance)
    assert torch.equal(from_fp8(packed, scales, block), of_fp8(packed, scales, block))


@pytest.mark.parametrize("shape", [(128, 128), (1, 1), (130, 257), (127, 129)], ids=str)
def test_fp8_blocks_are_cut_off_at_the_end_of_rows_and_columns(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    packed = FINITE[torch.randint(len(FINITE), shape)]
    scales = torch.rand(-(-shape[0] // 128), -(-shape[1] // 128))
    assert torch.equal(from_fp8(packed, scales, BLOCK), of_fp8(packed, scales))


def test_scales_of_fp8_may_be_powers_of_two_in_a_byte() -> None:
    packed = FINITE[None, :].clone()
    scales = torch.tensor([[120, 130]], dtype=torch.uint8)
    expected = of_fp8(packed, torch.tensor([[2.0**-7, 2.0**3]]))
    assert torch.equal(from_fp8(packed, scales, BLOCK), expected)
    assert torch.equal(from_fp8(packed, scales.view(torch.float8_e8m0fnu), BLOCK), expected)


def test_a_rounded_weight_is_within_the_format_s_precision_of_the_one_it_was() -> None:
    torch.manual_seed(0)
    weight = torch.randn(200, 300)
    packed, scales = to_fp8(weight)
    largest = weight.abs().max()
    assert (from_fp8(packed, scales, BLOCK).float() - weight).abs().max() <= largest * 2**-4


@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (3, 2)], ids=str)
def test_scales_of_another_shape_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"scales are of shape .* where \[2, 3\] is expected"):
        from_fp8(torch.zeros(256, 300).to(torch.float8_e4m3fn), torch.ones(shape), BLOCK)


def test_mxfp4_is_read_as_transformers_reads_it() -> None:
    """All codes and all exponents that bfloat16 holds together."""
    torch.manual_seed(0)
    blocks = torch.randint(256, (2, 6, 20, 16), dtype=torch.uint8)
    scales = torch.randint(1, 252, (2, 6, 20), dtype=torch.uint8)
    ours = torch.stack([from_mxfp4(*one) for one in zip(blocks, scales, strict=True)])
    assert ours.shape == (2, 640, 6)
    assert torch.equal(ours, convert_moe_packed_tensors(blocks, scales))


def test_a_number_of_mxfp4_is_its_sign_times_its_value_times_its_power_of_two() -> None:
    """Plainly, from the format's bits: sign, two of exponent, one of mantissa (MX specification 1.0, Section 5.3.3)."""
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    scales = torch.arange(119, 135, dtype=torch.uint8).view(1, 16)
    found = from_mxfp4(blocks, scales)[:, 0]
    for place in range(512):
        code = (place // 2) & 15 if place % 2 == 0 else (place // 2) >> 4
        exponent, mantissa = code >> 1 & 3, code & 1
        value = (1 + mantissa / 2) * 2.0 ** (exponent - 1) if exponent else mantissa / 2
        assert found[place] == (-1) ** (code >> 3) * value * 2.0 ** (place // 32 - 8)


def test_the_exponent_that_is_no_number_makes_none() -> None:
    blocks, scales = torch.zeros(1, 1, 16, dtype=torch.uint8), torch.tensor([[255]], dtype=torch.uint8)
    assert from_mxfp4(blocks, scales).isnan().all()


def test_numbers_of_mxfp4_are_found_again() -> None:
    torch.manual_seed(0)
    weight = from_mxfp4(*(part[0] for part in to_mxfp4(torch.randn(1, 64, 5))))
    assert torch.equal(from_mxfp4(*(part[0] for part in to_mxfp4(weight[None]))), weight)
