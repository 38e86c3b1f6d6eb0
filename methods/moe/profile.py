"""Expert statistics of a data set, from one forward pass over it: what every score rule is computed from.

Who only reads a profile needs no transformers, which takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from esft_bench.methods.atomic import write_tensors
from esft_bench.methods.errors import MethodError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from esft_bench.methods.moe.router_scores import SeenRouter
    from esft_bench.methods.moe.view import MoeLayer

FILE = "profile.safetensors"
COUNTED = ("token_counts", "gate_sums", "token_means", "gate_means")
MEASURED = ("router_sums", "norm_sums", "contribution_sums", "score_norm_sums", "pair_counts")
STATISTICS = (*COUNTED, *MEASURED)
"""Tensors of a profile: those that logs of the routing give, and those that need the model to run."""


@dataclass(frozen=True)
class Profile:
    """How often and how strongly each expert was used. Statistics are [L, E] float64, a row for each of `layers`.

    For token t and expert i: g_it is the gate weight without the router's scaling factor (0 where i is not chosen),
    E_i(x_t) the expert's output before the gate weight.

    Attributes:
        layers: the numbers of the MoE layers, in order.
        top_k: experts a token is sent to.
        tokens: tokens seen, padding left out; `samples`: sequences seen.
        token_counts: tokens sent to an expert, pooled over all samples.
        gate_sums: Σ_t g_it over all tokens.
        token_means: mean over samples of the share of the sample's token-expert pairs that are the expert's; ESFT
            paper, Equation 7.
        gate_means: mean over samples of the mean gate weight of the sample's tokens; ESFT paper, Equation 6.
        router_sums: Σ_t of the router's scores over all experts before it chooses, for a softmax router the whole
            softmax; expert-concentration paper, Equation 3. None for a router of which they are not known, too; see
            `methods.moe.router_scores`.
        norm_sums: Σ_t ‖E_i(x_t)‖₂ over the tokens sent to the expert.
        contribution_sums: Σ_t g_it ‖E_i(x_t)‖₂ / Σ_j g_jt ‖E_j(x_t)‖₂, the expert's shares of what its tokens get.
        score_norm_sums: Σ_t g_it ‖E_i(x_t)‖₂.
        pair_counts: [L, E, E] tokens sent to both of two experts; on the diagonal, to that one.

    The last five are None in a profile rebuilt from logs of the routing alone.
    """

    layers: tuple[int, ...]
    top_k: int
    tokens: int
    samples: int
    token_counts: Tensor
    gate_sums: Tensor
    token_means: Tensor
    gate_means: Tensor
    router_sums: Tensor | None = None
    norm_sums: Tensor | None = None
    contribution_sums: Tensor | None = None
    score_norm_sums: Tensor | None = None
    pair_counts: Tensor | None = None

    @property
    def num_experts(self) -> int:
        """Experts a layer has."""
        return int(self.token_counts.shape[1])

    def measured(self, name: str) -> Tensor:
        """A statistic that needs the model to run. Raises MethodError where the profile has none."""
        value: Tensor | None = getattr(self, name)
        if value is None and name == "router_sums" and self.norm_sums is not None:
            raise MethodError(
                "what this model's routers make of experts they do not choose is not known; take `score: gate`"
            )
        if value is None:
            raise MethodError("the profile comes from logs of the routing alone, without the experts' outputs")
        return value

    def save(self, folder: Path) -> None:
        """Write `profile.safetensors` into an existing folder."""
        numbers = {"layers": list(self.layers), "top_k": self.top_k, "tokens": self.tokens, "samples": self.samples}
        tensors = {name: torch.tensor(value) for name, value in numbers.items()}
        kept = {name: getattr(self, name) for name in STATISTICS if getattr(self, name) is not None}
        write_tensors(folder / FILE, tensors | kept)

    @classmethod
    def load(cls, folder: Path) -> Profile:
        """Read what `save` wrote. Raises MethodError where the folder holds no profile."""
        path = folder / FILE
        try:
            with safe_open(path, "pt") as file:
                read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            layers = tuple(int(index) for index in read["layers"])
            top_k, tokens, samples = (int(read[name]) for name in ("top_k", "tokens", "samples"))
            counted, measured = [read[name] for name in COUNTED], [read.get(name) for name in MEASURED]
        except (SafetensorError, OSError, KeyError) as error:
            raise MethodError(f"{path} is not an expert profile ({error}); compute it again") from error
        return cls(layers, top_k, tokens, samples, *counted, *measured)


def check_same_experts(first: Profile, second: Profile) -> None:
    """Raise MethodError where two profiles are not of the same layers and experts."""
    if first.layers != second.layers or first.num_experts != second.num_experts:
        raise MethodError(
            f"one profile has {first.num_experts} experts in layers {list(first.layers)}, the other "
            f"{second.num_experts} in layers {list(second.layers)}; profile both data sets with one model"
        )


@torch.no_grad()
def profile(
    model: PreTrainedModel, batches: Iterable[tuple[Tensor, ...]], layers: Mapping[int, MoeLayer] | None = None
) -> Profile:
    """Run `model` once over `batches` and collect the statistics of all its experts.

    A batch is (input_ids, attention_mask), both (B, T); the mask is 0 on padding, which is ignored; a row is a sample.
    Where a third tensor, (B, T), gives positions that begin anew within a row, each part attends to itself alone.
    The result does not depend on how samples are batched. Only the layers run, not the LM head. `layers` are the
    model's MoE layers as they were found before anything was wrapped around them.

    Raises MethodError for a model without routed experts, for layers of unequal expert counts and where `batches` holds
    no token.
    """
    from esft_bench.methods.moe.observed import observed
    from esft_bench.methods.moe.packing import apart
    from esft_bench.methods.moe.router_scores import seen_routers
    from esft_bench.methods.moe.view import moe_layers

    layers = layers or moe_layers(model)
    if len({layer.num_experts for layer in layers.values()}) > 1:
        raise MethodError("the model's layers have different numbers of experts, which a profile cannot hold")
    counters = {index: _Counter(layer) for index, layer in layers.items()}
    was_training = model.training
    model.eval()
    tokens = samples = 0
    with ExitStack() as stack:
        stack.callback(model.train, was_training)
        for index, router in stack.enter_context(seen_routers(model, layers)).items():
            counters[index].router = router
        stack.enter_context(observed(model, layers, {index: counter.see for index, counter in counters.items()}))
        for batch in batches:
            ids, mask, *positions = (tensor.to(model.device) for tensor in batch)
            for counter in counters.values():
                counter.lengths, counter.mask = mask.sum(1), mask.bool()
            inputs = {"input_ids": ids, "position_ids": positions[0]} if positions else {"input_ids": ids}
            told = apart(model, inputs) if positions else {**inputs, "attention_mask": mask}
            model.base_model(**told, use_cache=False)
            tokens += int(mask.sum())
            samples += int((mask.sum(1) > 0).sum())
    if not tokens:
        raise MethodError("the data to profile holds no token; give at least one sample")
    known = [name for name in STATISTICS if all(name in counter.sums for counter in counters.values())]
    sums = {name: torch.stack([counter.sums[name] for counter in counters.values()]).cpu() for name in known}
    for name in ("token_means", "gate_means"):
        sums[name] /= samples
    return Profile(tuple(layers), next(iter(counters.values())).top_k, tokens, samples, **sums)


class _Counter:
    """Sums one layer's statistics over batches; `mask` (B, T) and `lengths` (B) are those of the batch at hand."""

    mask: Tensor
    lengths: Tensor
    top_k: int
    router: SeenRouter

    def __init__(self, layer: MoeLayer) -> None:
        self.layer = layer
        device = layer.experts.get_parameter("down_proj").device
        zeros = torch.zeros(layer.num_experts, dtype=torch.float64, device=device)
        self.sums = {name: torch.zeros_like(zeros) for name in STATISTICS}
        self.sums["pair_counts"] = zeros.new_zeros(layer.num_experts, layer.num_experts)

    def see(self, index: Tensor, weights: Tensor, norms: Tensor) -> None:
        """Count one call of the experts: chosen experts, gate weights and norms of outputs, each [B · T, K]."""
        keep, batch, experts = self.mask.reshape(-1), len(self.lengths), self.layer.num_experts
        self.top_k = index.shape[1]
        sample = torch.arange(batch, device=index.device).repeat_interleave(self.mask.shape[1])
        sample, index = sample[keep, None], index[keep]
        weights, norms = weights[keep].double() / self.layer.scaling, norms[keep].double()
        cell = (sample * experts + index).reshape(-1)
        counts = torch.bincount(cell, minlength=batch * experts).double().view(batch, experts)
        gates = torch.bincount(cell, weights.reshape(-1), minlength=batch * experts).view(batch, experts)
        length = self.lengths.clamp(min=1).double().unsqueeze(1)
        self._see_router(keep, index, weights)
        parts = weights * norms
        shares = parts / parts.sum(1, keepdim=True).clamp(min=torch.finfo(parts.dtype).tiny)
        chosen = norms.new_zeros(len(index), experts, dtype=torch.float32).scatter_(1, index, 1.0)
        found = {
            "token_counts": counts.sum(0),
            "gate_sums": gates.sum(0),
            "token_means": (counts / (length * index.shape[1])).sum(0),
            "gate_means": (gates / length).sum(0),
            "norm_sums": torch.bincount(index.reshape(-1), norms.reshape(-1), minlength=experts),
            "contribution_sums": torch.bincount(index.reshape(-1), shares.reshape(-1), minlength=experts),
            "score_norm_sums": torch.bincount(index.reshape(-1), parts.reshape(-1), minlength=experts),
            "pair_counts": chosen.T @ chosen,
        }
        for name, value in found.items():
            self.sums[name] += value

    def _see_router(self, keep: Tensor, index: Tensor, weights: Tensor) -> None:
        """Add the router's scores of all experts; what is not known of one token is known of none."""
        self.router.output = tuple(part[keep] for part in self.router.output if len(part) == len(keep))
        scores = self.router.scores(index, weights) if len(index) else None
        if scores is not None and "router_sums" in self.sums:
            self.sums["router_sums"] += scores.sum(0)
        elif len(index):
            self.sums.pop("router_sums", None)
