"""Gradient checkpointing: layers are computed again in the backward pass instead of kept (arXiv 1604.06174)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Turn gradient checkpointing on for every decoder layer; gradients stay the same.

    transformers would also have the embeddings' output ask for gradients, which only the reentrant form of
    checkpointing needs: every layer below the lowest trained one would be computed again, and passed through backward,
    for nothing.
    """
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.disable_input_require_grads()
