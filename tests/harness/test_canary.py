import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import PreTrainedModel

from esft_bench.harness.serving.canary import Canary, compare, measure
from esft_bench.spec.errors import UserError

PROMPTS = [[1, 5, 9, 3], [1, 7]]


def test_it_holds_the_log_probability_of_each_token_after_the_first(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("olmoe")
    canary = measure(model, PROMPTS)
    with torch.no_grad():
        distribution = model(torch.tensor([PROMPTS[0]])).logits[0].softmax(-1)
    expected = [math.log(distribution[place, token]) for place, token in enumerate(PROMPTS[0][1:])]
    assert canary.logprobs[0] == pytest.approx(expected, abs=1e-5)
    assert [len(row) for row in canary.logprobs] == [3, 1]


def test_measuring_leaves_a_model_in_training_as_it_was(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("olmoe").train()
    measure(model, PROMPTS)
    assert model.training


def test_a_change_of_one_expert_shows(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("olmoe")
    before = measure(model, [list(range(1, 40))])
    with torch.no_grad():
        model.model.layers[0].mlp.experts.down_proj[2].mul_(1.5)
    assert compare(before, measure(model, before.prompts)) > 1e-3


def test_it_survives_the_disk_to_the_last_bit(tmp_path: Path, tiny_model: Callable[..., PreTrainedModel]) -> None:
    canary = measure(tiny_model("olmoe"), PROMPTS)
    canary.save(tmp_path / "canary.json")
    assert Canary.load(tmp_path / "canary.json") == canary


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=8), st.data())
def test_the_difference_is_the_largest_anywhere(row: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(row) - 1))
    shift = data.draw(st.floats(0.01, 5))
    prompt = list(range(len(row) + 1))
    canary = Canary(prompts=[prompt], logprobs=[row])
    moved = Canary(prompts=[prompt], logprobs=[[*row[:place], row[place] - shift, *row[place + 1 :]]])
    assert compare(canary, canary) == 0
    assert compare(canary, moved) == compare(moved, canary) == pytest.approx(shift)


def test_not_a_number_never_passes() -> None:
    canary = Canary(prompts=[[1, 2]], logprobs=[[-1.0]])
    assert compare(canary, Canary(prompts=[[1, 2]], logprobs=[[math.nan]])) == math.inf


def test_a_model_that_gives_no_numbers_is_refused_where_it_is_measured(
    tiny_model: Callable[..., PreTrainedModel],
) -> None:
    model = tiny_model("olmoe")
    with torch.no_grad():
        model.lm_head.weight[5] = math.nan
    with pytest.raises(UserError, match="no finite numbers"):
        measure(model, PROMPTS)


def test_different_prompts_are_not_compared() -> None:
    canary = Canary(prompts=[[1, 2]], logprobs=[[-1.0]])
    with pytest.raises(ValueError, match="different prompts"):
        compare(canary, Canary(prompts=[[1, 3]], logprobs=[[-1.0]]))


def test_a_file_with_a_missing_value_is_no_canary(tmp_path: Path) -> None:
    (tmp_path / "canary.json").write_text('{"prompts": [[1, 2, 3]], "logprobs": [[-1.0]]}')
    with pytest.raises(ValidationError, match="one log-probability"):
        Canary.load(tmp_path / "canary.json")
