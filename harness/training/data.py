"""From conversations to batches: encode, mix task and alignment samples, pack to the sequence length.

The order of everything follows from the seed alone, so a run that is resumed meets the same batches.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from esft_bench.harness.backbone.model import question_ids, text_ids
from esft_bench.harness.training.held_out import held_out_rows
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, read_jsonl
from esft_bench.spec.training import Mixing, Training, Truncation
from esft_bench.tasks.prompt import segments
from esft_bench.tasks.task import Conversation

IGNORED = -100
"""The label of a token that the loss does not count (torch's own default)."""


@dataclass(frozen=True)
class Sample:
    """One encoded conversation: token ids, and labels equal to them where the loss counts, `IGNORED` elsewhere."""

    ids: list[int]
    labels: list[int]


def encode(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> Sample:
    """Encode a conversation: BOS before each question, EOS after each answer, loss on answers and their EOS."""
    ids: list[int] = []
    labels: list[int] = []
    for text, supervised in segments(conversation):
        if supervised:
            piece = [*text_ids(tokenizer, text), tokenizer.eos_token_id]
            labels += piece
        else:
            piece = question_ids(tokenizer, text)
            labels += [IGNORED] * len(piece)
        ids += piece
    return Sample(ids, labels)


def encode_file(
    tokenizer: PreTrainedTokenizerBase, path: Path, sequence_length: int, truncation: Truncation = "refuse"
) -> list[Sample]:
    """Encode a JSONL file of conversations.

    Where a question alone fills the sequence its answer would never be seen: with `truncation` "left" it loses its
    beginning, else a UserError is raised, with file and line.
    """
    samples = []
    for number, conversation in enumerate(read_jsonl(path), start=1):
        sample = encode(tokenizer, conversation)
        if all(label == IGNORED for label in sample.labels[:sequence_length]):
            if truncation == "left":
                samples.append(_without_beginning(sample, sequence_length))
                continue
            raise UserError(
                f"{path}, line {number}: the question alone is longer than training.sequence_length "
                f"({sequence_length} tokens): raise it or drop the row."
            )
        samples.append(sample)
    return samples


def first_turns(path: Path, count: int) -> list[tuple[str, str]]:
    """The first question and answer, as texts that a model sees, of the first conversations in a JSONL file."""
    conversations = itertools.islice(read_jsonl(path), count)
    texts = [[text for text, _ in segments(conversation)] for conversation in conversations]
    return [(question, answer) for question, answer, *_ in texts]


def turn_ids(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> list[int]:
    """The ids of a question and its answer, as `encode` makes them."""
    return [*question_ids(tokenizer, question), *text_ids(tokenizer, answer), tokenizer.eos_token_id]


def hold_out(samples: Sequence[Sample], count: int, path: Path) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on and `count` held-out ones; see `held_out_rows`. `path` has the rows that they encode.

    No copy of a held-out row is trained on.
    """
    rows = read_jsonl(path)
    told = [canonical(row) for row in rows]
    places = held_out_rows(rows, count, path)
    gone = {told[place] for place in places}
    kept = [sample for sample, row in zip(samples, told, strict=True) if row not in gone]
    return kept, [samples[place] for place in sorted(places)]


def _without_beginning(sample: Sample, length: int) -> Sample:
    """A sample whose answer begins within `length` tokens, at their middle or later; the first token, BOS, stays."""
    answer = next(place for place, label in enumerate(sample.labels) if label != IGNORED)
    begins = max(length - (len(sample.ids) - answer), length // 2)
    cut = slice(1, 1 + answer - begins)
    ids, labels = list(sample.ids), list(sample.labels)
    del ids[cut], labels[cut]
    return Sample(ids, labels)


def _shuffled_forever(samples: Sequence[Sample], rng: random.Random) -> Iterator[Sample]:
    """Epoch after epoch, each in a new order."""
    while True:
        yield from rng.sample(samples, len(samples))


def mixed(
    tasks: Sequence[Sequence[Sample]],
    alignment: Sequence[Sample],
    share: float,
    seed: int,
    by: Mixing = "conversations",
) -> Iterator[Sample]:
    """Endless samples, of which `share` are alignment data; half and half alternates strictly, as do several tasks.

    By tokens, `share` is that of the tokens: alignment data come next whenever they have had too few so far.
    """
    own = itertools.cycle([_shuffled_forever(task, random.Random(f"task {seed}")) for task in tasks])
    other = _shuffled_forever(alignment, random.Random(f"alignment {seed}"))
    due = 0.0
    while True:
        if by == "conversations":
            due += share
        if alignment and due >= (1.0 - 1e-9 if by == "conversations" else 1e-9):
            sample = next(other)
            due -= 1.0 if by == "conversations" else (1.0 - share) * len(sample.ids)
        else:
            sample = next(next(own))
            due += share * len(sample.ids) if by == "tokens" else 0.0
        yield sample


@dataclass(frozen=True)
class Mixture:
    """How much of what was trained on was alignment data, in per cent: of conversations, tokens, supervised tokens."""

    conversations: float
    tokens: float
    supervised: float


def mixture(
    tasks: Sequence[Sequence[Sample]], alignment: Sequence[Sample], training: Training, seed: int
) -> Mixture | None:
    """What a training's mix came out as, by the samples it draws; None where nothing is mixed in."""
    if not alignment or not training.alignment_share:
        return None
    general = {id(sample) for sample in alignment}
    stream = mixed(tasks, alignment, training.alignment_share, seed, training.mix_by)
    counts = torch.zeros(2, 3, dtype=torch.long)
    for _ in range(training.steps * training.batch_size):
        length = 0
        while length < training.sequence_length:
            sample = next(stream)
            length += len(sample.ids)
            supervised = len(sample.labels) - sample.labels.count(IGNORED)
            counts[int(id(sample) in general)] += torch.tensor([1, len(sample.ids), supervised])
    return Mixture(*(100.0 * counts[1] / counts.sum(0).clamp(min=1)).tolist())


def packed(samples: Iterator[Sample], length: int) -> Iterator[Sample]:
    """Concatenate samples to sequences of `length` tokens; the last one of a sequence is cut.

    Attention crosses the seams, as in the official training code.
    """
    while True:
        ids: list[int] = []
        labels: list[int] = []
        while len(ids) < length:
            sample = next(samples)
            ids += sample.ids
            labels += sample.labels
        yield Sample(ids[:length], labels[:length])


def stack(sequences: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """A batch: `input_ids` and `labels`, each LongTensor (B, T)."""
    return {
        "input_ids": torch.tensor([sequence.ids for sequence in sequences]),
        "labels": torch.tensor([sequence.labels for sequence in sequences]),
    }


def profiling_sequences(samples: Sequence[Sample], sequences: int, length: int) -> tuple[list[Sample], list[Sample]]:
    """Two draws of packed sequences of a task's own data: what expert scores are taken from, and a second one.

    The draws are fixed: every seed and method reads the same profile. No sample is in both, so the second is shorter,
    or empty, where the data do not suffice for it.
    """
    used = 0

    def noted() -> Iterator[Sample]:
        nonlocal used
        for sample in _shuffled_forever(samples, random.Random("profile")):
            used += 1
            yield sample

    stream = packed(noted(), length)
    first = [next(stream) for _ in range(sequences)]
    second: list[Sample] = []
    while len(second) < sequences:
        sequence = next(stream)
        if used > len(samples):
            break
        second.append(sequence)
    return first, second


def profiling_batches(sequences: Sequence[Sample], batch: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Sequences as batches to profile: pairs (input_ids, attention_mask), LongTensors (B, T), nothing masked."""
    stacked = (stack(sequences[start : start + batch])["input_ids"] for start in range(0, len(sequences), batch))
    return [(ids, torch.ones_like(ids)) for ids in stacked]
