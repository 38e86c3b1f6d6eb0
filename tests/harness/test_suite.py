"""Suites: read, checked and narrowed before anything runs."""

import pytest

from harness.errors import UserError
from harness.suite import available, load, quick_slice, selection

SUITE = """\
name: tiny
tasks: [mini-law]
methods:
  base: {}
  esft-gate: {learning_rate: 1.0e-2, p: 0.1}
  random: {ablates: esft-gate}
"""


def written(tmp_path, text):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", list(available()))
def test_every_suite_that_ships_is_valid(name):
    assert load(name).name == name


def test_a_random_row_takes_method_hyperparameters_and_learning_rate_from_the_row_it_ablates(tmp_path):
    suite = load(written(tmp_path, SUITE))
    assert suite.row("random") == ("random-experts", {"of": {"method": "esft-gate", "p": 0.1}}, 1.0e-2)


def test_an_unknown_suite_is_answered_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'mini'"):
        load("mimi")


def test_an_unknown_field_is_refused_with_its_line(tmp_path):
    with pytest.raises(UserError, match=r"line 9, training\.step"):
        load(written(tmp_path, SUITE + "training:\n  batch_size: 4\n  step: 3\n"))


def test_a_wrong_value_is_refused_with_its_line(tmp_path):
    with pytest.raises(UserError, match=r"line 8, training\.steps"):
        load(written(tmp_path, SUITE + "training:\n  steps: 0\n"))


def test_broken_yaml_is_refused_with_its_line(tmp_path):
    with pytest.raises(UserError, match="line 3: this is not YAML"):
        load(written(tmp_path, "name: tiny\ntasks: [mini-law\nmethods: {}\n"))


def test_a_row_that_ablates_no_row_is_refused(tmp_path):
    with pytest.raises(UserError, match="names 'esft-gat'"):
        load(written(tmp_path, SUITE.replace("ablates: esft-gate", "ablates: esft-gat")))


def test_only_keeps_every_name_of_the_kind_it_does_not_mention():
    chosen = selection(load("mini"), "task=mini-law,mini-math")
    assert chosen["task"] == {"mini-law", "mini-math"}
    assert chosen["method"] == set(load("mini").methods)


@pytest.mark.parametrize(
    ("only", "hint"),
    [("task=mini-lav", "did you mean 'mini-law'"), ("metod=fft", "write method=NAME"), ("fft", "write method=NAME")],
)
def test_only_refuses_what_the_suite_does_not_have(only, hint):
    with pytest.raises(UserError, match=hint):
        selection(load("mini"), only)


def test_the_quick_slice_of_mini_is_two_tasks_and_three_methods_under_its_own_name():
    quick = quick_slice(load("mini"))
    assert (quick.name, len(quick.tasks), len(quick.methods)) == ("mini-quick", 2, 3)
