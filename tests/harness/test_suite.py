"""Suites: read, checked and narrowed before anything runs."""

from pathlib import Path

import pytest

from esft_bench.harness.plan.overrides import with_backbone, with_steps
from esft_bench.spec.errors import UserError
from esft_bench.spec.selection import quick_slice, selection
from esft_bench.spec.suite_file import available, load

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


def test_a_choice_of_weights_without_a_measure_is_refused(tmp_path):
    with pytest.raises(UserError, match="`choose: best` needs `evaluate_every`"):
        load(written(tmp_path, SUITE + "training:\n  choose: best\n"))


def test_a_loss_on_a_benchmark_is_refused(tmp_path):
    with pytest.raises(UserError, match="`evaluate_by: loss` is measured on held-out rows"):
        load(written(tmp_path, SUITE + "training: {evaluate_every: 2, evaluate_by: loss, evaluate_on: benchmark}\n"))


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
    assert quick.evaluation.limit == 50


@pytest.mark.parametrize(
    ("limit", "slice_limit", "kept"), [(None, None, None), (7, None, 7), (None, 5, 5), (7, 5, 5), (5, 7, 5)]
)
def test_a_slice_keeps_no_more_items_than_either_limit_says(limit, slice_limit, kept):
    suite = load("mini", [f"evaluation.limit={limit or 'null'}", f"quick.limit={slice_limit or 'null'}"])
    assert quick_slice(suite).evaluation.limit == kept


LONG = """\
name: long
backbone: {path: someone/large-moe, revision: abc, precision: bf16}
tasks: [mini-law]
methods:
  das-tune: {steps: 300}
training: {batch_size: 2}
"""


def test_a_suite_on_the_small_backbone_is_cut_to_a_trial_under_its_own_name_and_says_so(tmp_path):
    suite, notes = with_backbone(load(written(tmp_path, LONG)), "mini")
    assert suite.name == "long-mini"
    assert (suite.backbone.path, suite.backbone.revision, suite.backbone.precision) == ("mini", None, "float32")
    assert (suite.training.steps, suite.training.batch_size, suite.training.sequence_length) == (20, 2, 512)
    assert suite.methods["das-tune"].steps == 20
    assert (suite.profiling.sequence_length, suite.evaluation.max_length) == (512, 2048)
    told = " ".join(notes)
    assert "training.sequence_length 4096 → 512" in told
    assert "evaluation.max_length 4096 → 2048" in told
    assert "no comparison of the methods" in told


def test_a_trial_on_the_small_backbone_takes_rows_as_they_are_and_says_so(tmp_path):
    """Of a few rows at hand a filter may leave one, too few to hold any out."""
    das = load("das")
    suite, notes = with_backbone(das, "mini")
    assert (suite.filters, das.filters.keys()) == ({}, {"metamathqa", "opencoder"})
    assert "Rows are not filtered: metamathqa, opencoder." in notes


def test_another_backbone_cuts_lengths_to_what_it_can_read_and_nothing_else(tmp_path, tiny_checkpoint):
    folder = tiny_checkpoint("olmoe")
    suite, notes = with_backbone(load(written(tmp_path, LONG + "evaluation: {max_length: 512}\n")), str(folder))
    assert suite.name == "long-olmoe-base"
    assert suite.training == load(written(tmp_path, LONG)).training
    assert len(notes) == 1
    same, nothing = with_backbone(suite, str(folder))
    assert (same, nothing) == (suite, [])


def test_steps_given_on_the_command_line_are_those_of_every_row(tmp_path):
    suite = with_steps(load(written(tmp_path, LONG)), 7)
    assert (suite.name, suite.training.steps, suite.methods["das-tune"].steps) == ("long-7-steps", 7, None)
    kept, notes = with_backbone(with_steps(suite, 70), "mini", steps=70)
    assert kept.training.steps == 70
    assert "training.steps" not in " ".join(notes)


def test_a_suite_that_extends_another_has_its_sections_but_for_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: mini\nname: mine\ntasks: [mini-law]\nquick: null\n")
    mine, mini = load(str(file)), load("mini")
    assert mine.tasks == ["mini-law"]
    assert mine.methods == mini.methods
    assert mine.training == mini.training


@pytest.mark.parametrize(("old", "new"), [("clip_norm: 1.0", "max_grad_norm"), ("overlong: cut", "truncation")])
def test_a_suite_written_before_is_told_the_new_name_of_a_field(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: mini\nname: mine\ntraining: {{{old}}}\n")
    with pytest.raises(UserError, match=rf"mine\.yaml, line 3, training\.\w+: it is called `{new}` now"):
        load(str(file))


def test_suites_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(f"extends: {b}\nname: a\n")
    b.write_text(f"extends: {a}\nname: b\n")
    with pytest.raises(UserError, match=r"a\.yaml, extends: the suites a, b extend each other"):
        load(str(a))


def test_a_suite_that_extends_an_unknown_one_is_refused_with_those_there_are(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: minni\nname: mine\n")
    with pytest.raises(UserError, match="did you mean 'mini'"):
        load(str(file))


def test_a_row_may_have_another_learning_rate_on_some_tasks_and_an_ablation_takes_it_over(tmp_path):
    text = SUITE.replace("p: 0.1}", "p: 0.1, learning_rates: {mini-law: 3.0e-3}}")
    suite = load(written(tmp_path, text.replace("[mini-law]", "[mini-law, mini-intent]")))
    for row in ("esft-gate", "random"):
        assert suite.learning_rate(row, "mini-law") == 3.0e-3
        assert suite.learning_rate(row, "mini-intent") == suite.learning_rate(row) == 1.0e-2
    with pytest.raises(UserError, match=r"methods\.esft-gate\.learning_rates names 'mini-law', which is no task"):
        load(written(tmp_path, text.replace("[mini-law]", "[mini-intent]")))
    with pytest.raises(UserError, match="all tasks are trained together"):
        load(written(tmp_path, text.replace("p: 0.1", "p: 0.1, together: true")))


def test_epochs_are_counted_in_whole_batches_of_a_tasks_own_rows(tmp_path):
    own = "training: {epochs: 4, batch_size: 256, packing: false, alignment_share: %s}\n"
    suite = load(written(tmp_path, SUITE + own % 0))
    assert suite.steps("random", rows=7473) == 4 * 30
    assert load(written(tmp_path, SUITE + own % 0.5)).steps("random", rows=1280) == 4 * 10
    assert with_steps(suite, 20).steps("random", rows=7473) == 20
    with pytest.raises(UserError, match="`epochs` counts samples"):
        load(written(tmp_path, SUITE + "training: {epochs: 4}\n"))
    with pytest.raises(UserError, match="a search counts steps"):
        load(written(tmp_path, SUITE + own % 0 + "tune: {}\n"))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[2]", "--set methods.lora.tune.rank: List should have at least 2 items"),
        ("{low: 4, high: 2}", "--set methods.lora.tune.rank: `low` must be below `high`."),
        (
            "5",
            "--set methods.lora.tune.rank: Input should be a valid dictionary or instance of Range, or a valid list.",
        ),
    ],
)
def test_of_a_field_of_several_kinds_it_is_said_what_is_wrong_with_the_one_given(value, said):
    with pytest.raises(UserError) as error:
        load("mini", ["tune={}", f"methods.lora.tune.rank={value}"])
    assert str(error.value).startswith(said)


def test_what_concerns_several_sections_names_what_was_set_besides_the_file():
    with pytest.raises(UserError, match=r"mini\.yaml with --set tune\.trials: a search begins with 3 learning rates"):
        load("mini", ["tune.trials=1"])


def test_a_search_for_no_row_is_refused():
    with pytest.raises(UserError, match=r"--set tune\.rows: .* at least 1 item"):
        load("mini", ["tune.rows=[]"])
