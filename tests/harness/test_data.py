"""Encoding, mixing and packing."""

import itertools
import random
import re
import string
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from esft_bench.harness.backbone.prompts import Release
from esft_bench.harness.training.data import (
    IGNORED,
    Sample,
    encode,
    encode_file,
    hold_out,
    mixed,
    mixture,
    packed,
    profiling_batches,
    profiling_sequences,
    sequences,
    stack,
)
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import write_jsonl
from esft_bench.spec.suite import Profiling
from esft_bench.spec.training import Mixing, Training


class Letters:
    """A tokenizer of one token a character."""

    bos_token, eos_token = CONTROL = ("<s>", "</s>")
    bos_token_id, eos_token_id = 1, 2
    all_special_tokens = CONTROL
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def convert_tokens_to_ids(self, token):
        return 1 + self.CONTROL.index(token)

    def encode(self, text, add_special_tokens, split_special_tokens=False):
        assert not add_special_tokens
        pieces = [text] if split_special_tokens else re.split("(</?s>)", text)
        return [
            token
            for piece in pieces
            for token in ([self.convert_tokens_to_ids(piece)] if piece in self.CONTROL else map(ord, piece))
        ]

    def __call__(self, texts, **told):
        return {"input_ids": [self.encode(text, **told) for text in texts]}


FORM = Release(Letters())


def talk(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@given(st.text(string.ascii_letters, min_size=1), st.text(string.ascii_letters, min_size=1))
def test_loss_counts_on_the_answer_and_its_end_alone(question, answer):
    (sample,) = encode(FORM, talk(question, answer))
    counted = [token for token, label in zip(sample.ids, sample.labels, strict=True) if label != IGNORED]
    assert counted == [*map(ord, " " + answer), 2]
    assert sample.ids[: -len(counted)] == [1, *map(ord, f"User: {question}\n\nAssistant:")]


def test_a_second_turn_starts_anew_with_bos_and_is_counted_like_the_first():
    (sample,) = encode(FORM, talk("a", "b") + talk("c", "d"))
    assert sample.ids.count(1) == sample.ids.count(2) == 2
    assert [chr(label) for label in sample.labels if label > 2] == list(" b d")


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 50))
def test_packing_fills_every_sequence_and_starts_each_with_a_fresh_sample(lengths, length):
    samples = [Sample([number] * size, [number] * size) for number, size in enumerate(lengths)]
    stream = packed(itertools.cycle(samples), length)
    for sequence in itertools.islice(stream, 5):
        assert len(sequence.ids) == len(sequence.labels) == length
        first = sequence.ids[0]
        run = next((place for place, token in enumerate(sequence.ids) if token != first), length)
        assert run >= min(length, lengths[first])


@given(st.integers(0, 100), st.sampled_from([0.0, 0.25, 0.5]))
def test_the_mix_has_its_share_of_alignment_and_repeats_for_the_same_seed(seed, share):
    own, other = [Sample([n], [n]) for n in range(7)], [Sample([-n], [-n]) for n in range(1, 4)]

    def drawn():
        return [sample.ids[0] for sample in itertools.islice(mixed([own], other, share, seed), 200)]

    assert drawn() == drawn()
    assert sum(token < 0 for token in drawn()) == 200 * share


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.data())
def test_held_out_rows_are_not_trained_on_nor_any_copy_of_them_and_no_other_row_is_lost(numbers, data):
    different = len(set(numbers))
    assume(different >= 2)
    held = data.draw(st.integers(1, different // 2))
    samples = [Sample([n], [n], row=place) for place, n in enumerate(numbers)]
    with TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_text("".join(f"[{n}]\n" for n in numbers))
        kept, out = hold_out(samples, held, path)
        gone = {sample.ids[0] for sample in out}
        assert len(gone) == len(out) == held
        assert [sample.ids[0] for sample in kept] == [n for n in numbers if n not in gone]
        with pytest.raises(UserError, match=r"rows\.jsonl has .* different rows: training\.validation_items"):
            hold_out(samples, different // 2 + 1, path)


def test_several_tasks_alternate_in_equal_shares_whatever_their_sizes():
    one, two = [Sample([n], [n]) for n in range(3)], [Sample([n], [n]) for n in range(10, 50)]
    drawn = [sample.ids[0] for sample in itertools.islice(mixed([one, two], [], 0.0, 3), 40)]
    assert [token >= 10 for token in drawn] == [False, True] * 20
    assert set(drawn[::2]) == {0, 1, 2}


def test_each_epoch_meets_every_sample_once():
    own = [Sample([n], [n]) for n in range(10)]
    drawn = [sample.ids[0] for sample in itertools.islice(mixed([own], [], 0.0, 3), 30)]
    for epoch in range(3):
        assert sorted(drawn[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert drawn[:10] != drawn[10:20]


def test_a_question_longer_than_the_sequence_is_refused_with_file_and_line(tmp_path):
    path = tmp_path / "train.jsonl"
    write_jsonl(path, [talk("a", "b"), talk("".join(random.Random(0).choices("abc", k=99)), "b")])
    with pytest.raises(UserError, match=r"train\.jsonl, line 2"):
        encode_file(FORM, path, 64)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(8, 24))
def test_a_question_that_is_cut_loses_its_beginning_and_its_answer_is_seen(tmp_path_factory, asked, answered, length):
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    write_jsonl(path, [talk("a" * asked, "b" * answered)])
    (whole,) = encode_file(FORM, path, 10_000)
    (cut,) = encode_file(FORM, path, length, "left")
    assert cut.ids[0] == whole.ids[0]
    assert cut.ids[1:] == whole.ids[len(whole.ids) - len(cut.ids) + 1 :]
    seen = sum(label != IGNORED for label in cut.labels[:length])
    fits = any(label != IGNORED for label in whole.labels[:length])
    assert cut == whole if fits else seen >= min(answered + 1, length // 2)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 12))
def test_two_samples_to_profile_share_nothing_and_the_first_is_whole(lengths, sequences, length):
    samples = [Sample([number] * size, [number] * size) for number, size in enumerate(lengths)]
    wanted = Profiling(sequences=sequences, sequence_length=length)
    first, second = profiling_sequences(samples, wanted)
    assert profiling_sequences(samples, wanted) == (first, second)
    assert len(first) == sequences >= len(second)
    seen = [{token for sequence in draw for token in sequence.ids} for draw in (first, second)]
    assert not seen[0] & seen[1]
    many = [Sample([number] * 5, [number] * 5) for number in range(100)]
    assert len(profiling_sequences(many, wanted)[1]) == sequences


def test_sequences_to_profile_are_batched_in_order():
    batches = profiling_batches([Sample([n, n], [n, n]) for n in range(5)], batch=2)
    assert [len(ids) for ids, _ in batches] == [2, 2, 1]
    assert [int(ids[row, 0]) for ids, _ in batches for row in range(len(ids))] == list(range(5))


def long_and_short() -> tuple[list[Sample], list[Sample]]:
    """Task samples of 4 tokens, alignment samples of 12, a third of each supervised."""
    own = [Sample([n] * 4, [IGNORED] * 3 + [n]) for n in range(50)]
    return own, [Sample([n] * 12, [IGNORED] * 9 + [n] * 3) for n in range(50)]


@pytest.mark.parametrize(("by", "conversations", "tokens"), [("conversations", 50, 75), ("tokens", 25, 50)])
def test_half_and_half_is_of_conversations_or_of_tokens_and_what_came_out_is_told(
    by: Mixing, conversations: float, tokens: float
) -> None:
    own, other = long_and_short()
    training = Training(steps=50, batch_size=4, sequence_length=64, mix_by=by)
    came_out = mixture([own], other, training, seed=0)
    assert came_out is not None
    assert came_out.conversations == pytest.approx(conversations, abs=1)
    assert came_out.tokens == pytest.approx(tokens, abs=1)
    assert came_out.supervised == pytest.approx(tokens, abs=1)
    stream = list(itertools.islice(mixed([own], other, 0.5, 0, by), 400))
    drawn = sum(len(sample.ids) == 12 for sample in stream)
    assert 100 * drawn / len(stream) == pytest.approx(conversations, abs=1)


def test_nothing_mixed_in_has_no_share() -> None:
    own, other = long_and_short()
    assert mixture([own], [], Training(), 0) is None
    assert mixture([own], other, Training(alignment_share=0), 0) is None


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 8))
def test_without_packing_a_sequence_is_one_sample_and_what_fills_a_batch_counts_for_nothing(lengths, length):
    samples = [Sample(list(range(size)), [IGNORED, *range(1, size)]) for size in lengths]
    made = list(sequences(iter(samples), Training(packing=False, sequence_length=length)))
    assert [each.ids for each in made] == [sample.ids[:length] for sample in samples]
    batch = stack(made)
    for row, sample in enumerate(made):
        size = len(sample.ids)
        assert batch["input_ids"][row, :size].tolist() == sample.ids
        assert batch["labels"][row].tolist() == sample.labels + [IGNORED] * (batch["labels"].shape[1] - size)
    assert set(batch) == {"input_ids", "labels"}
