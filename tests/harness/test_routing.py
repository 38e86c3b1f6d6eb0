"""routing.json: collected from what is finished, read back by the reports."""

import pytest
import torch

from esft_bench.harness.records import routing
from esft_bench.harness.store.names import AFTER, SECOND
from esft_bench.methods.atomic import write_json
from esft_bench.methods.moe.layout import AdapterConfig
from esft_bench.methods.moe.profile import Profile
from esft_bench.spec import routing as contract
from tests.harness.plans import finish, graph_of, prepared

ROWS = """\
name: tiny
tasks: [mini-law, mini-intent]
alignment: mini-alignment
methods:
  fft: {title: FFT, learning_rate: 9.0e-4}
  esft-gate: {learning_rate: 1.0e-2}
training: {steps: 2, batch_size: 2, sequence_length: 128}
profiling: {sequences: 2, sequence_length: 128, after_training: true}
evaluation: {engine: transformers}
"""


@pytest.fixture
def made(tmp_path):
    return prepared(tmp_path, ROWS)


def routed(*counts):
    tokens = torch.tensor([counts, counts]).double()
    return Profile((1, 2), 2, 4, 1, tokens, tokens / 2, tokens / 8, tokens / 8)


def holding(profiles, experts=None):
    """Fills a step's folder: profiles by folder, and the adapter of chosen experts."""

    def fill(built):
        for place, seen in profiles.items():
            (built / place).mkdir(exist_ok=True)
            seen.save(built / place)
        (built / "adapter").mkdir()
        if experts:
            write_json(built / "adapter" / "expert_cfg.json", AdapterConfig(experts=experts).model_dump())

    return fill


def test_there_is_nothing_to_say_before_a_task_is_profiled(made, tmp_path):
    routing.write(made.plan, graph_of(made), tmp_path)
    assert contract.read(tmp_path) is None


def test_profiles_selections_and_shifts_are_those_of_the_finished_steps(made, tmp_path):
    plan = made.plan
    before, other, after = routed(4, 4, 0, 0), routed(4, 2, 2, 0), routed(2, 4, 0, 2)
    finish(made, plan.profiles["mini-law"], holding({"": before, SECOND: other}))
    fft, esft = (path.training for cell, path in plan.paths.items() if cell.task == "mini-law")
    finish(made, fft, holding({AFTER: after}))
    finish(made, esft, holding({AFTER: before}, {1: [1, 0], 2: [0]}))
    routing.write(plan, graph_of(made), tmp_path)
    found = contract.read(tmp_path)
    assert (found.backbone, found.layers, found.num_experts, found.top_k) == ("mini", [1, 2], 4, 2)
    assert [(profile.task, profile.sample) for profile in found.profiles] == [("mini-law", 0), ("mini-law", 1)]
    assert found.profiles[0].title == plan.tasks["mini-law"].title
    assert found.profiles[1].token == [[0.5, 0.25, 0.25, 0.0]] * 2
    assert found.profiles[1].gate == [[0.5, 0.25, 0.25, 0.0]] * 2
    assert [(one.method, one.task, one.seed, one.experts) for one in found.selections] == [
        ("esft-gate", "mini-law", 0, {1: [1, 0], 2: [0]})
    ]
    assert [(one.method_title, one.distance) for one in found.shifts] == [("FFT", [0.25, 0.25]), ("esft-gate", [0, 0])]


def test_a_second_sample_may_be_missing(made):
    finish(made, made.plan.profiles["mini-intent"], holding({"": routed(4, 4, 0, 0)}))
    (only,) = routing.collect(made.plan, graph_of(made)).profiles
    assert (only.task, only.sample) == ("mini-intent", 0)


def test_profiling_after_training_asks_for_other_trainings_and_the_same_profiles(made, tmp_path):
    without = prepared(tmp_path, ROWS.replace(", after_training: true", ""))
    assert without.plan.profiles == made.plan.profiles
    assert without.plan.paths[without.plan.cells[0]].training != made.plan.paths[made.plan.cells[0]].training


def test_a_given_selection_stands_beside_what_the_profile_comes_to(made, tmp_path):
    text = ROWS.replace("esft-gate: {learning_rate: 1.0e-2}", "esft-gate: {p: 0.1, selection: {0: [2, 3], 1: [9, 8]}}")
    given = prepared(tmp_path, text)
    first, others = [5, 6, 7, 9, *[1] * 60], [7, *[1] * 62, 9]
    seen = four_layers(first, others, others, others)
    finish(given, given.plan.profiles["mini-law"], holding({"": seen}))
    (only,) = routing.collect(given.plan, graph_of(given)).given
    assert (only.method, only.task) == ("esft-gate", "mini-law")
    assert (only.given, only.chosen) == ([2, 2, 0, 0], [1, 1, 1, 1])
    assert (only.both, only.as_many) == ([1, 0, 0, 0], [2, 0, 0, 0])
    finish(made, made.plan.profiles["mini-law"], holding({"": seen}))
    assert routing.collect(made.plan, graph_of(made)).given == []


def four_layers(*weights):
    """A profile of the shipped backbone's shape, with these sums of gate weights; a layer's make 1 a token."""
    gates = torch.tensor(weights).double()
    tokens = int(gates[0].sum())
    means = gates / tokens
    return Profile((0, 1, 2, 3), 6, tokens, 1, gates, gates, means, means)
