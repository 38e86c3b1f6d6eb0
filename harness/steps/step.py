"""What a step is: a pure function from artifacts to an artifact.

A step has a kind, the steps it needs, the contents it reads besides, its settings, the code it depends on, the
resources it asks for, and a `run` from folders to a folder. It is a description: it knows no store, no key and no
machine. The scheduler knows none of the kinds by name; what runs where only the executor knows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from esft_bench.harness.store.artifacts import Artifact
from esft_bench.harness.store.keys import Code, key_of
from esft_bench.harness.store.manifest import Manifest
from esft_bench.harness.training.together.machines import ALONE, Machines
from esft_bench.spec.files import canonical, digest_of_text
from esft_bench.spec.progress import Progress
from esft_bench.spec.trackers import Trackers


def silent(done: int, total: int) -> None:
    """Progress that nobody is told of."""


@dataclass(frozen=True)
class Content:
    """Files that a step reads and no step made: where they lie, and the digest of what is in them."""

    path: Path
    digest: str


@dataclass(frozen=True)
class Resources:
    """What a step asks for.

    Attributes:
        holds: `process`, the model in memory in a process of its own, or several; `engine`, a serving engine that it
            borrows; `network`, nothing but a connection; `nothing`, what is done in a moment.
        engine: which engine, where it borrows one.
        state: what an engine must hold for it (a checkpoint's name): the next step best goes to an engine that has it.
        gpus: how many accelerators it takes, where there are any; an engine that takes none is run by others.
    """

    holds: Literal["process", "engine", "network", "nothing"]
    engine: Hashable = None
    state: str = ""
    gpus: int = 1


@dataclass(frozen=True)
class Parallelism:
    """How steps are carried out; nothing here changes a result, so none of it is in a key."""

    workers: int = 1
    threads: int = 1
    micro_batch: int | None = None
    processes: int = 1
    trackers: Trackers | None = None
    machines: Machines = ALONE


@dataclass(frozen=True)
class Job:
    """One run of a step.

    Attributes:
        inputs: the folders of the artifacts of the steps it needs, by role.
        out: the empty folder that becomes its artifact; who runs the step makes it.
        scratch: a folder that stays where the run is killed, for the next one to go on from; a step that has use for it
            makes it.
        progress: to be called now and then.
        borrowed: the engine, or the judges, that its resources name.
        manifest: what the artifact is, for who runs the step to seal it.
    """

    inputs: Mapping[str, Path]
    out: Path
    scratch: Path
    parallelism: Parallelism = Parallelism()
    progress: Progress = silent
    borrowed: Any = None
    manifest: Manifest | None = None


class Step(ABC):
    """A node of the graph. Two steps are equal where they would do the same with the same."""

    kind: ClassVar[str]
    together: ClassVar[bool] = False
    """Whether steps of this kind that ask for the very same are best run together."""

    @property
    @abstractmethod
    def label(self) -> str:
        """How displays, logs and manifests name it: the cell it is made for first, and what of it."""

    @property
    @abstractmethod
    def needs(self) -> Mapping[str, "Step"]:
        """The steps whose artifacts it reads, by role."""

    @property
    @abstractmethod
    def contents(self) -> Mapping[str, Content]:
        """The files it reads besides, by role."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What it is told, as JSON has it."""

    @property
    @abstractmethod
    def code(self) -> Code:
        """The code that its result depends on."""

    @property
    @abstractmethod
    def resources(self) -> Resources:
        """What it asks for."""

    @property
    def size(self) -> float:
        """How much work it is, in tokens that are trained on: of the steps that are ready long ones go first."""
        return 0.0

    def weight(self, job: Job) -> float:
        """How much work it is beside others that ask for the very same, given what it reads: for sharing them out."""
        return 1.0

    @abstractmethod
    def run(self, job: Job) -> dict[str, Any]:
        """Fill `job.out`; returns what that took (seconds, bytes and the like). Raises UserError, one sentence."""

    @classmethod
    def run_together(cls, work: Sequence[tuple[Self, Job]]) -> list[dict[str, Any]]:
        """Run steps of this kind that ask for the very same resources, and for the same state; see `run`."""
        return [step.run(job) for step, job in work]

    def asks(self, inputs: Mapping[str, Artifact]) -> Mapping[str, "Step"]:
        """Further steps whose artifacts it needs, by role, given those that are there of the steps it needs.

        It is asked again when they are there too, until it asks for none that it has not asked for before. The same
        artifacts make it ask for the same.
        """
        return {}

    @property
    def foreseen(self) -> tuple[str, ...]:
        """The kinds of all steps that it will need, with those it will ask for, where it asks; for telling the time."""
        return ()

    def is_complete(self, artifact: Artifact) -> bool:
        """Whether nothing is left to do about a finished artifact; one that is not is made again."""
        return True

    def key(self, inputs: Mapping[str, Artifact]) -> str:
        """The key of its artifact, given those of the steps it needs, by role."""
        digests = {role: content.digest for role, content in self.contents.items()}
        digests |= {role: artifact.digest for role, artifact in inputs.items()}
        return key_of(self.kind, self.settings, digests, self.code)

    @cached_property
    def identity(self) -> str:
        """A digest of all that is known of it before any step has run. It may rest on a chain of any length."""
        way = [(self, self.needs)]
        while True:
            step, needs = way[-1]
            if unknown := [need for need in needs.values() if "identity" not in vars(need)]:
                way += [(need, need.needs) for need in unknown]
                continue
            way.pop()
            found = step.identity_given(needs)
            if not way:
                return found
            vars(step)["identity"] = found

    def identity_given(self, needs: Mapping[str, "Step"]) -> str:
        """The digest, given the steps it needs, which have theirs."""
        told = [
            self.kind,
            self.settings,
            {role: content.digest for role, content in self.contents.items()},
            {role: need.identity for role, need in needs.items()},
            self.code.modules,
        ]
        return digest_of_text(canonical(told))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)


def with_needs(steps: Iterable[Step], needs: Callable[[Step], Iterable[Step]] | None = None) -> Iterator[Step]:
    """Steps and all that they rest on, each once, what is needed first; `needs` where more is known than they say."""
    seen: set[Step] = set()
    way: list[tuple[Step | None, Iterator[Step]]] = [(None, iter(steps))]
    while way:
        step, left = way[-1]
        need = next((each for each in left if each not in seen), None)
        if need is not None:
            seen.add(need)
            way.append((need, iter(needs(need) if needs else need.needs.values())))
            continue
        way.pop()
        if step is not None:
            yield step
