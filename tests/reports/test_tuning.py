"""What a report shows of tuning: a table of what was found, and a curve for each row."""

import csv
import io

import numpy as np
import pytest

from esft_bench.reports.backbone_results import BackboneResults
from esft_bench.reports.figures.canvas import Missing, Picture, figure_of, table
from esft_bench.reports.figures.tuning import tuning_curves
from esft_bench.reports.manifest import Manifest
from esft_bench.reports.tables.tuning import tuning_view
from esft_bench.spec import trials
from esft_bench.spec.suite import Suite
from esft_bench.spec.trials import TrialRecord

SUITE = Suite.model_validate(
    {
        "name": "s",
        "tasks": ["law", "math"],
        "tune": {"trials": 3},
        "methods": {
            "fft": {"title": "FFT", "learning_rate": 1e-3},
            "esft": {"title": "ESFT"},
            "random": {"title": "Random", "ablates": "esft"},
            "told": {"title": "Told", "ablates": "esft", "learning_rate": 5e-3},
        },
    }
)


def trial(method, task, number, rate, *losses, **more):
    """A trial that came as far as there are losses."""
    told = {"state": "finished" if len(losses) == 2 else "stopped", "hyperparameters": {}} | more
    about = {"backbone": "mini", "method": method, "method_title": method.upper(), "task": task}
    return TrialRecord(
        **about,
        task_title=task.title(),
        number=number,
        learning_rate=rate,
        steps=[20, 60][: len(losses)],
        losses=list(losses),
        **told,
    )


TRIALS = [
    trial("fft", "law", 0, 1e-4, 3.0),
    trial("fft", "law", 1, 1e-3, 2.0, 1.5, chosen=True),
    trial("fft", "law", 2, 1e-2, None, state="diverged"),
    trial("esft", "law", 0, 0.01, 2.0),
    trial("esft", "law", 1, 0.03, 1.0),
    trial("esft", "law", 2, 0.09, 0.5, 0.25, chosen=True, ended="high", hyperparameters={"p": 0.2}),
]


@pytest.fixture
def results(tmp_path):
    return BackboneResults([], tmp_path, Manifest(SUITE))


def test_the_table_has_each_rows_rate_its_loss_and_where_a_bracket_ended(results):
    shown = tuning_view(results, TRIALS)
    cells = {title: [(entry.text, entry.small, entry.letter) for entry in entries] for title, entries in shown.rows}
    assert cells == {
        "FFT": [("0.001", "loss 1.500", "")],
        "ESFT": [("0.09, p 0.2", "loss 0.250", "b")],
        "Random": [("0.09, p 0.2", "as ESFT", "b")],
        "Told": [("0.005", "given", "")],
    }
    assert [head.title for head in shown.heads] == ["Law"]
    assert shown.notes == ["(b) the highest learning rate tried at full length; a higher one may be better."]


def test_the_caption_counts_trials_and_steps(results):
    assert "3 trials of 120 steps in all. 1 of 6 diverged" in tuning_view(results, TRIALS).caption


def test_without_trials_there_is_no_table_and_the_figure_says_why(results):
    assert tuning_view(results, []) is None
    assert tuning_curves(results, []) == Missing(
        "Tuning: loss over learning rates", "no learning rate was searched for"
    )


def test_the_figure_draws_every_rung_and_marks_what_was_chosen_stopped_and_where_a_bracket_ended(results):
    picture = tuning_curves(results, TRIALS)
    assert isinstance(picture, Picture)
    rows = list(csv.DictReader(io.StringIO(table(picture.columns, picture.rows))))
    assert [(row["method"], row["steps"], row["loss"]) for row in rows if row["chosen"] == "1"] == [
        ("fft", "20", "2"),
        ("fft", "60", "1.5"),
        ("esft", "20", "0.5"),
        ("esft", "60", "0.25"),
    ]
    with figure_of(picture) as figure:
        (panel,) = figure.axes
        lines = [(line.get_marker(), np.asarray(line.get_xdata()).tolist()) for line in panel.get_lines()]
        arrows = [text.get_text() for text in panel.texts]
    assert ("x", [0.01, 0.03]) in lines, "ESFT's stopped trials"
    assert ("x", [1e-4]) in lines, "what diverged at once has no loss to stand at"
    assert [x for marker, x in lines if marker == "o" and x == [1e-3]]
    assert arrows == ["→"]


def test_trials_are_read_as_they_were_written_and_a_line_that_cannot_be_read_is_skipped(tmp_path):
    trials.write(TRIALS, tmp_path)
    path = tmp_path / trials.FILE
    path.write_text('{"half": \n' + path.read_text())
    assert trials.read(tmp_path) == TRIALS
