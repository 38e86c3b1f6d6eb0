"""Builds the backbone from nothing: `python -m esft_bench.tasks.mini.pretrain --out DIR`, about 20 minutes on one core.

A DeepSeek-V2 of 4 million parameters. What was found to matter: the loss counts answers only; the learning rate stays
constant for 60% of the steps, because the jump in accuracy comes late; a small auxiliary balance loss, since without
it routing collapses onto few experts and with ten times as much experts specialise less.
"""

import argparse
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, PreTrainedTokenizerFast

from esft_bench.tasks.mini.tokenizer import build_tokenizer, encode
from esft_bench.tasks.mini.world.corpus import LATE_WEIGHTS, WEIGHTS, documents

BATCH = 8
LENGTH = 128
WEIGHT_DECAY = 0.05
WARM_UP_STEPS = 50
CONSTANT_SHARE = 0.6
BALANCE = 0.003
SEED = 2


@dataclass(frozen=True)
class Phase:
    """A stretch of pretraining with an optimizer and a schedule of its own.

    Attributes:
        steps: optimizer steps.
        learning_rate: the highest one.
        weights: relative number of documents of each kind.
        seed: of the documents.
    """

    steps: int
    learning_rate: float
    weights: Mapping[str, float]
    seed: int


PHASES = (Phase(4500, 3e-3, WEIGHTS, SEED), Phase(1000, 2e-3, LATE_WEIGHTS, SEED + 1))

log = logging.getLogger(__name__)


def build_model(vocabulary: int) -> DeepseekV2ForCausalLM:
    """A random backbone: 4 layers, all mixtures of 64 routed experts (6 chosen) and 2 shared ones."""
    config = DeepseekV2Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        kv_lora_rank=64,
        q_lora_rank=None,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        n_routed_experts=64,
        n_shared_experts=2,
        num_experts_per_tok=6,
        moe_intermediate_size=32,
        first_k_dense_replace=0,
        routed_scaling_factor=4.0,
        tie_word_embeddings=False,
        initializer_range=0.06,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return DeepseekV2ForCausalLM(config)


class BalanceLoss:
    """The auxiliary balance loss of DeepSeek-V2 (arXiv 2405.04434, Eq. 23-25), over the tokens of a batch.

    transformers has none for this model, so the routers are watched with forward hooks.
    """

    def __init__(self, model: nn.Module) -> None:
        self._losses: list[Tensor] = []
        mixtures = [module for module in model.modules() if hasattr(module, "gate") and hasattr(module, "experts")]
        self._hooks = [mixture.get_submodule("gate").register_forward_hook(self._watch) for mixture in mixtures]

    def _watch(self, _module: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        logits, _, chosen = output
        experts = logits.shape[-1]
        load = torch.bincount(chosen.reshape(-1), minlength=experts) / chosen.numel()
        self._losses.append(experts * (load * logits.softmax(-1).mean(0)).sum())

    def take(self) -> Tensor:
        """The loss since the last call, averaged over layers: 1 where routing is even."""
        loss = torch.stack(self._losses).mean()
        self._losses.clear()
        return loss

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, weights: Mapping[str, float] = WEIGHTS
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pack documents into token ids and labels, each (BATCH, LENGTH); -100 labels what the loss leaves out."""
    stream = documents(seed, weights)
    while True:
        rows, targets = [], []
        for _ in range(BATCH):
            row: list[int] = []
            target: list[int] = []
            while len(row) < LENGTH:
                for sample in next(stream):
                    ids, labels = encode(tokenizer, sample)
                    row += ids
                    target += labels
            rows.append(row[:LENGTH])
            targets.append(target[:LENGTH])
        yield torch.tensor(rows), torch.tensor(targets)


def answer_loss(model: DeepseekV2ForCausalLM, ids: Tensor, labels: Tensor) -> Tensor:
    """Next-token cross-entropy; the LM head runs only where a label is, which saves a third of the time."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:] != -100
    return nn.functional.cross_entropy(model.lm_head(hidden[wanted]), labels[:, 1:][wanted])


def learning_rate(step: int, steps: int) -> float:
    """The share of the highest learning rate: warm-up, constant, then linear decay to 2%."""
    progress = step / steps
    decay = 1.0 if progress < CONSTANT_SHARE else max(0.02, (1 - progress) / (1 - CONSTANT_SHARE))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * decay


def train(model: DeepseekV2ForCausalLM, tokenizer: PreTrainedTokenizerFast, phase: Phase) -> None:
    """Train `model` in place for one phase."""
    model.set_experts_implementation("grouped_mm")
    model.train()
    balance = BalanceLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True)
    stream, started, average = batches(tokenizer, phase.seed, phase.weights), time.monotonic(), 0.0
    for step in range(phase.steps):
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate * learning_rate(step, phase.steps)
        ids, labels = next(stream)
        loss = answer_loss(model, ids, labels)
        torch.autograd.backward(loss + BALANCE * balance.take())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average = 0.97 * average + 0.03 * float(loss.detach()) if step else float(loss.detach())
        if (step + 1) % 100 == 0:
            log.info("step %d loss %.3f after %.0f s", step + 1, average, time.monotonic() - started)
    balance.close()


def pretrain(out: Path, phases: Sequence[Phase] = PHASES) -> DeepseekV2ForCausalLM:
    """Train a backbone from nothing and save it with its tokenizer to `out`."""
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer))
    for phase in phases:
        train(model, tokenizer, phase)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the backbone and its tokenizer")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    pretrain(arguments.out)


if __name__ == "__main__":
    main()
