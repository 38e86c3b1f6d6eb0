"""Given selections beside the choice of this run, as a table."""

from esft_bench.reports.tables.given import given_view
from esft_bench.spec.routing import GivenSelection, Routing, TaskProfile


def routed(*given):
    profile = TaskProfile(task="law", title="Law", gate=[], token=[])
    return Routing(backbone="x", layers=[0, 1], num_experts=10, top_k=2, profiles=[profile], given=list(given))


def test_a_line_says_how_many_of_the_given_experts_are_chosen_and_how_many_chance_would_meet():
    one = GivenSelection(
        method="a", method_title="ESFT", task="law", seed=0, given=[4, 1], chosen=[2, 3], both=[2, 0], as_many=[3, 1]
    )
    view = given_view(routed(one))
    ((first, entries),) = view.rows
    assert first == "ESFT, Law"
    assert [entry.text for entry in entries] == ["5", "5", "2", "40%", "80%", "34%"]  # (4 · 4 + 1 · 1) / 10 of 5
    assert [entry.small for entry in entries[:3]] == ["(1 to 4)", "(2 to 3)", "(0 to 2)"]
    assert len(entries) == len(view.heads)


def test_there_is_no_table_without_given_selections():
    assert given_view(routed()) is None
    assert given_view(None) is None
