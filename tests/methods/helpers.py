"""What the tests of methods share: a few tokens, their profile, some steps of training, and what comes of it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from methods.all_experts import AllExperts
from methods.attention_router import AttentionRouter
from methods.esft import EsftToken
from methods.esft_lora import EsftLora
from methods.esft_router import EsftRouter
from methods.fft import FullFineTuning
from methods.lora import Lora
from methods.method import Context, Method
from methods.moe.profile import Profile, profile
from methods.random_experts import RandomExperts
from methods.top_k_experts import TopKExperts
from methods.unrelated_experts import UnrelatedExperts

MOE = ["deepseek-v2", "qwen2-moe", "qwen3-moe", "olmoe", "mixtral"]
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

    def __init__(self, method: Method, base: Path) -> None:
        self.base = base
        self.adapter, self.out = base.parent / "adapter", base.parent / "merged"
        self.adapter.mkdir()
        self.out.mkdir()
        self.model = load(base)
        seen = profiled(self.model)
        self.parameters = method.prepare(self.model, Context(seed=3, profile=seen))
        train(self.model, self.parameters)
        method.export(self.model, self.adapter)
        method.merge(base, self.adapter, self.out)

    def changed(self) -> set[str]:
        """Names of tensors of which any byte differs between base and merged checkpoint."""
        before, after = tensors(self.base), tensors(self.out)
        assert before.keys() == after.keys()
        return {name for name in before if not torch.equal(before[name], after[name])}


def load(folder: Path) -> PreTrainedModel:
    """The model of a checkpoint."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    return model


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint or an adapter."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
