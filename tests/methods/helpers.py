"""What the tests of methods share: a few tokens, their profile, some steps of training, and what comes of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.hub import hub_tensors
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.profile import Profile, profile
from esft_bench.methods.moe.view import MoeLayer, moe_layers
from esft_bench.methods.registry import load_methods
from tests.conftest import ARCHITECTURES, build

VARIANTS: dict[str, Method] = {
    "lora-experts": Lora(rank=2, experts=True),
    "esft-shared": EsftToken(shared_experts=True),
    "esft-non-experts": EsftToken(non_expert_modules=True),
}
"""Settings that reach other parts of a model than a method's defaults do."""


def example(method: type[Method]) -> Method:
    """A method with its defaults; a hyperparameter without one takes its first example (`Field(examples=[…])`)."""
    required = {name: field for name, field in method.model_fields.items() if field.is_required()}
    for name, field in required.items():
        assert field.examples, f"{method.__name__}.{name} needs a default, or Field(examples=[...]), to be proved"
    return method.model_validate({name: (field.examples or [None])[0] for name, field in required.items()})


TRAINING = {name: example(method) for name, method in load_methods().items() if method.trains} | VARIANTS
"""Every installed method that trains."""


def _admitted() -> Iterator[tuple[str, str]]:
    with torch.device("meta"):
        models = {architecture: build(architecture) for architecture in (*ARCHITECTURES, "dense")}
    for architecture, model in models.items():
        for name, method in TRAINING.items():
            with suppress(MethodError):
                method.check_model(model)
                yield architecture, name


ADMITTED = list(_admitted())
"""(architecture, method) wherever the method itself says before training that it fits."""
MOE = list(ARCHITECTURES)
each_moe = pytest.mark.parametrize("architecture", MOE)


def tokens(rows: int = 4, length: int = 12, seed: int = 1) -> Tensor:
    """Random token ids, no padding among them."""
    return torch.randint(3, 96, (rows, length), generator=torch.Generator().manual_seed(seed))


def profiled(model: PreTrainedModel) -> Profile:
    """A profile of the tokens above."""
    ids = tokens()
    return profile(model, [(ids, torch.ones_like(ids))])


def train(model: PreTrainedModel, parameters: Sequence[nn.Parameter], steps: int = 3) -> torch.optim.Optimizer:
    """Some AdamW steps, with a weight decay that would move anything it reached."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.5)
    ids = tokens()
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def backward(model: PreTrainedModel) -> None:
    """The gradients of the loss on the tokens above."""
    ids = tokens()
    model(input_ids=ids, labels=ids).loss.backward()


def logits(model: PreTrainedModel) -> Tensor:
    """The model's logits on the tokens above."""
    with torch.no_grad():
        output: Tensor = model.eval()(input_ids=tokens()).logits
    return output


def general(model: PreTrainedModel) -> Profile:
    """A profile of other tokens, which stand for general data."""
    ids = tokens(seed=7)
    return profile(model, [(ids, torch.ones_like(ids))])


def seen_by(model: PreTrainedModel, seed: int = 3) -> Context:
    """All that a method may look at."""
    if not mixtures(model):
        return Context(seed)
    return Context(seed, profiled(model), general(model), profiled)


class Outcome:
    """A method trained on a base, its adapter and the merged checkpoint; where it has two stages, after the first."""

    def __init__(self, method: Method, base: Path, folder: Path | None = None) -> None:
        folder = folder or base.parent
        self.base, self.adapter, self.out = base, folder / "adapter", folder / "merged"
        for each in (self.adapter, self.out):
            each.mkdir(parents=True)
        self.first = _first_stage(method, base, folder)
        self.model = load(self.first.out if self.first else base)
        self.layers = mixtures(self.model)
        self.context = seen_by(self.model)
        self.base_logits = logits(self.model)
        self.parameters = method.prepare(self.model, self.context)
        self.prepared_logits = logits(self.model)
        self.before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.optimizer = train(self.model, self.parameters)
        self.logits = logits(self.model)
        method.export(self.model, self.adapter)
        if self.first:  # the adapter must stand alone
            shutil.rmtree(self.first.adapter)
            shutil.rmtree(self.first.out)
        method.merge(base, self.adapter, self.out)

    @property
    def seen(self) -> Profile:
        """The profile of the task's data."""
        assert self.context.profile is not None
        return self.context.profile

    def changed(self) -> set[str]:
        """Names of tensors, or rows of fused ones, of which any byte differs between base and merged checkpoint."""
        before, after = pieces(self.base), pieces(self.out)
        assert before.keys() == after.keys()
        return {name for name in before if not torch.equal(before[name], after[name])}

    def reached(self) -> set[str]:
        """Names in checkpoints of the parameters that were trained, or that stand beside one that was added."""
        plain = load(self.base)
        modules, parameters = dict(plain.named_modules()), dict(plain.named_parameters())
        found = self.first.trained if self.first else set()
        for name in self.trained - parameters.keys():
            owner = max((path for path in modules if name.startswith(f"{path}.")), key=len)
            found |= {f"{owner}.{leaf}" for leaf, _ in modules[owner].named_parameters(recurse=False)}
        found |= self.trained & parameters.keys()
        return set(hub_tensors(plain, {name: parameters[name] for name in found}))

    @property
    def trained(self) -> set[str]:
        """Names in memory of the parameters that were trained."""
        return {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}


def _first_stage(method: Method, base: Path, folder: Path) -> Outcome | None:
    stage = method.first_stage
    if stage is None:
        return None
    return Outcome(load_methods()[stage.method](**dict(stage.hyperparameters)), base, folder / "first")


def mixtures(model: PreTrainedModel) -> dict[int, MoeLayer]:
    """The MoE layers, none where the model is dense."""
    with suppress(MethodError):
        return moe_layers(model)
    return {}


def load(folder: Path) -> PreTrainedModel:
    """The model of a checkpoint."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    return model


FUSED = re.compile(r"\.(input|output)_linear\.weight|\.experts\.(gate_up|down)_proj(_bias)?")
"""Ends of the names of tensors that have a row for each expert in a checkpoint: GraniteMoE's and gpt-oss'."""
PARTS = {"granite-moe": 2, "gpt-oss": 4}
"""Tensors, or rows of fused ones, that an expert has in a checkpoint; 3 where not named."""
ROUTER = re.compile(r"\.(gate|router)(\.layer)?\.(weight|bias)")
"""Ends of the names of routers' tensors in a checkpoint."""


def pieces(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint or an adapter, a fused one as its rows `NAME[0]`, `NAME[1]`, …"""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors(folder).items():
        fused = FUSED.search(name)
        rows = fused is not None and fused.end() == len(name)
        found |= {f"{name}[{i}]": row for i, row in enumerate(tensor)} if rows else {name: tensor}
    return found


def tensors_of_experts(names: Iterable[str], chosen: Mapping[int, Sequence[int]]) -> set[str]:
    """Those of the names that belong to the experts chosen in each layer."""
    return {
        name
        for name in names
        for layer, experts in chosen.items()
        if f".layers.{layer}." in name
        if any(f".experts.{expert}." in name or name.endswith(f"[{expert}]") for expert in experts)
    }


def tensors_of_routers(names: Iterable[str]) -> set[str]:
    """Those of the names that belong to routers."""
    return {name for name in names if (end := ROUTER.search(name)) and end.end() == len(name)}


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint or an adapter."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
