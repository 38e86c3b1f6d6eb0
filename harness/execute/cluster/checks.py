"""Before anything is computed: that every node has our environment, and sees what steps will read and write."""

import importlib.metadata
import platform
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from esft_bench.harness.execute.cluster.room import Node
from esft_bench.harness.store.keys import OURS, sources
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, digest_of_text, made_folder, remove

ANSWERS_WITHIN = 120.0
"""Seconds that nodes get to answer: a worker has to start there."""
PACKAGE = "esft-bench"
MIB = 2**20


@dataclass(frozen=True)
class Seen:
    """What a node found: versions by name, our source's digest, folders that it does not see, its accelerators.

    Attributes:
        cards: name and memory in bytes of each accelerator, as far as the driver's tool tells.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    missing: Sequence[str] = ()
    cards: Sequence[tuple[str, float]] = ()


def check_nodes(
    nodes: Sequence[Node], store: Path, needed: Sequence[Path], libraries: Sequence[str]
) -> dict[str, Seen]:
    """What each node has, by its id. Raises UserError naming one that has another environment or other files.

    `store` is the folder that every node must read and write, `needed` are files and folders that it must see,
    `libraries` those whose versions must be this machine's.
    """
    names = ("ray", PACKAGE, *libraries)
    token = made_folder(store / ".work" / "nodes") / secrets.token_hex(8)
    token.mkdir()
    (token / "asked").write_text(token.name)
    told = {"folder": str(Path.cwd()), "token": str(token), "needed": [str(path) for path in needed], "names": names}
    try:
        found = _ask(nodes, told)
        for node in nodes:
            seen = found[node.id]
            _check_versions(node, seen, names)
            if seen.missing:
                raise UserError(f"Node {node.name} does not see {seen.missing[0]}: put it where all nodes see it.")
            answer = token / node.id
            if not answer.exists() or answer.read_text() != token.name:
                raise UserError(_not_shared(node, store))
    finally:
        remove(token)
    return found


def _ask(nodes: Sequence[Node], told: Mapping[str, Any]) -> dict[str, Seen]:
    remote: Any = ray.remote(num_cpus=0, max_retries=1)(_probe())
    asked = {
        node.id: remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(told)
        for node in nodes
    }
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWERS_WITHIN)
    found = {}
    for node in nodes:
        try:
            found[node.id] = Seen(**ray.get(asked[node.id], timeout=1.0))
        except RayError as error:
            raise UserError(
                f"Node {node.name} does not answer: see `ray status`, or take it out of the cluster."
            ) from error
    return found


def _probe() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What runs on a node. Made here, so that it is sent as it stands: the node may have nothing of ours."""

    def probe(told: Mapping[str, Any]) -> dict[str, Any]:
        import contextlib
        import importlib.metadata
        import pathlib
        import platform
        import subprocess

        import ray

        def version(name: str) -> str:
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                return ""

        found: dict[str, Any] = {"versions": {name: version(name) for name in told["names"]}}
        found["versions"]["Python"] = platform.python_version()
        try:
            from esft_bench.harness.execute.cluster.checks import our_source

            found["source"] = our_source()
        except ImportError:
            found["source"] = ""
        token = pathlib.Path(told["folder"]) / told["token"]
        here = pathlib.Path(told["folder"])
        found["missing"] = [path for path in (told["folder"], *told["needed"]) if not (here / path).exists()]
        with contextlib.suppress(OSError):
            text = (token / "asked").read_text()
            (token / ray.get_runtime_context().get_node_id()).write_text(text)
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
        try:
            lines = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.splitlines()
            parts = [line.rsplit(",", 1) for line in lines]
            found["cards"] = [(name.strip(), float(memory) * 2**20) for name, memory in parts]
        except (OSError, ValueError, subprocess.TimeoutExpired):
            found["cards"] = []
        return found

    return probe


def our_source() -> str:
    """Digest of the source that steps run: results are filed under it, so all nodes must have the same."""
    return digest_of_text(canonical(sources((f"{OURS}.harness.commands.run",))))


def _check_versions(node: Node, seen: Seen, names: Sequence[str]) -> None:
    """Refuse another environment than this machine's."""
    here = {"Python": platform.python_version(), **{name: _version(name) for name in names}}
    for name, ours in here.items():
        theirs = seen.versions.get(name, "")
        if name == PACKAGE and not theirs and not seen.source:
            raise UserError(f"Node {node.name} has no {PACKAGE}: install there the environment that this machine has.")
        if theirs != ours:
            told = f"{name} {theirs}" if theirs else f"no {name}"
            raise UserError(
                f"Node {node.name} has {told}, this machine {ours or 'none'}: give all nodes one environment."
            )
    if seen.source != our_source():
        raise UserError(f"Node {node.name} has another source of {PACKAGE} than this machine: give all nodes the same.")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _not_shared(node: Node, store: Path) -> str:
    return (
        f"Node {node.name} does not see the files of {store.parent.resolve()}: give a --run-dir on a file system that "
        "all nodes share."
    )
