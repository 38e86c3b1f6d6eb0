"""What sixteen cards make of a plan: cards a cell, and a list schedule held against what is known of those."""

from dataclasses import replace
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from esft_bench.harness.plan.price.estimate import TrainingPrice, TuningPrice
from esft_bench.harness.plan.price.fleet import Fleet, fleet_table
from esft_bench.harness.plan.price.hardware import GIB, accelerator
from esft_bench.harness.plan.price.makespan import Work, makespan
from esft_bench.harness.plan.price.sharded import Sharing

H100 = accelerator("H100-80GB")
ROW = TrainingPrice("FFT", 4, seconds=3600.0, peak_bytes=250 * GIB)
SHARED = Sharing("FFT", 8, 40 * GIB, 450.0)


@st.composite
def matrices(draw):
    """Work in which pieces come after earlier ones, and cards for it."""
    cards = draw(st.integers(1, 8))
    work = []
    for place in range(draw(st.integers(1, 12))):
        after = draw(st.sets(st.integers(0, place - 1), max_size=3)) if place else set()
        work.append(Work(draw(st.integers(1, 50)), draw(st.integers(1, cards)), tuple(sorted(after))))
    return work, cards


@given(matrices())
def test_work_takes_no_less_than_its_longest_path_and_its_area_and_no_more_than_one_after_another(matrix):
    work, cards = matrix
    ends: list[float] = []
    for each in work:
        ends.append(each.seconds + max((ends[before] for before in each.after), default=0))
    area = sum(each.seconds * each.cards for each in work) / cards
    assert max(max(ends), area) <= makespan(work, cards) <= sum(each.seconds for each in work)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 4))
def test_pieces_of_one_card_take_no_more_than_graham_proved_for_longest_first(seconds, cards):
    best = min(longest_pile(order, cards) for order in permutations(seconds))
    assert best <= makespan([Work(one) for one in seconds], cards) <= (4 / 3 - 1 / (3 * cards)) * best + 1e-9


def longest_pile(order, cards):
    """Pieces laid in an order, each on the lowest pile: in some order that is the best schedule."""
    piles = [0] * cards
    for one in order:
        piles[piles.index(min(piles))] += one
    return max(piles)


def test_what_needs_several_cards_waits_for_them_and_others_run_meanwhile():
    assert makespan([Work(10, 4), Work(4), Work(4)], 4) == 14
    assert makespan([Work(1), Work(10, 1, (0,)), Work(6), Work(5)], 2) == 11


def shown(fleet, trainings, tunings=(), shared=(SHARED,)):
    console = Console(width=200, record=True, file=None)
    with console.capture() as said:
        console.print(fleet_table(fleet, trainings, tunings, shared))
    return [line.split() for line in said.get().splitlines()]


def test_hours_dollars_and_the_end_are_told_of_each_row_and_of_all():
    small = replace(ROW, row="ESFT", cells=8, seconds=1800.0, peak_bytes=50 * GIB)
    lines = shown(Fleet(H100, 16, 2.0), [ROW, small])
    assert lines[2] == ["FFT", "4", "8", "7.5", "min", "4.0", "h", "15.0", "min", "$8.00"]
    assert lines[3] == ["ESFT", "8", "1", "30.0", "min", "4.0", "h", "30.0", "min", "$8.00"]
    assert ["all", "12", "8.0", "h", "30.0", "min", "$16.00"] in lines


def test_a_cell_that_no_node_holds_says_of_how_many_it_takes_its_cards():
    lines = [" ".join(line) for line in shown(Fleet(H100, 32), [ROW], (), [replace(SHARED, devices=16)])]
    assert any(line.startswith("FFT 4 16 of 2 nodes 7.5 min") for line in lines)
    assert "Nodes are taken to have 8 cards" in " ".join(lines)
    assert "Nodes are taken" not in str(shown(Fleet(H100, 32), [ROW]))


def test_searches_come_before_the_cells_of_their_row():
    tuning = TuningPrice("FFT", searches=2, trials=2, steps=10, operations=1.0, seconds=4 * 3600.0)
    (line,) = [each for each in shown(Fleet(H100, 16), [ROW], [tuning]) if each[:1] == ["FFT"]]
    assert line == ["FFT", "4", "8", "7.5", "min", "8.0", "h", "30.0", "min", "–"]


def test_rows_that_do_not_fit_are_named_and_the_others_are_reckoned():
    huge, wide = (replace(ROW, row=row, peak_bytes=9000 * GIB) for row in ("Huge", "Wide"))
    odd = replace(ROW, row="Odd", why_not="no experts")
    shared = (SHARED, Sharing("Huge", 64, GIB, 1.0), Sharing("Wide", 0, GIB, 0.0))
    lines = [" ".join(line) for line in shown(Fleet(H100, 16), [huge, wide, odd, ROW], (), shared)]
    assert "Huge 4 needs 64 cards" in lines
    assert "Wide 4 more than 128 cards do not hold it: a smaller --micro-batch" in lines
    assert "Odd 4 no estimate: no experts" in lines
    assert any(line.startswith("all 4 4.0 h") for line in lines)
