"""What the tests of methods share: a few tokens, their profile, some steps of training, and what comes of it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from esft_bench.methods.all_experts import AllExperts
from esft_bench.methods.attention_router import AttentionRouter
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.esft_lora import EsftLora
from esft_bench.methods.esft_router import EsftRouter
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.profile import Profile, profile
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.random_experts import RandomExperts
from esft_bench.methods.top_k_experts import TopKExperts
from esft_bench.methods.unrelated_experts import UnrelatedExperts

MOE = ["deepseek-v2", "qwen2-moe", "qwen3-moe", "olmoe", "mixtral", "deepseek-v3", "granite-moe", "gpt-oss"]
EXPERT_TRAINING: dict[str, Method] = {
    "esft-token": EsftToken(),
    "random-experts": RandomExperts(of=EsftToken()),
    "unrelated-experts": UnrelatedExperts(of=EsftToken()),
    "top-k-experts": TopKExperts(count=2),
    "all-experts": AllExperts(),
}
"""Methods that train routed experts and nothing else."""
TRAINING: dict[str, Method] = EXPERT_TRAINING | {
    "fft": FullFineTuning(),
    "lora": Lora(rank=2, experts=True),
    "attention-router": AttentionRouter(),
    "esft-router": EsftRouter(),
    "esft-lora": EsftLora(rank=2),
}
"""Every method that trains."""


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


class Outcome:
    """A method trained on a base, its adapter and the merged checkpoint."""

    def __init__(self, method: Method, base: Path, folder: Path | None = None) -> None:
        folder = folder or base.parent
        self.base = base
        self.adapter, self.out = folder / "adapter", folder / "merged"
        self.adapter.mkdir()
        self.out.mkdir()
        self.model = load(base)
        self.layers = moe_layers(self.model)
        self.seen = seen = profiled(self.model)
        self.base_logits = logits(self.model)
        self.parameters = method.prepare(self.model, Context(3, seen, seen, profiled))
        self.prepared_logits = logits(self.model)
        self.before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.optimizer = train(self.model, self.parameters)
        self.logits = logits(self.model)
        method.export(self.model, self.adapter)
        method.merge(base, self.adapter, self.out)

    def changed(self) -> set[str]:
        """Names of tensors, or rows of fused ones, of which any byte differs between base and merged checkpoint."""
        before, after = pieces(self.base), pieces(self.out)
        assert before.keys() == after.keys()
        return {name for name in before if not torch.equal(before[name], after[name])}


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


def experts_of(names: Iterable[str], chosen: Mapping[int, Sequence[int]]) -> set[str]:
    """Those of the names that belong to the experts chosen in each layer."""
    return {
        name
        for name in names
        for layer, experts in chosen.items()
        if f".layers.{layer}." in name
        if any(f".experts.{expert}." in name or name.endswith(f"[{expert}]") for expert in experts)
    }


def routers_of(names: Iterable[str]) -> set[str]:
    """Those of the names that belong to routers."""
    return {name for name in names if (end := ROUTER.search(name)) and end.end() == len(name)}


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint or an adapter."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
