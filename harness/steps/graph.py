"""The graph of steps, and what of it is there."""

from collections import defaultdict
from collections.abc import Iterable

from esft_bench.harness.steps.step import Step, with_needs
from esft_bench.harness.store.artifacts import Artifact, DamagedError, Store


class Graph:
    """Steps with all that they rest on, and the artifacts that they have left in a store.

    A step is *finished* when its artifact is there and complete, *ready* when all that it needs is finished, and
    *waiting* otherwise: its key hashes the contents of what it reads, so it has none before those are there.

    Attributes:
        steps: all of them, what is needed first.
        artifacts: what is there, by step; also of a step that is to be done again, such as verdicts after an outage.
        finished: the steps of which nothing is left to do.
    """

    def __init__(self, wanted: Iterable[Step], store: Store) -> None:
        self.store = store
        self.steps = list(with_needs(wanted))
        self.artifacts: dict[Step, Artifact] = {}
        self.finished: set[Step] = set()
        self._dependents: defaultdict[Step, list[Step]] = defaultdict(list)
        for step in self.steps:
            for need in step.needs.values():
                self._dependents[need].append(step)
            self._look(step)

    def is_ready(self, step: Step) -> bool:
        """Whether all that a step needs is finished, and it is not."""
        return step not in self.finished and all(need in self.finished for need in step.needs.values())

    def inputs(self, step: Step) -> dict[str, Artifact]:
        """The artifacts that a ready or finished step reads, by role. Raises KeyError for one that waits."""
        return {role: self.artifacts[need] for role, need in step.needs.items()}

    def key(self, step: Step) -> str:
        """The key of a ready or finished step. Raises KeyError for one that waits."""
        return step.key(self.inputs(step))

    def dependents(self, step: Step) -> list[Step]:
        """The steps that need a step, directly."""
        return self._dependents[step]

    def damaged(self, step: Step, *, again: bool = False) -> list[Step]:
        """Check what a ready or running step reads (`again`: even what was checked before); what is damaged is dropped.

        Returns the steps that made it and are to be done again; those that rest on them wait for that.
        """
        found = []
        for need in step.needs.values():
            try:
                if need in self.artifacts:
                    self.store.check(self.artifacts[need], again=again)
            except DamagedError:
                self._drop(need)
                found.append(need)
        return found

    def _drop(self, step: Step) -> None:
        """Forget a step's artifact and those of the steps that rest on it: they are looked for when it is there."""
        self.finished.discard(step)
        self.artifacts.pop(step, None)
        for other in self.dependents(step):
            self._drop(other)

    def put(self, step: Step, artifact: Artifact) -> list[Step]:
        """Note what a step left; returns the steps that are ready now and were not before."""
        self.artifacts[step] = artifact
        if not step.is_complete(artifact):
            return []
        self.finished.add(step)
        return [each for other in self.dependents(step) for each in self._found(other)]

    def _found(self, step: Step) -> list[Step]:
        """Look for a step whose needs may be finished now, and for those that rest on it; returns the ready ones."""
        if step in self.finished or not self.is_ready(step):
            return []
        self._look(step)
        if step not in self.finished:
            return [step]
        return [each for other in self.dependents(step) for each in self._found(other)]

    def _look(self, step: Step) -> None:
        """See whether a step whose needs are finished is finished too."""
        artifact = self.store.find(step.kind, self.key(step)) if self.is_ready(step) else None
        if artifact is None:
            return
        self.artifacts[step] = artifact
        if step.is_complete(artifact):
            self.finished.add(step)
