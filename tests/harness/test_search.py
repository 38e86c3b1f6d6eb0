"""The search for a row's values: which trials there are, who goes on, what is chosen; the losses are made up."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.harness.steps.search import Search, goes_on
from esft_bench.spec.tuning import Range, Rates, Space, Tune


def carried_out(search, loss):
    """All trials of a search and their losses, where a trial's loss is `loss(learning rate, rung)`."""
    losses: dict[tuple[int, int], float] = {}
    while left := [trial for trial in search.trials(losses) if (trial.number, trial.rung) not in losses]:
        losses |= {(trial.number, trial.rung): loss(trial, trial.rung) for trial in left}
    return search.trials(losses), losses


def bowl(best):
    """A loss that is lowest at a learning rate, and rises alike on both sides of it on a log scale."""
    return lambda trial, rung: 1.0 + math.log(trial.learning_rate / best) ** 2 - 0.1 * rung


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.integers(2, 5))
def test_the_best_of_a_rung_go_on_as_successive_halving_has_it(losses, reduction):
    """Algorithm 1 of Jamieson and Talwalkar: the floor(n / eta) with the lowest losses, and always one."""
    kept = [place for place in range(len(losses)) if goes_on(place, len(losses), reduction)]
    assert kept == list(range(max(1, len(losses) // reduction)))


def test_a_search_begins_around_the_rows_own_rate_and_widens_until_the_best_is_inside():
    tune = Tune(trials=6, ratio=3)
    trials, losses = carried_out(Search(tune, 1e-3), bowl(2.6e-2))
    rates = [trial.learning_rate for trial in trials if trial.rung == 0]
    assert rates[:5] == [3.333e-4, 1e-3, 3e-3, 9e-3, 2.7e-2]
    assert rates[5] == 8.1e-2, "the best was still at the end"
    chosen = Search(tune, 1e-3).chosen(losses)
    assert chosen.learning_rate == 2.7e-2
    assert Search(tune, 1e-3).ended(chosen.learning_rate, losses) == "inside"


def test_it_widens_downwards_too_and_away_from_rates_that_diverge():
    search = Search(Tune(trials=6, beside=0), 1.0)
    trials, losses = carried_out(
        search, lambda trial, rung: trial.learning_rate if trial.learning_rate < 0.1 else math.inf
    )
    rates = [trial.learning_rate for trial in trials if trial.rung == 0]
    assert rates == [0.3333, 1.0, 3.0, 0.1111, 0.03703, 0.01234]
    assert {trial.learning_rate for trial in trials if trial.rung == 1} == {0.03703, 0.01234}, (
        "none that diverged goes on"
    )
    assert search.ended(search.chosen(losses).learning_rate, losses) == "low"


def test_where_the_best_is_inside_the_wider_gap_beside_it_is_halved():
    trials, _ = carried_out(Search(Tune(trials=5, rungs=1, learning_rate=[1.0, 4.0, 8.0]), 1.0), bowl(4.0))
    assert [trial.learning_rate for trial in trials] == [1.0, 4.0, 8.0, 2.0, 2.828]


def test_a_bracket_that_the_trials_do_not_suffice_for_says_at_which_end_it_ended():
    search = Search(Tune(trials=3), 1e-4)
    _, losses = carried_out(search, bowl(1.0))
    assert search.ended(search.chosen(losses).learning_rate, losses) == "high"


@given(st.floats(1e-6, 1.0), st.integers(3, 9), st.integers(1, 3), st.integers(2, 4), st.randoms(use_true_random=False))
def test_every_search_has_as_many_trials_and_as_many_steps_whatever_the_losses_are(
    own, trials, rungs, reduction, random
):
    tune = Tune(trials=trials, rungs=rungs, reduction=reduction)
    found, losses = carried_out(Search(tune, own), lambda *_: random.random())
    assert sum(trial.rung == 0 for trial in found) == trials
    assert sum(tune.steps(trial.rung, 60) for trial in found) == tune.budget(60)
    assert len(found) == len(losses)


@given(st.randoms(use_true_random=False), st.integers(0, 30))
def test_a_search_that_is_cut_off_anywhere_asks_for_the_same_trials_again(random, known):
    search = Search(Tune(trials=5), 1e-2, Space.model_validate({"p": {"low": 0.1, "high": 0.9}}))
    found, losses = carried_out(search, lambda *_: random.choice([random.random(), math.inf]))
    kept = dict(list(losses.items())[:known])
    so_far = search.trials(kept)
    assert [trial for trial in found if trial in so_far] == so_far
    assert search.trials(losses) == found


def test_the_lowest_loss_of_the_last_rung_is_chosen_though_others_were_lower_before():
    search = Search(Tune(trials=6, beside=0, learning_rate=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), 1.0)
    _, losses = carried_out(search, lambda trial, rung: trial.learning_rate if rung == 0 else 9 - trial.learning_rate)
    assert search.chosen(losses).learning_rate == 2.0


def last_rung(trials):
    return [trial.learning_rate for trial in trials if trial.rung == 1]


def test_what_short_trainings_misjudge_is_tried_at_full_length_below_and_above_until_the_best_is_inside():
    """Short trainings favour rates five times as high."""
    search = Search(Tune(trials=6, learning_rate=[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]), 1.0)

    def loss(trial, rung):
        return bowl(4.0 if rung else 20.0)(trial, rung)

    trials, losses = carried_out(search, loss)
    assert last_rung(trials) == [16.0, 32.0, 8.0, 4.0]
    assert search.chosen(losses).learning_rate == 4.0
    assert search.ended(4.0, losses) == "low", "nothing below it was tried at full length"
    search = Search(search.tune.model_copy(update={"beside": 3}), 1.0)
    trials, losses = carried_out(search, loss)
    assert last_rung(trials) == [16.0, 32.0, 8.0, 4.0, 2.0]
    assert search.ended(4.0, losses) == "inside"


def test_where_all_rates_were_tried_at_full_length_new_ones_are():
    search = Search(Tune(trials=2, reduction=2, beside=4, learning_rate=[3.0, 9.0]), 1.0)
    trials, losses = carried_out(search, bowl(9.0))
    assert last_rung(trials) == [9.0, 3.0, 27.0, 5.196, 15.59]
    assert {trial.number for trial in trials} == {0, 1, 2, 3, 4}
    assert search.ended(search.chosen(losses).learning_rate, losses) == "inside"


def test_a_trial_that_diverges_on_the_last_rung_is_not_chosen_and_where_all_do_none_is():
    search = Search(Tune(trials=3, learning_rate=[1.0, 2.0, 3.0]), 1.0)
    _, losses = carried_out(search, lambda trial, rung: math.inf if rung else trial.learning_rate)
    assert search.chosen(losses).learning_rate == 2.0
    _, losses = carried_out(search, lambda trial, rung: math.inf)
    assert search.chosen(losses) is None


def test_other_hyperparameters_come_from_their_values_and_ranges_and_the_better_ones_more_often():
    space = Space.model_validate({"p": {"low": 0.0, "high": 1.0}, "rank": [2, 4], "group": {"low": 1, "high": 8}})
    search = Search(Tune(trials=60, rungs=1), 1e-2, space)
    trials, _ = carried_out(search, lambda trial, rung: abs(trial.hyperparameters["p"] - 0.8))
    tried = [trial.hyperparameters["p"] for trial in trials]
    assert all(0 <= p <= 1 for p in tried)
    assert {trial.hyperparameters["rank"] for trial in trials} == {2, 4}
    assert {type(trial.hyperparameters["group"]) for trial in trials} == {int}
    near = [abs(p - 0.8) < 0.2 for p in tried]
    assert sum(near[30:]) > sum(near[:30])


def test_rates_are_given_as_a_list_a_range_or_about_the_rows_own():
    tune = Tune(learning_rate=Rates(low=1e-4, high=1e-2))
    assert tune.first_rates(5.0, Space()) == [1e-4, 1e-3, 1e-2]
    assert tune.first_rates(5.0, Space(learning_rate=[3e-3, 1e-3])) == [1e-3, 3e-3]
    assert Tune().first_rates(6.0, Space()) == [2.0, 6.0, 18.0]


def test_more_rates_than_trials_are_refused():
    with pytest.raises(ValueError, match=r"begins with 4 learning rates, and tune\.trials is 3"):
        Tune(trials=3).first_rates(1.0, Space(learning_rate=[1.0, 2.0, 3.0, 4.0]))


@pytest.mark.parametrize("wrong", [{"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}])
def test_a_range_goes_up(wrong):
    with pytest.raises(ValueError, match="low"):
        Range.model_validate(wrong)
