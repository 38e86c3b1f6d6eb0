"""Samples: the same choice each time, worst and best and most divided, never more than fits, never HTML."""

import json
import re
from dataclasses import asdict
from pathlib import Path

from esft_bench.reports.content import gather
from esft_bench.reports.html.report import render
from esft_bench.reports.samples import LONGEST, Sample, choose
from tests.reports.conftest import MadeUpRun


def samples_of(folder: Path, **settings: int) -> list[Sample]:
    return choose(gather(folder).backbones[0].results, **settings)


def test_the_choice_is_the_same_each_time_and_covers_every_benchmark(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    samples = samples_of(tmp_path)
    assert samples == samples_of(tmp_path)
    assert {sample.benchmark for sample in samples} == {*made_up.tasks, *made_up.general}
    assert len({(sample.benchmark, sample.id) for sample in samples}) == len(samples)


def test_every_row_answers_and_its_worst_and_best_scores_are_there(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    law = [sample for sample in samples_of(tmp_path) if sample.benchmark == "law"]
    assert all([answer.method for answer in sample.answers] == list(made_up.methods) for sample in law)
    for method in made_up.methods:
        lines = (tmp_path / f"items/{method}-{'' if method == 'base' else 'law'}-0-law.jsonl").read_text().splitlines()
        scores = [100 * json.loads(line)["score"] for line in lines]
        shown = [answer.score for sample in law for answer in sample.answers if answer.method == method]
        assert min(shown) == round(min(scores), 1)
        assert max(shown) == round(max(scores), 1)


def test_the_first_sample_is_one_on_which_the_rows_differ_most(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    first = next(sample for sample in samples_of(tmp_path) if sample.benchmark == "intent")
    assert "divided" in first.kinds
    assert {answer.score for answer in first.answers} == {0.0, 100.0}


def test_an_item_without_a_score_is_shown_and_never_as_zero(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.unscored = lambda record, index: (record.method, record.benchmark) == ("fft", "law") and index == 7
    made_up.build(tmp_path)
    missed = [sample for sample in samples_of(tmp_path) if "unscored" in sample.kinds]
    assert len(missed) == 1
    answer = next(answer for answer in missed[0].answers if answer.method == "fft")
    assert (answer.score, answer.state) == (None, "unscored")


def test_samples_that_would_be_too_large_lose_the_last_of_each_benchmark(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    whole, few = samples_of(tmp_path), samples_of(tmp_path, largest=20_000)
    text = json.dumps([asdict(sample) for sample in few], separators=(",", ":"))
    assert len(text) <= 20_100
    assert len(few) < len(whole)
    assert {sample.benchmark for sample in few} == {sample.benchmark for sample in whole}


def test_long_texts_are_cut_and_say_by_how_much(made_up: MadeUpRun, tmp_path: Path) -> None:
    record = next(record for record in made_up.build(tmp_path) if record.method == "fft")
    path = tmp_path / record.items
    items = [json.loads(line) | {"completion": "x" * (LONGEST + 5)} for line in path.read_text().splitlines()]
    path.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    sample = next(sample for sample in samples_of(tmp_path) if sample.benchmark == record.benchmark)
    answer = next(answer for answer in sample.answers if answer.method == "fft")
    assert answer.completion == "x" * LONGEST + "… (5 more characters)"


def test_samples_in_a_page_hold_nothing_that_html_could_read(made_up: MadeUpRun, tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script><!-- & 法律 ]]>"
    record = next(record for record in made_up.build(tmp_path) if record.method == "fft")
    path = tmp_path / record.items
    items = [json.loads(line) | {"completion": nasty} for line in path.read_text().splitlines()]
    path.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    found = re.search(r'<script type="application/json" id="sample-data">(.*?)</script>', render(gather(tmp_path)))
    assert found is not None
    assert not set("<>&") & set(found[1])
    assert nasty in {answer["completion"] for sample in json.loads(found[1]) for answer in sample["answers"]}
