"""From conversations to batches: encode, mix task and alignment samples, pack to the sequence length.

The order of everything follows from the seed alone, so a run that is resumed meets the same batches.
"""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from esft_bench.harness.backbone.prompts import Form, Turn, beginning, ids_of_texts, question_ids, text_ids
from esft_bench.harness.training.held_out import held_out_rows
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, read_jsonl
from esft_bench.spec.suite import Profiling
from esft_bench.spec.training import Mixing, PackedAttention, Training, Truncation
from esft_bench.tasks.prompt import SEAM
from esft_bench.tasks.task import Conversation

IGNORED = -100
"""The label of a token that the loss does not count (torch's own default)."""


@dataclass(frozen=True)
class Sample:
    """One encoded conversation: token ids, and labels equal to them where the loss counts, `IGNORED` elsewhere.

    A sequence of several has `positions` that begin anew with each, where they do not attend to each other. `row` is
    the place, from 0, of the conversation in its file: one may be several samples.
    """

    ids: list[int]
    labels: list[int]
    positions: list[int] | None = None
    row: int = 0


def encode(form: Form, conversation: Conversation) -> list[Sample]:
    """Encode a conversation, the loss on the assistant's messages and their ends alone.

    A turn whose question goes on from the turn before is in one sample with it. Raises UserError where the format
    cannot take the conversation.
    """
    (samples,) = _encoded(form, [conversation])
    return samples


def _encoded(form: Form, conversations: Iterable[Conversation]) -> Iterator[list[Sample]]:
    """The samples of each conversation; all texts are encoded in one go."""
    told = [list(_new(form.turns(conversation))) for conversation in conversations]
    texts = (text for turns in told for _, *both in turns for text in both)
    ids = ids_of_texts(form.tokenizer, texts)
    for turns in told:
        samples: list[Sample] = []
        for goes_on, question, answer in turns:
            asked = [*([] if goes_on else beginning(form.tokenizer, question)), *ids[question]]
            if not goes_on:
                samples.append(Sample([], []))
            samples[-1].ids.extend([*asked, *ids[answer]])
            samples[-1].labels.extend([*[IGNORED] * len(asked), *ids[answer]])
        yield samples


def _new(turns: Iterable[Turn]) -> Iterator[tuple[bool, str, str]]:
    """Of each turn: whether it goes on from the one before, what is new of its question, and its answer."""
    seen = ""
    for question, answer in turns:
        goes_on = bool(seen) and question.startswith(seen)
        yield goes_on, question[len(seen) :] if goes_on else question, answer
        seen = question + SEAM + answer + SEAM


def encode_file(form: Form, path: Path, sequence_length: int, truncation: Truncation = "refuse") -> list[Sample]:
    """Encode a JSONL file of conversations.

    Where a question alone fills the sequence its answer would never be seen: with `truncation` "left" it loses its
    beginning, else a UserError is raised, with file and line.
    """
    samples = []
    for number, encoded in enumerate(_encoded(form, read_jsonl(path)), start=1):
        for sample in (replace(each, row=number - 1) for each in encoded):
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


def first_turns(form: Form, path: Path, count: int) -> list[Turn]:
    """The first question and answer, as texts that a model sees, of the first conversations in a JSONL file."""
    return [form.turns(conversation)[0] for conversation in itertools.islice(read_jsonl(path), count)]


def turn_ids(form: Form, question: str, answer: str) -> list[int]:
    """The ids of a question and its answer, as `encode` makes them."""
    return [*question_ids(form.tokenizer, question), *text_ids(form.tokenizer, answer)]


def hold_out(samples: Sequence[Sample], count: int, path: Path) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on, and those of `count` held-out rows; see `held_out_rows`. `path` has the rows they encode.

    No copy of a held-out row is trained on.
    """
    rows = read_jsonl(path)
    told = [canonical(row) for row in rows]
    places = held_out_rows(rows, count, path)
    gone = {told[place] for place in places}
    kept = [sample for sample in samples if told[sample.row] not in gone]
    return kept, [sample for sample in samples if sample.row in places]


def _without_beginning(sample: Sample, length: int) -> Sample:
    """A sample whose answer begins within `length` tokens, at their middle or later; the first token, BOS, stays."""
    answer = next(place for place, label in enumerate(sample.labels) if label != IGNORED)
    begins = max(length - (len(sample.ids) - answer), length // 2)
    cut = slice(1, 1 + answer - begins)
    ids, labels = list(sample.ids), list(sample.labels)
    del ids[cut], labels[cut]
    return replace(sample, ids=ids, labels=labels)


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
        length, room = 0, training.sequence_length if training.packing else 1
        while length < room:
            sample = next(stream)
            length += len(sample.ids)
            supervised = len(sample.labels) - sample.labels.count(IGNORED)
            counts[int(id(sample) in general)] += torch.tensor([1, len(sample.ids), supervised])
    return Mixture(*(100.0 * counts[1] / counts.sum(0).clamp(min=1)).tolist())


def packed(samples: Iterator[Sample], length: int, attention: PackedAttention = "across") -> Iterator[Sample]:
    """Concatenate samples to sequences of `length` tokens; the last one of a sequence is cut.

    With `across` attention crosses the seams, as in the official training code; with `within` it does not.
    """
    while True:
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        while len(ids) < length:
            sample = next(samples)
            ids += sample.ids
            labels += sample.labels
            positions += range(len(sample.ids))
        yield Sample(ids[:length], labels[:length], positions[:length] if attention == "within" else None)


def sequences(samples: Iterator[Sample], training: Training) -> Iterator[Sample]:
    """What a training is shown, one by one: packed samples, or single ones cut to the sequence length."""
    length = training.sequence_length
    if training.packing:
        return packed(samples, length, training.packed_attention)
    return (Sample(sample.ids[:length], sample.labels[:length]) for sample in samples)


def stack(sequences: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """A batch: `input_ids`, `labels` and, where samples are kept apart, `position_ids`, each LongTensor (B, T).

    Shorter sequences are filled up at their end with tokens that the loss does not count, and that none before sees.
    """
    longest = max(len(each.ids) for each in sequences)
    missing = [longest - len(each.ids) for each in sequences]
    batch = {
        "input_ids": [each.ids + [each.ids[-1]] * short for each, short in zip(sequences, missing, strict=True)],
        "labels": [each.labels + [IGNORED] * short for each, short in zip(sequences, missing, strict=True)],
    }
    positions = [each.positions for each in sequences if each.positions is not None]
    if positions:
        batch["position_ids"] = positions
    return {name: torch.tensor(rows) for name, rows in batch.items()}


def profiling_sequences(samples: Sequence[Sample], wanted: Profiling) -> tuple[list[Sample], list[Sample]]:
    """Two draws of packed sequences of a task's own data: what expert scores are taken from, and a second one.

    The draws are fixed: every seed and method reads the same profile. No sample is in both, so the second is shorter,
    or empty, where the data do not suffice for it.
    """
    used, sequences = 0, wanted.sequences

    def noted() -> Iterator[Sample]:
        nonlocal used
        for sample in _shuffled_forever(samples, random.Random("profile")):
            used += 1
            yield sample

    stream = packed(noted(), wanted.sequence_length, wanted.packed_attention)
    first = [next(stream) for _ in range(sequences)]
    second: list[Sample] = []
    while len(second) < sequences:
        sequence = next(stream)
        if used > len(samples):
            break
        second.append(sequence)
    return first, second


def profiling_batches(sequences: Sequence[Sample], batch: int = 8) -> list[tuple[torch.Tensor, ...]]:
    """Sequences as batches to profile: (input_ids, attention_mask), LongTensors (B, T), nothing masked.

    Where samples are kept apart, their positions, (B, T), are third.
    """
    stacked = [stack(sequences[start : start + batch]) for start in range(0, len(sequences), batch)]
    return [
        (each["input_ids"], torch.ones_like(each["input_ids"]), *([each["position_ids"]] if len(each) > 2 else []))
        for each in stacked
    ]
