"""The graph of steps, and what of it is there."""

from collections.abc import Iterable, Iterator, Mapping

from esft_bench.harness.steps.shelf import Shelf
from esft_bench.harness.steps.step import Step, with_needs
from esft_bench.harness.store.artifacts import Artifact, DamagedError, Store


class Graph:
    """Steps with all that they rest on, and the artifacts that they have left in a store.

    A step is *finished* when its artifact is there and complete, *ready* when all that it needs is finished, and
    *waiting* otherwise: its key hashes the contents of what it reads, so it has none before those are there. What a
    step asks for when its needs are there is needed too, and comes into the graph then.

    Attributes:
        steps: all of them so far, what is needed first.
        artifacts: what is there, by step; also of a step that is to be done again, such as verdicts after an outage.
        finished: the steps of which nothing is left to do.
        notes: what steps that are there had to remark for the report, each sentence once.
    """

    def __init__(self, wanted: Iterable[Step], store: Store) -> None:
        self.store = store
        self.steps: list[Step] = []
        self.artifacts = Shelf(store.root)
        self.finished = self.artifacts.finished
        self.notes: dict[str, None] = {}
        self._needs: dict[Step, dict[str, Step]] = {}
        self._dependents: dict[Step, list[Step]] = {}
        self._include(wanted)

    def _include(self, wanted: Iterable[Step]) -> list[Step]:
        """Take steps into the graph, with all that they rest on; returns those that it did not have."""
        new: list[Step] = []
        for step in with_needs(wanted):
            if step not in self._needs:
                self.steps.append(step)
                self.artifacts.make_room(step)
                self._require(step, step.needs)
                new += [step, *self._look(step)]
        return new

    def _require(self, step: Step, needs: Mapping[str, Step]) -> None:
        """A step needs these too."""
        self._needs.setdefault(step, {}).update(needs)
        for need in needs.values():
            self._dependents.setdefault(need, []).append(step)

    def needs(self, step: Step) -> Mapping[str, Step]:
        """The steps whose artifacts a step needs, by role, with those that it has asked for."""
        return self._needs[step]

    def with_needs(self, steps: Iterable[Step]) -> list[Step]:
        """Steps and all that they rest on so far, each once, what is needed first."""
        return list(with_needs(steps, lambda step: self._needs[step].values()))

    def to_come(self, steps: Iterable[Step]) -> Iterator[str]:
        """The kinds of what is left to do for steps, with what will be asked for as far as it is foreseen."""
        for step in self.with_needs(steps):
            if step not in self.finished:
                yield from (step.kind, *step.foreseen[len(self._needs[step]) :])

    def is_ready(self, step: Step) -> bool:
        """Whether all that a step needs is finished, and it is not."""
        return step not in self.finished and all(need in self.finished for need in self._needs[step].values())

    def inputs(self, step: Step) -> dict[str, Artifact]:
        """The artifacts that a ready or finished step reads, by role. Raises KeyError for one that waits."""
        return {role: self.artifacts[need] for role, need in self._needs[step].items()}

    def key(self, step: Step) -> str:
        """The key of a ready or finished step. Raises KeyError for one that waits."""
        return step.key(self.inputs(step))

    def dependents(self, step: Step) -> list[Step]:
        """The steps that need a step, directly."""
        return self._dependents.get(step, [])

    def resting_on(self, step: Step) -> list[Step]:
        """A step and all that rest on it, what is needed first."""
        return list(with_needs([step], self.dependents))[::-1]

    def damaged(self, step: Step, *, again: bool = False) -> list[Step]:
        """Check what a ready or running step reads (`again`: even what was checked before); what is damaged is dropped.

        Returns the steps that made it and are to be done again; those that rest on them wait for that.
        """
        found = []
        for need in self._needs[step].values():
            try:
                known = self.artifacts.get(need)
                if known is not None and (seen := self.store.check(known, again=again)) is not known:
                    self._hold(need, seen)
            except DamagedError:
                self._drop(need)
                found.append(need)
        return found

    def _drop(self, step: Step) -> None:
        """Forget a step's artifact and those of the steps that rest on it: they are looked for when it is there.

        So is what those have asked for.
        """
        for each in self.resting_on(step):
            self.artifacts.drop(each)
            if each != step:
                self._needs[each] = dict(each.needs)

    def put(self, step: Step, artifact: Artifact) -> list[Step]:
        """Note what a step left; returns the steps that are ready now and were not before."""
        self._note(step, artifact)
        return self._found_after(step) if step in self.finished else []

    def _found_after(self, step: Step) -> list[Step]:
        """Look for the steps that rest on one that is finished now; returns those that are ready then."""
        found: list[Step] = []
        after = [step]
        while after:
            for other in filter(self.is_ready, list(self.dependents(after.pop()))):
                asked = self._look(other)
                if other in self.finished:
                    after.append(other)
                else:
                    found += filter(self.is_ready, (*asked, other))
        return found

    def _look(self, step: Step) -> list[Step]:
        """See whether a step whose needs are finished asks for more, or is finished too; returns what came in so."""
        new: list[Step] = []
        while self.is_ready(step):
            inputs, known = self.inputs(step), self._needs[step]
            asked = {role: need for role, need in step.asks(inputs).items() if role not in known}
            if not asked:
                self._note(step, self.store.find(step.kind, step.key(inputs)))
                break
            self._require(step, asked)
            new += self._include(asked.values())
        return new

    def _note(self, step: Step, artifact: Artifact | None) -> None:
        """Note what there is of a step whose needs are finished."""
        if artifact is not None:
            self._hold(step, artifact)
            self.notes |= dict.fromkeys((artifact.at_hand or {}).get("notes", ()))

    def _hold(self, step: Step, artifact: Artifact) -> None:
        self.artifacts.put(artifact, step, finished=step.is_complete(artifact))
