"""What a method refuses before anything is computed, by a model's architecture alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context
from tests.conftest import build
from tests.methods.helpers import (
    TRAINING,
    profiled,
)

Checkpoints = Callable[[str], Path]
Models = Callable[..., PreTrainedModel]


OF_EXPERTS = {name for name, method in TRAINING.items() if method.needs_profile}


@pytest.mark.parametrize("name", sorted(OF_EXPERTS | {"lora-experts", "all-experts", "attention-router"}))
def test_every_method_that_touches_experts_refuses_a_dense_model_from_its_architecture_alone(name: str) -> None:
    with torch.device("meta"):
        dense, sparse = build("dense"), build("deepseek-v2")
    with pytest.raises(MethodError, match="LlamaForCausalLM is not a mixture-of-experts model"):
        TRAINING[name].check_model(dense)
    TRAINING[name].check_model(sparse)


def test_methods_that_touch_no_experts_take_a_dense_model() -> None:
    with torch.device("meta"):
        dense = build("dense")
    for method in (FullFineTuning(), Lora()):
        method.check_model(dense)


def test_training_shared_experts_is_refused_where_there_are_none(tiny_model: Models) -> None:
    with pytest.raises(MethodError, match="shared_experts is set, but OlmoeForCausalLM has no shared experts"):
        EsftToken(shared_experts=True).check_model(tiny_model("olmoe"))


def test_a_profile_of_another_model_is_refused(tiny_model: Models) -> None:
    model, other = tiny_model("deepseek-v2"), profiled(tiny_model("olmoe"))
    with pytest.raises(MethodError, match="profile"):
        EsftToken().prepare(model, Context(seed=0, profile=other))
    with pytest.raises(MethodError, match="profile"):
        EsftToken().prepare(model, Context(seed=0))
