"""Choosing experts again from a running profile: an average of what routers did on the batches of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from esft_bench.methods.changes import Done, Moved
from esft_bench.methods.moe.changing import ExpertChanges
from esft_bench.methods.moe.profile import Profile
from esft_bench.methods.moe.selection import Selection
from esft_bench.methods.moe.view import DOWN, MoeLayer


class Reselection(ExpertChanges):
    """Choose experts every so many steps by the average, with weights that fall by `decay` a step, of batches' routing.

    Attributes:
        running: [2, L, E] float64, of each expert its share of the token-expert pairs and its mean gate weight.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        profiles: Sequence[Profile],
        select: Callable[[Profile], Selection],
        every: int,
        decay: float,
    ) -> None:
        super().__init__(model)
        self.select, self.every, self.decay = select, every, decay
        self.top_k = profiles[0].top_k
        self.running = torch.stack([_scores(each) for each in profiles]).mean(0)
        self._batch = _Sums(self.layers)

    @contextmanager
    def seeing(self, real: Tensor) -> Iterator[None]:
        """Count how the tokens of a pass are routed."""
        with self._batch.counting(real):
            yield

    def after(self, done: Done) -> Moved | None:
        """Move the average by the step's batch; change the experts where it is time."""
        pairs, gates, tokens = done.summed(self._batch.taken()).cpu().split_with_sizes([1, 1, 1])
        if float(tokens.max()):
            batch = torch.cat([pairs / self.top_k, gates]) / tokens.max()
            self.running = self.decay * self.running + (1 - self.decay) * batch
        return super().after(done)

    def selection_after(self, done: Done) -> Selection | None:
        """The experts that the running profile chooses, when it is time."""
        return None if done.step % self.every else self.select(self.profile)

    @property
    def profile(self) -> Profile:
        """The running profile, as one of a single token that is in every place at once."""
        shares, gates = self.running
        return Profile(tuple(self.layers), self.top_k, 1, 1, shares * self.top_k, gates, shares, gates)

    def state_dict(self) -> dict[str, Tensor]:
        """The experts and the running profile."""
        return {**super().state_dict(), "running": self.running}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the running profile that it was."""
        super().load_state_dict(state)
        self.running = state["running"].double().cpu()


def _scores(profile: Profile) -> Tensor:
    """Share of the token-expert pairs and mean gate weight of each expert, [2, L, E]."""
    return torch.stack(
        [profile.token_counts / (profile.tokens * profile.top_k), profile.gate_sums / profile.tokens]
    ).double()


class _Sums:
    """Sums over the passes of a step, [3, L, E] float64: pairs and gate weights of each expert, tokens of its layer."""

    def __init__(self, layers: Mapping[int, MoeLayer]) -> None:
        self.layers = list(layers.values())
        self.sums = self._none()

    def _none(self) -> Tensor:
        first = self.layers[0]
        device = first.experts.get_parameter(DOWN).device
        return torch.zeros(3, len(self.layers), first.num_experts, dtype=torch.float64, device=device)

    def taken(self) -> Tensor:
        """The sums; those of the next step begin at 0."""
        sums, self.sums = self.sums, self._none()
        return sums

    @contextmanager
    def counting(self, real: Tensor) -> Iterator[None]:
        """Count what the layers' experts are called with; not what is computed again in a backward pass."""
        mask = real.reshape(-1, 1)
        with ExitStack() as stack:
            for row, layer in enumerate(self.layers):
                see = partial(self._see, row, mask)
                stack.enter_context(layer.experts.register_forward_pre_hook(see, with_kwargs=True))
            yield

    @torch.no_grad()
    def _see(self, row: int, mask: Tensor, experts: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Add a call's tokens: chosen experts and their gate weights, each [B · T, K]."""
        _, index, weights = (*given, *(named[name] for name in CALLED_WITH[len(given) :]))
        gates = torch.where(mask, weights.double() / self.layers[row].scaling, 0.0)
        none = self.sums.new_zeros(len(index), self.sums.shape[2])
        pairs = none.scatter(1, index, mask.double().expand_as(gates)).sum(0)
        self.sums[0, row] += pairs
        self.sums[1, row] += none.scatter(1, index, gates).sum(0)
        self.sums[2, row] += mask.sum()


CALLED_WITH = ("hidden_states", "top_k_index", "top_k_weights")
"""What transformers calls experts with, in order."""
