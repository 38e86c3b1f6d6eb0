"""How routing moves while a model trains: the routers' average scores, measured every so many steps."""

from collections.abc import Callable

from accelerate import Accelerator
from torch import Tensor, nn

from esft_bench.harness.training.looking import apart, at_rest
from esft_bench.harness.training.state import State
from esft_bench.spec.training import Training

Measure = Callable[[], Tensor | None]
"""Measures the average routing scores of K data sets, [K, L, E] float64; None where the routers do not tell them."""


class Tracking:
    """Measures before the first step, every `settings.profile_every` steps, and at the end."""

    def __init__(self, measure: Measure | None, settings: Training) -> None:
        self.measure, self.settings = measure, settings

    def after(self, step: int, accelerator: Accelerator, loss_module: nn.Module, state: State) -> None:
        """Measure if it is time. Every process calls this."""
        every = self.settings.profile_every
        if every is None or self.measure is None or (step % every and step != self.settings.steps):
            return
        with apart(state.log), at_rest(accelerator, loss_module):
            scores = self.measure()
        if scores is not None:
            state.log.routing.append((step, scores))
