"""Selections and scores that are given, by value or as files, in place of a profile's."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import PreTrainedModel

from esft_bench.methods.atomic import write_json
from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftGate, EsftToken
from esft_bench.methods.esft_lora import EsftLora
from esft_bench.methods.method import Context
from esft_bench.methods.moe.experts import selected_experts
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.random_experts import RandomExperts
from esft_bench.methods.unrelated_experts import UnrelatedExperts
from tests.conftest import build
from tests.methods.helpers import (
    profiled,
)

Checkpoints = Callable[[str], Path]
Models = Callable[..., PreTrainedModel]


def summary(folder: Path, experts: int, layers: tuple[int, ...] = (1, 2), value: float | None = None) -> Path:
    """An official score file in which expert 1 of each layer leads, or has the score `value`."""
    row = {str(expert): 0.1 for expert in range(experts)} | {"1": 0.9 if value is None else value}
    path = folder / "summary.json"
    path.write_text(json.dumps({"token_scores": {str(layer): row for layer in layers}}))
    return path


def test_a_given_selection_is_trained_whatever_the_profile_says(tiny_model: Models, tmp_path: Path) -> None:
    write_json(tmp_path / "expert_cfg.json", {"experts": {"1": [7, 2], "2": [0]}, "shared_experts": False})
    model = tiny_model("deepseek-v2")
    for source in (tmp_path, tmp_path / "expert_cfg.json", {1: [7, 2], 2: [0]}):
        assert EsftGate.model_validate({"selection": source}).select(profiled(model)) == {1: [7, 2], 2: [0]}
    method = EsftToken.model_validate({"selection": str(tmp_path)})
    method.check_model(model)
    method.prepare(model, Context(seed=0, profile=profiled(model)))
    assert {i: selected_experts(layer) for i, layer in moe_layers(model).items()} == {1: [7, 2], 2: [0]}
    (tmp_path / "expert_cfg.json").unlink()
    assert EsftToken.model_validate(method.model_dump(mode="json")).selection == {1: [7, 2], 2: [0]}


def test_ablations_take_their_counts_from_a_given_selection(tiny_model: Models) -> None:
    of = EsftToken(selection={1: [7, 2, 3], 2: [0]})
    for ablation in (RandomExperts(of=of), UnrelatedExperts(of=of)):
        chosen = ablation.select(profiled(tiny_model("deepseek-v2")), Context(seed=0))
        assert {layer: len(ids) for layer, ids in chosen.items()} == {1: 3, 2: 1}


def test_given_scores_are_selected_from_in_place_of_the_profiles(tiny_model: Models, tmp_path: Path) -> None:
    model = tiny_model("deepseek-v2")
    method = EsftToken.model_validate({"scores": str(summary(tmp_path, 8)), "p": 0.6})
    method.check_model(model)
    assert method.select(profiled(model)) == {1: [1, 0], 2: [1, 0]}
    assert EsftToken.model_validate(method.model_dump(mode="json")) == method


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({9: [0]}, "names layer 9; the model's MoE layers are 1, 2"),
        ({1: [8]}, "expert 8 in layer 1"),
        ({1: []}, "empty"),
    ],
)
def test_a_given_selection_of_another_model_is_refused_before_anything_is_trained(
    selection: dict[int, list[int]], message: str
) -> None:
    with torch.device("meta"):
        model = build("deepseek-v2")
    for method in (
        EsftGate(selection=selection),
        EsftLora(selection=selection),
        RandomExperts(of=EsftToken(selection=selection)),
    ):
        with pytest.raises(MethodError, match=message):
            method.check_model(model)


@pytest.mark.parametrize(("experts", "layers"), [(6, (1, 2)), (8, (1, 2, 3)), (8, (0, 1))])
def test_a_score_file_of_another_model_is_refused(tmp_path: Path, experts: int, layers: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = build("deepseek-v2")
    method = EsftToken.model_validate({"scores": str(summary(tmp_path, experts, layers))})
    with pytest.raises(MethodError, match=rf"given scores are of \[{experts}\] experts in layers .*{layers[-1]}\]"):
        method.check_model(model)


def test_files_that_hold_no_selection_or_no_scores_are_refused_by_name(tmp_path: Path) -> None:
    for settings, message in (
        ({"selection": str(tmp_path)}, r"is not an ESFT adapter: it has no expert_cfg\.json"),
        ({"scores": str(tmp_path / "none.json")}, r"no score file .*none\.json"),
        ({"scores": str(summary(tmp_path, 8, value=math.nan))}, "score of expert 1 in layer 1 is nan"),
        ({"scores": {1: [0.5, math.inf]}}, "score of expert 1 in layer 1 is inf"),
        ({"scores": str(tmp_path / "any.json"), "score": "contribution"}, "gate and token scores, not contribution"),
        ({"scores": {1: [1.0]}, "selection": {1: [0]}}, "give one of the two"),
    ):
        with pytest.raises(ValidationError, match=message):
            EsftToken.model_validate(settings)
    (tmp_path / "expert_cfg.json").write_text('{"experts": {"1": ["first"]}}')
    with pytest.raises(ValidationError, match=r"expert_cfg\.json: experts\.1\.0"):
        EsftToken.model_validate({"selection": str(tmp_path)})
