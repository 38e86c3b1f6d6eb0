"""Expert statistics of a data set, from one forward pass over it: what every score rule is computed from."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.atomic import write_tensors
from methods.errors import MethodError
from methods.moe.view import MoeLayer, moe_layers

FILE = "profile.safetensors"
STATISTICS = ("token_counts", "gate_sums", "token_means", "gate_means")


@dataclass(frozen=True)
class Profile:
    """How often and how strongly each expert was used. Statistics are [L, E] float64, a row for each of `layers`.

    Attributes:
        layers: the numbers of the MoE layers, in order.
        top_k: experts a token is sent to.
        tokens: tokens seen, padding left out; `samples`: sequences seen.
        token_counts: tokens sent to an expert, pooled over all samples.
        gate_sums: sum of an expert's gate weights over all tokens (0 where it is not chosen), without the router's
            scaling factor.
        token_means: mean over samples of the share of the sample's token-expert pairs that are the expert's; ESFT
            paper, Equation 7.
        gate_means: mean over samples of the mean gate weight of the sample's tokens; ESFT paper, Equation 6.
    """

    layers: tuple[int, ...]
    top_k: int
    tokens: int
    samples: int
    token_counts: Tensor
    gate_sums: Tensor
    token_means: Tensor
    gate_means: Tensor

    @property
    def num_experts(self) -> int:
        """Experts a layer has."""
        return int(self.token_counts.shape[1])

    def save(self, folder: Path) -> None:
        """Write `profile.safetensors` into an existing folder."""
        numbers = {"layers": list(self.layers), "top_k": self.top_k, "tokens": self.tokens, "samples": self.samples}
        tensors = {name: torch.tensor(value) for name, value in numbers.items()}
        write_tensors(folder / FILE, tensors | {name: getattr(self, name) for name in STATISTICS})

    @classmethod
    def load(cls, folder: Path) -> "Profile":
        """Read what `save` wrote. Raises MethodError where the folder holds no profile."""
        path = folder / FILE
        try:
            with safe_open(path, "pt") as file:
                read = {name: file.get_tensor(name) for name in ("layers", "top_k", "tokens", "samples", *STATISTICS)}
        except (SafetensorError, OSError) as error:
            raise MethodError(f"{path} is not an expert profile ({error}); compute it again") from error
        layers = tuple(int(index) for index in read["layers"])
        top_k, tokens, samples = (int(read[name]) for name in ("top_k", "tokens", "samples"))
        return cls(layers, top_k, tokens, samples, *(read[name] for name in STATISTICS))


@torch.no_grad()
def profile(model: PreTrainedModel, batches: Iterable[tuple[Tensor, Tensor]]) -> Profile:
    """Run `model` once over `batches` and collect the statistics of all its experts.

    A batch is (input_ids, attention_mask), both (B, T); the mask is 0 on padding, which is ignored; a row is a sample.
    The result does not depend on how samples are batched. Only the layers run, not the LM head.

    Raises MethodError for a model without routed experts, for layers of unequal expert counts and where `batches` holds
    no token.
    """
    layers = moe_layers(model)
    if len({layer.num_experts for layer in layers.values()}) > 1:
        raise MethodError("the model's layers have different numbers of experts, which a profile cannot hold")
    counters = [_Counter(layer) for layer in layers.values()]
    was_training = model.training
    model.eval()
    tokens = samples = 0
    with ExitStack() as stack:
        stack.callback(model.train, was_training)
        for counter in counters:
            handle = counter.layer.experts.register_forward_pre_hook(counter.see, with_kwargs=True)
            stack.callback(handle.remove)
        for ids, mask in batches:
            ids, mask = ids.to(model.device), mask.to(model.device)
            for counter in counters:
                counter.lengths, counter.mask = mask.sum(1), mask.bool()
            model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
            tokens += int(mask.sum())
            samples += int((mask.sum(1) > 0).sum())
    if not tokens:
        raise MethodError("the data to profile holds no token; give at least one sample")
    return Profile(
        layers=tuple(layers),
        top_k=next(iter(layers.values())).top_k,
        tokens=tokens,
        samples=samples,
        token_counts=torch.stack([counter.token_counts for counter in counters]).cpu(),
        gate_sums=torch.stack([counter.gate_sums for counter in counters]).cpu(),
        token_means=torch.stack([counter.token_means for counter in counters]).cpu() / samples,
        gate_means=torch.stack([counter.gate_means for counter in counters]).cpu() / samples,
    )


class _Counter:
    """Sums one layer's routing over batches; `mask` (B, T) and `lengths` (B) are those of the batch at hand."""

    mask: Tensor
    lengths: Tensor

    def __init__(self, layer: MoeLayer) -> None:
        self.layer = layer
        zeros = torch.zeros(
            layer.num_experts, dtype=torch.float64, device=layer.experts.get_parameter("down_proj").device
        )
        self.token_counts, self.gate_sums = zeros, zeros.clone()
        self.token_means, self.gate_means = zeros.clone(), zeros.clone()

    def see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count one call of the experts module: (hidden_states [T, H], top_k_index [T, K], top_k_weights [T, K])."""
        named = dict(zip(("hidden_states", "top_k_index", "top_k_weights"), args, strict=False)) | kwargs
        index, weights = named["top_k_index"], named["top_k_weights"].double() / self.layer.scaling
        batch, experts, top_k = len(self.lengths), self.layer.num_experts, index.shape[1]
        sample = torch.arange(batch, device=index.device).repeat_interleave(self.mask.shape[1])
        keep = self.mask.reshape(-1)
        cell = (sample[:, None] * experts + index)[keep].reshape(-1)
        counts = torch.bincount(cell, minlength=batch * experts).double().view(batch, experts)
        gates = torch.bincount(cell, weights[keep].reshape(-1), minlength=batch * experts).view(batch, experts)
        length = self.lengths.clamp(min=1).double().unsqueeze(1)
        self.token_counts += counts.sum(0)
        self.gate_sums += gates.sum(0)
        self.token_means += (counts / (length * top_k)).sum(0)
        self.gate_means += (gates / length).sum(0)
