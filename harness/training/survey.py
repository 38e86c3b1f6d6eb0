"""What a model will see of a user's rows: token by token, how long, and what the tokenizer makes of the texts."""

import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from esft_bench.harness.backbone.prompts import Form, special_tokens, text_ids
from esft_bench.harness.training.data import IGNORED, Sample, encode
from esft_bench.tasks.task import Conversation

BROKEN = 0.1
"""From this share of a script's characters on that become several tokens each it is named."""


@dataclass(frozen=True)
class Token:
    """A token as people read it, and whether the loss counts there."""

    text: str
    counts: bool


@dataclass(frozen=True)
class Survey:
    """What was found in training rows.

    Attributes:
        rows, samples: how many, and as how many samples they are trained on.
        lengths: the samples' lengths in tokens.
        supervised: tokens that count, of all samples.
        cut: samples longer than a sequence, which lose their end; `unseen`: those whose question fills it, which lose
            the question's beginning.
        controls: rows with a text that looks like a control token, and the first of these texts.
        broken: by script, the share of its characters of which the tokenizer makes several tokens each.
    """

    rows: int
    samples: int
    lengths: Sequence[int]
    supervised: int
    cut: int
    unseen: int
    controls: tuple[int, str]
    broken: dict[str, float]

    @property
    def typical(self) -> tuple[int, int, int]:
        """Tokens of a sample: the median, what 95 in 100 do not exceed, the most."""
        ordered = sorted(self.lengths)
        return int(statistics.median(ordered)), ordered[int(0.95 * (len(ordered) - 1))], ordered[-1]


def survey(form: Form, conversations: Sequence[Conversation], sequence_length: int) -> Survey:
    """Look through training rows."""
    samples = [sample for conversation in conversations for sample in encode(form, conversation)]
    texts = [[message["content"] for message in conversation] for conversation in conversations]
    return Survey(
        rows=len(conversations),
        samples=len(samples),
        lengths=[len(sample.ids) for sample in samples],
        supervised=sum(len(sample.labels) - sample.labels.count(IGNORED) for sample in samples),
        cut=sum(len(sample.ids) > sequence_length for sample in samples),
        unseen=sum(all(label == IGNORED for label in sample.labels[:sequence_length]) for sample in samples),
        controls=_controls(form.tokenizer, texts),
        broken=_broken(form.tokenizer, (text for row in texts for text in row)),
    )


def tokens(form: Form, conversation: Conversation) -> list[list[Token]]:
    """A row as the model sees it, a list of tokens for each of its samples."""
    return [_readable(form.tokenizer, sample) for sample in encode(form, conversation)]


def _readable(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> list[Token]:
    """A sample's tokens; those that are parts of one character are shown by their bytes."""
    shown = []
    for token, label in zip(sample.ids, sample.labels, strict=True):
        text = str(tokenizer.decode([token], skip_special_tokens=False))
        raw = str(tokenizer.convert_ids_to_tokens(token))
        shown.append(Token(raw if "\ufffd" in text or not text else text, label != IGNORED))
    return shown


def _controls(tokenizer: PreTrainedTokenizerBase, texts: Iterable[Sequence[str]]) -> tuple[int, str]:
    special = special_tokens(tokenizer)
    found = [hit[0] for row in texts if (hit := next(filter(None, map(special.search, row)), None))]
    return len(found), found[0] if found else ""


def _broken(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(each for each in text if ord(each) > 127 and each.isalpha())
    seen: Counter[str] = Counter()
    several: Counter[str] = Counter()
    for character, count in counts.items():
        script = unicodedata.name(character, "OTHER").split()[0].capitalize()
        seen[script] += count
        # After a letter: alone, many tokenizers put a space before it.
        if len(text_ids(tokenizer, f"a{character}")) - len(text_ids(tokenizer, "a")) > 1:
            several[script] += count
    return {script: several[script] / count for script, count in seen.items() if several[script] >= BROKEN * count}
