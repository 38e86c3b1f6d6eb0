"""What training minimises: the cross-entropy of the logits that the model itself makes, where the loss counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from esft_bench.harness.training.data import IGNORED
from esft_bench.methods.moe.packing import apart

AUXILIARY = (
    *("router_aux_loss_coef", "aux_loss_coef", "aux_loss_alpha", "moe_loss_weight"),
    *("router_z_loss_coef", "z_loss_coefficient"),
)
"""Names that configurations have for the weight of an auxiliary loss on the routers."""


class AnswerLoss(nn.Module):
    """Sum of the cross-entropy over supervised tokens; the LM head runs on those positions alone.

    The model's own forward does everything else, to the logits too (scaling, soft caps). No auxiliary loss is added. A
    module, so that what accelerate wraps (DDP, FSDP) sees one forward call a step.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self._no_split_modules = model._no_split_modules  # FSDP shards layer by layer

    def forward(
        self, input_ids: torch.Tensor, labels: torch.Tensor, position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`input_ids`, `labels` and, where samples are kept apart, `position_ids`: (B, T). Returns a scalar."""
        inputs = {"input_ids": input_ids, "labels": labels}
        if position_ids is not None:
            inputs = apart(self.model, {**inputs, "position_ids": position_ids})
        labels = inputs.pop("labels")
        targets = labels[:, 1:]
        supervised = targets != IGNORED
        with _head_on(self.model, supervised):
            logits = self.model(**inputs, use_cache=False).logits  # (1, supervised, V)
        if logits.shape[:2] == labels.shape:  # the model's head is no module that is called: (B, T, V)
            logits = logits[:, :-1][supervised]
        return nn.functional.cross_entropy(logits.flatten(0, -2).float(), targets[supervised], reduction="sum")


@contextmanager
def _head_on(model: PreTrainedModel, supervised: torch.Tensor) -> Iterator[None]:
    """While the block lasts, the output embeddings see the hidden states of supervised positions alone.

    `supervised`: (B, T - 1), True where the next token counts.
    """
    rows, length = supervised.shape

    def chosen(head: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = arguments[0]  # (B, T, H)
        if hidden.shape[:2] != (rows, length + 1):
            return arguments
        return (hidden[:, :-1][supervised][None], *arguments[1:])

    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(chosen) if head is not None else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def auxiliary_loss_sentence(config: PreTrainedConfig) -> str:
    """What a report says about auxiliary losses on the routers: none is added, whatever the configuration asks for."""
    said = config.get_text_config().to_dict()
    asked = [f"{name} is {said[name]:g}" for name in AUXILIARY if isinstance(said.get(name), int | float)]
    return (
        f"No auxiliary loss was added (the config's {' and '.join(asked)})."
        if asked
        else "No auxiliary loss was added."
    )
