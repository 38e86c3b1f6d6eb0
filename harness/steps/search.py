"""The search for a row's values: which trials there are to be, given the losses of those that are over.

Nothing here trains or keeps anything: the same losses give the same trials, so a search that was cut off goes on as if
it had not been. Stopping is successive halving (Jamieson and Talwalkar, 2016), other hyperparameters than the learning
rate are drawn by the tree-structured Parzen estimator (Bergstra et al., 2011), both Optuna's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, log
from typing import Any

from esft_bench.spec.trials import Ended
from esft_bench.spec.tuning import Range, Space, Tune, Values, between, rounded


@dataclass(frozen=True)
class Trial:
    """Values that are tried: the `number` of the trial, and how far it goes, its `rung`, from 0."""

    number: int
    rung: int
    learning_rate: float
    hyperparameters: Mapping[str, Any] = field(default_factory=dict, hash=False)


Losses = Mapping[tuple[int, int], float]
"""What came out, by number and rung: the loss on held-out rows, infinite where the training diverged."""


@dataclass(frozen=True)
class Search:
    """What is searched and how: for all rows, and in a row's own `space`; `own` is its learning rate."""

    tune: Tune
    own: float
    space: Space = field(default_factory=Space)

    def trials(self, losses: Losses) -> list[Trial]:
        """All trials there are to be so far, each on every rung that it has come to."""
        found = self._first_rung(losses)
        rung = found
        while len(rung) and all((trial.number, trial.rung) in losses for trial in rung) and self._is_whole(found):
            rung = self._next_rung(rung, losses)
            found = [*found, *rung]
        last = [trial for trial in found if trial.rung == self.tune.rungs - 1]
        if self.tune.rungs > 1 and last:
            found += self._beside(found, last, losses)
        return found

    def _beside(self, found: Sequence[Trial], last: list[Trial], losses: Losses) -> list[Trial]:
        """The trials next to the best of the last rung, one after another, as far as those there are over."""
        added: list[Trial] = []
        while len(added) < self.tune.beside and all((trial.number, trial.rung) in losses for trial in (*last, *added)):
            added.append(self._next_beside(found, [*last, *added], losses))
        return added

    def _next_beside(self, found: Sequence[Trial], last: Sequence[Trial], losses: Losses) -> Trial:
        """A trial below the best of the last rung where none there is, else above it; then the nearest.

        One that was stopped before, or a new one where none was.
        """
        best = min(last, key=lambda trial: (losses[trial.number, trial.rung], trial.learning_rate))
        there, numbers = sorted({trial.learning_rate for trial in last}), {trial.number for trial in last}
        low, high = best.learning_rate == there[0], best.learning_rate == there[-1]
        waiting = [
            trial
            for trial in found
            if trial.rung == 0
            and trial.number not in numbers
            and (trial.learning_rate < there[0] if low else trial.learning_rate > there[-1] if high else True)
        ]
        if waiting:
            near = min(waiting, key=lambda trial: (abs(log(trial.learning_rate / best.learning_rate)), trial.number))
            return Trial(near.number, best.rung, near.learning_rate, near.hyperparameters)
        rate = self._next_rate(there, [abs(log(rate / best.learning_rate)) for rate in there])
        number = max(self.tune.trials, 1 + max(numbers))
        return Trial(number, best.rung, rate, best.hyperparameters)

    def chosen(self, losses: Losses) -> Trial | None:
        """Of the trials that came furthest and did not diverge, the one with the lowest loss, or with the lower rate.

        None where all diverged.
        """
        diverged = {number for (number, _), loss in losses.items() if not isfinite(loss)}
        sound = [trial for trial in self.trials(losses) if trial.number not in diverged]
        ranked = ((-trial.rung, losses[trial.number, trial.rung], trial.learning_rate, trial.number) for trial in sound)
        best = min(zip(ranked, sound, strict=True), default=None)
        return best[1] if best else None

    def ended(self, rate: float, losses: Losses) -> Ended:
        """Where among those that came furthest a rate lies: inside, or at an end, beyond which a better one may be."""
        trials = self.trials(losses)
        furthest = max(trial.rung for trial in trials)
        rates = [trial.learning_rate for trial in trials if trial.rung == furthest]
        return "low" if rate == min(rates) else "high" if rate == max(rates) else "inside"

    def _is_whole(self, found: Sequence[Trial]) -> bool:
        """Whether all trials are there that begin."""
        return sum(trial.rung == 0 for trial in found) == self.tune.trials

    def _first_rung(self, losses: Losses) -> list[Trial]:
        """The trials that begin: the bracket's, then one after another, as far as the ones before are over."""
        rates = self.tune.first_rates(self.own, self.space)
        first = len(rates)
        while len(rates) < self.tune.trials and all((number, 0) in losses for number in range(len(rates))):
            rates.append(self._next_rate(rates, [losses[number, 0] for number in range(len(rates))]))
        others = self._others(len(rates), first, losses) if self.space.others else [{} for _ in rates]
        return [Trial(number, 0, rate, more) for number, (rate, more) in enumerate(zip(rates, others, strict=True))]

    def _next_rate(self, rates: Sequence[float], losses: Sequence[float]) -> float:
        """Beyond an end where the best rate is there, else in the middle of the wider gap beside it."""
        by_rate = sorted(zip(rates, losses, strict=True))
        tried = sorted(set(rates))
        best = tried.index(min(by_rate, key=lambda pair: (pair[1], pair[0]))[0])
        if best == 0:
            return rounded(tried[0] / self.tune.ratio)
        if best == len(tried) - 1:
            return rounded(tried[-1] * self.tune.ratio)
        below, here, above = tried[best - 1 : best + 2]
        return rounded(between(below, here) if here / below >= above / here else between(here, above))

    def _next_rung(self, trials: Sequence[Trial], losses: Losses) -> list[Trial]:
        """Those of a rung's trials that go on; none after the last rung."""
        rung = trials[0].rung
        if rung + 1 == self.tune.rungs:
            return []
        ranked = sorted(trials, key=lambda trial: (losses[trial.number, rung], trial.learning_rate))
        going_on = [
            trial
            for place, trial in enumerate(ranked)
            if isfinite(losses[trial.number, rung]) and goes_on(place, len(ranked), self.tune.reduction)
        ]
        return [
            Trial(each.number, rung + 1, each.learning_rate, each.hyperparameters)
            for each in sorted(going_on, key=lambda trial: trial.number)
        ]

    def _others(self, count: int, first: int, losses: Losses) -> list[dict[str, Any]]:
        """The other hyperparameters of so many trials, of which the `first` are drawn before any is over."""
        optuna = _optuna()
        space = {name: _distribution(values) for name, values in self.space.others.items()}
        sampler = optuna.samplers.TPESampler(seed=self.tune.seed, n_startup_trials=first)
        study = optuna.create_study(sampler=sampler)
        asked = [study.ask(space) for _ in range(min(first, count))]
        told = 0
        while len(asked) < count:
            for trial in asked[told:]:
                loss = losses[trial.number, 0]
                state = optuna.trial.TrialState.COMPLETE if isfinite(loss) else optuna.trial.TrialState.FAIL
                study.tell(trial, loss if isfinite(loss) else None, state)
            told = len(asked)
            asked.append(study.ask(space))
        return [dict(trial.params) for trial in asked]


def goes_on(place: int, count: int, reduction: int) -> bool:
    """Whether the trial that came in at `place` (from 0) of `count` goes on to the next rung.

    Optuna's rule looks at the trials that have ended so far. It is asked when all others of the rung have, so that
    their order does not matter, and told places in place of losses, so that equal losses let no more of them on.
    """
    optuna = _optuna()
    study = optuna.create_study(pruner=optuna.pruners.SuccessiveHalvingPruner(1, reduction))
    stopped = False
    for each in (*(other for other in range(count) if other != place), place):
        trial = study.ask()
        trial.report(float(each), step=1)
        stopped = trial.should_prune()
    return not stopped


def _distribution(values: Values) -> Any:
    """What Optuna draws from, one of its distributions."""
    optuna = _optuna()
    if not isinstance(values, Range):
        return optuna.distributions.CategoricalDistribution(values)
    if values.whole:
        return optuna.distributions.IntDistribution(int(values.low), int(values.high))
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)


def _optuna() -> Any:
    """The library, quiet."""
    import optuna  # here, since only a suite that is tuned needs it

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
