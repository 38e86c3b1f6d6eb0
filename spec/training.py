"""How a suite's rows are trained: the settings of the training loop, the same for every method."""

from math import ceil
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from esft_bench.spec.names import Count
from esft_bench.spec.strict import Strict

Truncation = Literal["refuse", "left"]
Mixing = Literal["conversations", "tokens"]
PackedAttention = Literal["within", "across"]
Optimizer = Literal["adamw", "adamw-8bit", "adamw-bf16-stochastic"]
Schedule = Literal["constant", "linear", "cosine"]
FrozenExperts = Literal["as_loaded", "fp8"]

Decay = Annotated[float, Field(ge=0, lt=1)]
"""How much of an average of gradients the next step keeps."""


class Training(Strict):
    """The training loop's settings, the same for every method.

    Defaults follow the official config (deepseek-ai/ESFT, configs/base.yaml): AdamW 0.9/0.95, weight decay 0.1,
    constant learning rate, no warm-up, gradients clipped at 1.0; batch and length are the paper's.
    `alignment_share` is the share of alignment data in the mix, half in the paper, counted as `mix_by` says, in
    conversations or in tokens: the paper does not say which. `truncation` says what becomes of
    a question that fills the whole sequence: `refuse` it, or drop its beginning (`left`) so that its answer is seen.
    `optimizer` is that of every row: AdamW in float32, or one that needs less memory (`harness.training.optimizer`).
    `gradient_checkpointing` keeps each layer's input alone and computes the rest again in the backward pass: less
    memory, more time, the same steps. `frozen_experts: fp8` keeps routed experts that a row does not train in FP8, a
    byte a number, where the backbone ships so: less memory, more time, the same steps again.

    `schedule` is how the learning rate goes from its highest, the row's, on: it stays, or falls to nothing at the last
    step, on a line or a half cosine. Before that it rises on a line over `warmup_steps`, below 1 a share of the steps.

    Sequences are packed of samples: with `packed_attention` "within" each attends to
    itself alone, with "across" to those before it in its sequence too, as in the official code. Without `packing` a
    sequence is one sample. Then `epochs` may say in place of `steps` how often a task's own rows are gone through.

    `evaluate_every` looks at a training every so many steps and at its end, at the task's own metric (`evaluate_by`;
    or at the loss alone) on `validation_items` rows held out of its training data (`evaluate_on`; or on the task's
    benchmarks, which is a look at the test). `choose: best` keeps the weights that did best. `profile_every` measures
    the routing every so many steps. None of it changes how the weights move.

    `expert_parallel` says among how many processes, one a GPU, the experts of a model are shared out evenly.
    Rows whose method cannot do that are trained as without it.
    """

    steps: Count = 500
    batch_size: Count = 32
    sequence_length: Count = 4096
    alignment_share: float = Field(0.5, ge=0, lt=1)
    mix_by: Mixing = "conversations"
    optimizer: Optimizer = "adamw"
    learning_rate: PositiveFloat = 1e-5
    schedule: Schedule = Field("constant", exclude_if=lambda told: told == "constant")
    warmup_steps: float = Field(0, ge=0, exclude_if=lambda told: told == 0)
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: float = Field(0.1, ge=0)
    max_grad_norm: PositiveFloat = 1.0
    evaluate_every: Count | None = None
    evaluate_by: Literal["metric", "loss"] = "metric"
    evaluate_on: Literal["held-out", "benchmark"] = "held-out"
    validation_items: Count = 64
    choose: Literal["last", "best"] = "last"
    profile_every: Count | None = None
    truncation: Truncation = "refuse"
    gradient_checkpointing: bool = False
    frozen_experts: FrozenExperts = Field("as_loaded", exclude_if=lambda told: told == "as_loaded")
    packed_attention: PackedAttention = "within"
    packing: bool = Field(True, exclude_if=lambda told: told is True)
    epochs: Count | None = Field(None, exclude_if=lambda told: told is None)
    expert_parallel: int | None = Field(None, ge=2, exclude_if=lambda told: told is None)

    @property
    def warmup(self) -> int:
        """Steps of warm-up; a share is rounded up, as transformers' Trainer does."""
        return ceil(self.warmup_steps * self.steps if self.warmup_steps < 1 else self.warmup_steps)

    def steps_of(self, rows: int) -> int:
        """The steps that a task of so many rows is trained for: those given, or all of its `epochs`, whole batches."""
        own = self.batch_size * (1 - self.alignment_share)
        return self.epochs * ceil(rows / own) if self.epochs else self.steps

    @model_validator(mode="after")
    def _epochs_are_of_samples(self) -> "Training":
        if self.epochs and self.packing:
            raise ValueError("`epochs` counts samples, so a sequence must be one: set `packing: false`")
        return self

    @model_validator(mode="after")
    def _frozen_experts_are_in_one_process(self) -> "Training":
        if self.expert_parallel and self.frozen_experts == "fp8":
            raise ValueError("`frozen_experts: fp8` is for one process a cell: leave it or `expert_parallel` out")
        return self

    @model_validator(mode="after")
    def _warm_up_ends(self) -> "Training":
        if self.warmup_steps >= 1 and self.warmup >= self.steps and not self.epochs:
            raise ValueError(f"`warmup_steps` {self.warmup_steps:g} leave none of {self.steps} steps")
        return self

    @model_validator(mode="after")
    def _choice_needs_a_measure(self) -> "Training":
        if self.choose == "best" and self.evaluate_every is None:
            raise ValueError("`choose: best` needs `evaluate_every`, the number of steps between two looks")
        if (self.evaluate_by, self.evaluate_on) == ("loss", "benchmark"):
            raise ValueError("`evaluate_by: loss` is measured on held-out rows: leave `evaluate_on: benchmark` out")
        return self
