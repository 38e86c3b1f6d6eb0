"""Clusters of several nodes on one machine, nodes that are killed, and toys that die or hang the first time only."""

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import psutil
import ray
from ray.cluster_utils import Cluster

from esft_bench.harness.execute.cluster.connect import nodes
from esft_bench.harness.execute.cluster.executor import RayExecutor
from esft_bench.harness.execute.cluster.ways import Told, Ways
from esft_bench.harness.judge import make_judge
from esft_bench.harness.judge.panel import Panel
from esft_bench.harness.schedule import Schedule
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.step import Job, Parallelism, Resources, Step
from esft_bench.harness.store.artifacts import Artifact, Store
from esft_bench.spec.files import made_folder
from esft_bench.spec.judge import JudgeSettings
from esft_bench.spec.sections import Evaluation
from tests.harness.toys import Toy

MEMORY = 80_000_000
SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}


@dataclass(frozen=True, eq=False)
class Frail(Toy):
    """A toy that takes a moment; `told` begins with a number, and may name a file by which it knows its first time."""

    kind: ClassVar[str] = "frail"

    def _naps(self, job: Job) -> dict[str, Any]:
        time.sleep(0.05)
        return {"node": ray.get_runtime_context().get_node_id()}

    def _sees(self, job: Job) -> dict[str, Any]:
        """Says which devices it was given, and in how many processes it is to run."""
        lent: Any = getattr(job.borrowed, "engine", None)
        told = {"tensor_parallel": lent.tensor_parallel, "endpoint": lent.endpoint} if lent else {}
        devices, key = (os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "VLLM_API_KEY"))
        return told | {"devices": devices, "processes": job.parallelism.processes, "key": key, "pid": os.getpid()}

    def _meets(self, job: Job) -> dict[str, Any]:
        """Says on which nodes it is, in how many processes, and how the others reach it."""
        machines = job.parallelism.machines
        others = machines.begin([here] * (machines.count - 1))
        nodes = [here(), *(other.result() for other in others)]
        return {"nodes": nodes, "processes": job.parallelism.processes, "address": machines.address}

    def _dies_once(self, job: Job) -> None:
        if self._is_first(job):
            os.kill(os.getpid(), signal.SIGKILL)

    def _hangs_once(self, job: Job) -> dict[str, Any]:
        if self._is_first(job):
            time.sleep(600)
        return {"again": True}

    def _stops_once(self, job: Job) -> None:
        """The whole process stops, and does nothing that it is asked, as one does that hangs in a driver's code."""
        if self._is_first(job):
            job.progress(1, 2)  # which is waited for, so that it was heard of
            os.kill(os.getpid(), signal.SIGSTOP)

    def _goes_on(self, job: Job) -> dict[str, Any]:
        """Gets one step further each time, dying in between, as a training does from its checkpoints."""
        done = len(list(made_folder(job.scratch).iterdir()))
        job.progress(done + 1, 4)
        (job.scratch / str(done)).touch()
        if done < 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"tries": done + 1}

    def _is_first(self, job: Job) -> bool:
        (job.out / "half").touch()
        mark = made_folder(job.scratch) / "begun"
        try:
            with mark.open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            (job.out / "half").unlink()
            return False
        return True


@dataclass(frozen=True, eq=False)
class Afar(Frail):
    """A toy that asks servers of others."""

    kind: ClassVar[str] = "afar"

    @property
    def resources(self) -> Resources:
        engine = EngineSettings("vllm 0.32.0", "float32", 128, Evaluation(endpoints=("http://one", "http://two")))
        return Resources("engine", engine, self.model, gpus=engine.gpus)


def here() -> str:
    """The node that this is called on, which it prints, too."""
    node: str = ray.get_runtime_context().get_node_id()
    print(f"on {node}")
    return node


def lend(engine: EngineSettings, logs: Path) -> SimpleNamespace:
    """An engine that is none."""
    return SimpleNamespace(has_served=True, close=lambda: None, engine=engine)


def cluster(count: int, client_port: int | None = None, **resources: Any) -> Cluster:
    """A head without cores and so many nodes of one core, to which this process belongs then."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False, "_system_config": SOON}
    head["ray_client_server_port"] = client_port
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(count):
        add_node(made, **resources)
    return made


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def add_node(made: Cluster, **resources: Any) -> Any:
    return made.add_node(**{"num_cpus": 1, "object_store_memory": MEMORY} | resources)


def kill(node: Any) -> None:
    """SIGKILL a node: its raylet, and all that this started."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for each in (raylet, *raylet.children(recursive=True)):
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue


E = TypeVar("E", bound=RayExecutor)


def executor(folder: Path, kind: type[E] = RayExecutor, seen: Any = nodes, **ways: Any) -> E:  # type: ignore[assignment]
    """An executor of the cluster, or of nodes that are `seen`."""
    folder.mkdir(exist_ok=True)
    told = Told(folder, Panel([make_judge(JudgeSettings())]), batches=False)
    return kind(seen, told, Ways(**{"lend": lend} | ways))


class Watcher:
    """Notes what started and what is finished; `at` is called at each end."""

    def __init__(self, at: Any = None) -> None:
        self.begun: list[Step] = []
        self.ended: dict[Step, Artifact] = {}
        self._at = at

    def started(self, step: Step) -> None:
        self.begun.append(step)

    def progressed(self, step: Step, done: int, total: int) -> None: ...

    def finished(self, step: Step, artifact: Artifact) -> None:
        self.ended[step] = artifact
        if self._at:
            self._at(len(self.ended))

    def failed(self, step: Step, why: str) -> None: ...

    def noted(self, text: str) -> None: ...


def walk(folder: Path, wanted: Sequence[Step], at: Any = None, **ways: Any) -> tuple[Watcher, dict[Step, str]]:
    """Walk a graph on the cluster; returns what was seen, and what failed."""
    watcher = Watcher(at)
    graph = Graph(wanted, Store(folder / "store"))
    failed = Schedule(graph, executor(folder, **ways), watcher, Parallelism(), wanted).run()
    return watcher, failed


def naps(count: int, models: int = 4) -> list[Step]:
    """Trainings, each with some tests that ask an engine for it."""
    made: list[Step] = []
    for number in range(models):
        training = Frail("naps", told=f"training {number}")
        made += [Frail("naps", (training,), f"{number} {n}", "engine", str(number)) for n in range(count // models)]
    return made


if __name__ == "__main__":  # a driver to be killed: python -m tests.harness.nodes ADDRESS FOLDER COUNT
    ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
    walk(Path(sys.argv[2]), naps(int(sys.argv[3])))
