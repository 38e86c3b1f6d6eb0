"""How the learning rate goes over a training's steps: transformers' own schedules, by name.

Step k of N, from 0, takes the rate times min(1, k / W) while it warms up over W steps, then `constant` 1, `linear`
(N − k) / (N − W), or `cosine` (1 + cos(π (k − W) / (N − W))) / 2.
"""

from collections.abc import Callable

import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from esft_bench.spec.training import Schedule, Training

Maker = Callable[[torch.optim.Optimizer, int, int, int], torch.optim.lr_scheduler.LRScheduler]
"""(optimizer, steps of warm-up, steps in all, steps done − 1) → what sets the rate of each group of parameters."""
MAKERS: dict[Schedule, Maker] = {
    "constant": lambda optimizer, warmup, _, last: get_constant_schedule_with_warmup(optimizer, warmup, last),
    "linear": lambda optimizer, warmup, steps, last: get_linear_schedule_with_warmup(optimizer, warmup, steps, last),
    "cosine": lambda optimizer, warmup, steps, last: get_cosine_schedule_with_warmup(
        optimizer, warmup, steps, last_epoch=last
    ),
}


def scheduled(
    optimizer: torch.optim.Optimizer, settings: Training, done: int = 0
) -> torch.optim.lr_scheduler.LRScheduler:
    """Set an optimizer's rates for the step after `done`; each `step()` of what is returned sets those of the next.

    The rates that its groups have are the highest that they come to.
    """
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return MAKERS[settings.schedule](optimizer, settings.warmup, settings.steps, done - 1)
