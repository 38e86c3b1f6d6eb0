"""DAS-LoRA: as DAS-Tune, with low-rank updates of the experts in stage 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from esft_bench.methods.atomic import write_tensors
from esft_bench.methods.attention_router import attention_and_routers, first_stage_tensors
from esft_bench.methods.das import DomainAdvantage
from esft_bench.methods.errors import MethodError
from esft_bench.methods.expert_training import chosen_experts
from esft_bench.methods.low_rank_training import LowRankTraining
from esft_bench.methods.method import Context
from esft_bench.methods.overlay import link

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

FILE = "attention_router.safetensors"
STAGE_1 = "stage_1"
"""The folder in an adapter that holds what stage 1 trained."""


class DasLora(DomainAdvantage, LowRankTraining):
    """DAS-Tune with low-rank updates of the experts in stage 2; the paper's rank 16 and alpha 32 by default."""

    name: ClassVar[str] = "das-lora"
    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model, which stage 1 has trained, but for the updates. Raises MethodError as ESFT does."""
        return self.train_low_rank(model, chosen_experts(model, context, self.choice(context)), context)

    def also_written(self, model: PreTrainedModel) -> Sequence[str]:
        """What stage 1 trained."""
        return list(attention_and_routers(model))

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the factors, and in a folder of its own what stage 1 trained."""
        super().export(model, folder)
        (folder / STAGE_1).mkdir()
        write_tensors(folder / STAGE_1 / FILE, first_stage_tensors(model))

    def write_changed(self, base: Path, adapter: Path, folder: Path) -> None:
        """The experts with their updates, and what stage 1 trained."""
        super().write_changed(base, adapter, folder)
        kept = adapter / STAGE_1 / FILE
        if not kept.is_file():
            raise MethodError(f"{adapter} is no DAS-LoRA adapter: it has no {STAGE_1}/{FILE}")
        link(kept, folder / FILE)
