"""Where a run is carried out: on this machine, on all its accelerators together, or on a cluster."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from esft_bench.harness.commands.options import RunOptions
from esft_bench.harness.commands.prepare import Prepared
from esft_bench.harness.execute.executor import Executor
from esft_bench.harness.execute.local import LocalExecutor
from esft_bench.harness.judge.panel import Panel
from esft_bench.harness.plan.price.serving import gpus_to_serve
from esft_bench.harness.serving.needs import model_config, takes_one_core
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.step import Parallelism, Step
from esft_bench.harness.steps.train import TrainStep
from esft_bench.harness.store.leases import MACHINE, Leases
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import digest_of_text

LOCAL, CLUSTER, REMOTE = "local", "ray", "ray://"
INSTALL = "pip install 'esft-bench[cluster]'"

Make = Callable[[Panel, bool], Executor]


@dataclass(frozen=True)
class Machines:
    """What steps run on.

    Attributes:
        parallelism: how each is carried out.
        executor: makes an executor, given the judges and whether these take batches.
        notes: what there is to say about the choice.
    """

    parallelism: Parallelism
    executor: Make
    notes: list[str] = field(default_factory=list)


@contextmanager
def machines(prepared: Prepared, graph: Graph, options: RunOptions) -> Iterator[Machines]:
    """The machines of a run, checked, for as long as it lasts. Raises UserError, one sentence."""
    where, notes = _chosen(options)
    if where == LOCAL:
        parallelism = _on_this_machine(options, prepared)
        cards = _cards()
        sharing = _sharing(prepared, graph, cards, len(cards) or _cores())

        def local(judges: Panel, batches: bool) -> Executor:
            executor = LocalExecutor(parallelism, prepared.folder, judges, batches, sharing)
            if _starts_ahead(prepared, graph):
                executor.start_engine(prepared.plan.engine, prepared.plan.backbone.path)
            return executor

        with alone_on_accelerators(prepared.store.leases):
            yield Machines(parallelism, local, notes)
        return
    from esft_bench.harness.execute.cluster.connect import connected  # here: it brings Ray along

    with connected(where, _cores(), _gpus()):
        yield Machines(*_on_a_cluster(prepared, graph, options), notes)


@contextmanager
def alone_on_accelerators(leases: Leases) -> Iterator[None]:
    """Hold the accelerators that this process sees, whose memory two runs would fill; without one nothing is held.

    Raises UserError where another run of the store holds them.
    """
    if not _gpus():
        yield
        return
    name = f"accelerators-{digest_of_text(MACHINE + os.environ.get('CUDA_VISIBLE_DEVICES', ''))[:12]}"
    if (lease := leases.claim(name)) is None:
        raise UserError(
            f"Another run is at work on this machine's accelerators ({leases.holder(name)}): wait for it, or give each "
            "run its own by CUDA_VISIBLE_DEVICES."
        )
    try:
        yield
    finally:
        lease.release()


def _chosen(options: RunOptions) -> tuple[str, list[str]]:
    """Where to run, and what to say about that."""
    on, ray = options.on, importlib.util.find_spec("ray") is not None
    if on is None:
        if _gpus() < 2 or options.workers or (options.processes > 1 and not ray):
            return LOCAL, []
        return ("here", []) if ray else (LOCAL, [f"One of {_gpus()} GPUs is used; to use all of them: {INSTALL}."])
    if on != LOCAL and on != CLUSTER and not on.startswith(REMOTE):
        raise UserError(f"--on {on}: give local, ray, or ray://HOST:PORT.")
    if on != LOCAL and options.workers:
        raise UserError(f"--workers is for one machine: leave it out with --on {on}, where as much runs as has room.")
    if on != LOCAL and not ray:
        raise UserError(f"--on {on}: Ray is not installed here: {INSTALL}, the same on every node.")
    return on, []


def _on_a_cluster(prepared: Prepared, graph: Graph, options: RunOptions) -> tuple[Parallelism, Make]:
    """How steps are carried out on the cluster that this process is connected to, after all checks."""
    from esft_bench.harness.execute.cluster.checks import check_nodes
    from esft_bench.harness.execute.cluster.connect import nodes
    from esft_bench.harness.execute.cluster.executor import RayExecutor
    from esft_bench.harness.execute.cluster.room import counts_of, machines_for
    from esft_bench.harness.execute.cluster.ways import Told, Ways

    alive, processes = nodes(), options.processes
    needed = [prepared.plan.backbone.path]
    seen = check_nodes(alive, prepared.store.root, needed, _libraries(prepared))
    most = max((node.gpus for node in alive), default=0)
    parallelism = Parallelism(1, 1, options.micro_batch or prepared.micro_batch, processes)
    sizes = [node.gpus if most else node.cores for node in alive]
    for wanted, why in ((processes, "--processes"), (_shares(prepared), "training.expert_parallel")):
        if wanted > 1 and not machines_for(wanted, sizes):
            raise UserError(_too_many(f"{why} {wanted}", sizes, "GPU(s)" if most else "core(s)"))
    cards = [card for each in seen.values() for card in each.cards]
    from esft_bench.harness.plan.price.needs import gpus_of_rows  # here: it brings torch along

    rows = gpus_of_rows(prepared.plan, graph, cards, counts_of(sizes), parallelism.micro_batch) if most else {}
    sharing = _sharing(prepared, graph, cards if most else [], max(sizes, default=0))
    methods = _by_method(prepared, rows)

    def gpus(step: Step) -> int:
        if isinstance(step, TrainStep) and (most or step.kind != "rehearsal"):
            least = 1 if step.method.trains else sharing  # what trains nothing is looked at all the same
            return step.how.expert_parallel or max(processes, least, methods.get(step.method_name, 1))
        if step.resources.holds == "engine" and step.resources.gpus:
            return sharing
        return step.resources.gpus

    def ray(judges: Panel, batches: bool) -> Executor:
        return RayExecutor(nodes, Told(prepared.folder, judges, batches), Ways(gpus=gpus))

    return parallelism, ray


def _too_many(what: str, sizes: Sequence[int], unit: str) -> str:
    """Why the nodes of a cluster cannot run so many processes together."""
    has = ", ".join(str(size) for size in sorted(sizes, reverse=True) if size)
    return (
        f"{what}: the cluster's nodes have {has or 0} {unit}, and so many are not got of them in equal parts: give "
        "another number, or add nodes."
    )


def _sharing(prepared: Prepared, graph: Graph, cards: Sequence[tuple[str, float]], most: int) -> int:
    """How many of these cards share a served model, where there is one left to serve; `most` is what one node has."""
    left = (step for step in graph.steps if step not in graph.finished)
    serves = any(step.resources.holds == "engine" for step in left)
    return gpus_to_serve(prepared.plan, cards, most) if serves else 1


def _starts_ahead(prepared: Prepared, graph: Graph) -> bool:
    """Whether our own server is started beside trainings: on a processor, where it takes one core, and is needed."""
    engine = prepared.plan.engine
    if _gpus() or engine.external or engine.evaluation.engine != "vllm":
        return False
    left = {step.resources.holds for step in graph.steps if step not in graph.finished}
    return {"process", "engine"} <= left and takes_one_core(model_config(prepared.plan.backbone.path))


def _libraries(prepared: Prepared) -> list[str]:
    """The libraries that steps compute with."""
    paths = {cell.method: prepared.plan.paths[cell] for cell in prepared.chosen}
    last = (step for path in paths.values() for step in (path.training, *path.answers.values()))
    return sorted({name for step in last for name in step.code.versions()})


def _by_method(prepared: Prepared, sizes: Mapping[str, int]) -> dict[str, int]:
    """Accelerators by the name of a training's method: those of the row that needs most."""
    found: dict[str, int] = {}
    for cell, path in prepared.plan.paths.items():
        for stage in path.training.whole:
            found[stage.method_name] = max(found.get(stage.method_name, 1), sizes.get(cell.method, 1))
    return found


def _cards() -> list[tuple[str, float]]:
    """Name and memory in bytes of each accelerator that this process sees."""
    import torch

    found = [torch.cuda.get_device_properties(number) for number in range(_gpus())]
    return [(each.name, float(each.total_memory)) for each in found]


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shares(prepared: Prepared) -> int:
    """The processes among which any training shares out the experts; 1 where none does."""
    trainings = [stage for path in prepared.plan.paths.values() for stage in path.training.whole]
    return max((stage.how.expert_parallel or 1 for stage in trainings), default=1)


def _on_this_machine(options: RunOptions, prepared: Prepared) -> Parallelism:
    """Cells trained side by side, each in so many processes.

    Unless told, one where there are accelerators; without them, one a core (a small model uses one core whatever it is
    given). Raises UserError for more processes than accelerators, or for cells side by side that would share them.
    """
    wanted, processes, gpus, shares = options.workers, options.processes, _gpus(), _shares(prepared)
    most, why = max((processes, f"--processes {processes}"), (shares, f"training.expert_parallel {shares}"))
    if gpus:
        if most > gpus:
            raise UserError(f"{why}: this machine has {gpus} GPU(s).")
        if most > 1 and (wanted or 1) > 1:
            raise UserError(f"{why} uses the GPUs for one cell at a time: leave out --workers.")
        workers = wanted or 1
    else:
        workers = wanted or max(1, _cores() // most)
    return Parallelism(workers, 1, options.micro_batch or prepared.micro_batch, processes)
