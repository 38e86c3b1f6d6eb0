"""Every architecture of transformers with experts is either trained right or refused with a sentence."""

from pathlib import Path

import pytest
import transformers

from benchmarks.architectures import examine, factor_in_weights, names, scaling_seen


@pytest.mark.parametrize("name", ["nemotron_h", "granitemoeshared", "inkling_text"])
def test_experts_of_unusual_form_are_trained(name: str) -> None:
    """Without a gate; with shared experts beside the block; with shared experts of the form of routed ones."""
    row = examine(name)
    assert (row.state, row.note) == ("trained", "")
    assert row.layer is not None
    assert row.layer.shared


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llama4_text", "runs no other experts implementation"),
        ("jetmoe", "JetMoeForCausalLM is not a mixture-of-experts model this can train: no module has the 3-D"),
    ],
)
def test_experts_that_the_view_cannot_see_or_run_are_refused_by_what_was_looked_for(name: str, words: str) -> None:
    row = examine(name)
    assert row.state == "refused"
    assert words in row.note


@pytest.mark.parametrize("name", ["deepseek_v3", "afmoe", "hy_v3", "lfm2_moe", "laguna", "minimax_m3_vl_text"])
def test_the_scaling_that_is_divided_out_of_gates_is_the_one_in_the_weights(name: str) -> None:
    """Some blocks scale what their experts put out instead, and the router's weights have no factor then."""
    assert factor_in_weights(name) == pytest.approx(scaling_seen(name))


def test_the_documented_walk_is_over_every_architecture_of_this_transformers_and_found_none_trained_wrong() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text().splitlines()
    assert f"transformers {transformers.__version__};" in lines[2]
    states = dict(line.split("|")[1:3] for line in lines if line.startswith("| ") and "architecture" not in line)
    assert {name.strip() for name in states} == set(names())
    assert {state.strip() for state in states.values()} == {"trained", "refused", "not built"}
