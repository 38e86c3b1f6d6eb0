"""Room on a cluster: which devices its nodes have, and how many of them are taken."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from esft_bench.harness.steps.step import Resources


@dataclass(frozen=True)
class Node:
    """A node that is alive: Ray's name of it, that of its machine, and the cores and accelerators it has declared."""

    id: str
    name: str
    cores: int
    gpus: int


@dataclass(frozen=True)
class Need:
    """What one attempt takes in all: of one node or, in equal parts, of so many `machines`; 0 of these cannot be."""

    cores: int
    gpus: int = 0
    machines: int = 1

    @property
    def each(self) -> "Need":
        """What it takes of each."""
        return Need(self.cores // self.machines, self.gpus // self.machines)


def machines_for(count: int, sizes: Iterable[int]) -> int:
    """Of how many machines `count` devices can be had in equal parts, the fewest; 0 where of none.

    `sizes` are the devices of each machine there is.
    """
    for machines, size in enumerate(sorted(sizes, reverse=True), 1):
        if count % machines == 0 and count // machines <= size:
            return machines
    return 0


def counts_of(sizes: Sequence[int]) -> list[int]:
    """How many devices may share a model on machines of these sizes: any of one machine, or those of several, whole."""
    whole = {machines * size for machines, size in enumerate(sorted(sizes, reverse=True), 1)}
    return sorted({*range(2, max(sizes, default=0) + 1), *whole} - {0, 1})


class Room:
    """What is free, by our own count: Ray places what is within it.

    A cluster whose nodes have accelerators counts these, and a core beside each; one without counts cores.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._cores = self._gpus = 0
        self._on_gpus = False
        self._sizes: list[int] = []
        self.look(nodes)

    def look(self, nodes: Sequence[Node]) -> None:
        """These nodes are alive now."""
        self._all_cores, self._all_gpus = sum(node.cores for node in nodes), sum(node.gpus for node in nodes)
        self._on_gpus = self._on_gpus or self._all_gpus > 0
        self._sizes = [node.gpus if self._on_gpus else node.cores for node in nodes]

    def need(self, asked: Resources) -> Need:
        """What steps that ask for this take; an engine is on one node."""
        count = max(1, asked.gpus)
        several = asked.holds == "process" and asked.gpus > 1
        machines = machines_for(count, self._sizes) if several else 1
        return Need(count, asked.gpus if self._on_gpus else 0, machines)

    def could_have(self, need: Need) -> bool:
        """Whether there are machines for it, free or not."""
        part = need.each.gpus if self._on_gpus else need.each.cores
        return sum(size >= part for size in self._sizes) >= need.machines

    def has(self, need: Need) -> bool:
        """Whether so much is free."""
        return (
            need.machines > 0
            and self._cores + need.cores <= self._all_cores
            and self._gpus + need.gpus <= self._all_gpus
        )

    @property
    def short(self) -> bool:
        """Whether more is taken than there is: a node is gone, and what was to go there can go nowhere."""
        return self._cores > self._all_cores or self._gpus > self._all_gpus

    def has_without(self, need: Need, others: Iterable[Need]) -> bool:
        """Whether so much would be free without these."""
        cores, gpus = need.cores, need.gpus
        for other in others:
            cores, gpus = cores - other.cores, gpus - other.gpus
        return self.has(Need(cores, gpus, need.machines))

    def take(self, need: Need) -> None:
        """So much is taken."""
        self._cores, self._gpus = self._cores + need.cores, self._gpus + need.gpus

    def give_back(self, need: Need) -> None:
        """So much is free again, or went with its node."""
        self._cores, self._gpus = self._cores - need.cores, self._gpus - need.gpus
