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
    """What one attempt takes of one node."""

    cores: int
    gpus: int = 0


class Room:
    """What is free, by our own count: Ray places what is within it.

    A cluster whose nodes have accelerators counts these, and a core beside each; one without counts cores.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._cores = self._gpus = 0
        self._on_gpus = False
        self.look(nodes)

    def look(self, nodes: Sequence[Node]) -> None:
        """These nodes are alive now."""
        self._all_cores, self._all_gpus = sum(node.cores for node in nodes), sum(node.gpus for node in nodes)
        self._on_gpus = self._on_gpus or self._all_gpus > 0

    def need(self, asked: Resources) -> Need:
        """What steps that ask for this take."""
        if self._on_gpus:
            return Need(max(1, asked.gpus), asked.gpus)
        return Need(max(1, asked.gpus))

    def has(self, need: Need) -> bool:
        """Whether so much is free."""
        return self._cores + need.cores <= self._all_cores and self._gpus + need.gpus <= self._all_gpus

    def has_without(self, need: Need, others: Iterable[Need]) -> bool:
        """Whether so much would be free without these."""
        cores, gpus = need.cores, need.gpus
        for other in others:
            cores, gpus = cores - other.cores, gpus - other.gpus
        return self.has(Need(cores, gpus))

    def take(self, need: Need) -> None:
        """So much is taken."""
        self._cores, self._gpus = self._cores + need.cores, self._gpus + need.gpus

    def give_back(self, need: Need) -> None:
        """So much is free again, or went with its node."""
        self._cores, self._gpus = self._cores - need.cores, self._gpus - need.gpus
