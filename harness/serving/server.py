"""One `vllm serve` process on the loopback interface: its settings, start, requests and end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import torch

from esft_bench.harness.serving import shared_memory
from esft_bench.harness.serving.client import MODEL, Client
from esft_bench.harness.serving.needs import model_config, needs, served_length, takes_one_core
from esft_bench.harness.serving.temporary import Temporary
from esft_bench.spec.errors import UserError

HOST = "127.0.0.1"
"""vLLM's development endpoints let a caller run worker methods: they are never offered beyond this machine."""

LAUNCHER = "esft_bench.harness.serving.launch"

PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|LD_PRELOAD|PYTHON\w+|VIRTUAL_ENV|CONDA_PREFIX|CC|CXX|"
    r"(XDG|HF|HF_HUB|TRANSFORMERS|TRITON|TORCHINDUCTOR)_(CACHE|CACHE_HOME|CACHE_DIR|HOME|MODULES_CACHE)|"
    r"(CUDA|NVIDIA|NCCL|HIP|ROCR|ROCM|HSA|OMP|KMP|MKL|OPENBLAS|GLOO|TORCH|PYTORCH|VLLM)_\w+"
)
"""The variables of ours that the server gets: where things are, and how the machine computes. A key has many names."""
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
"""Not even if it stands among those."""

ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""Computes in the engine's own process. The CPU build's worker in a second one spins while it waits, and so does the
engine while it computes: half of a test's processor time went there."""


@dataclass(frozen=True)
class Settings:
    """How to serve. None of it may change a result beyond rounding, so none of it is part of a step's key.

    Attributes:
        dtype: `float32` where results are compared with transformers; `bfloat16` for models that need it.
        max_length: longest prompt plus answer, in tokens; cut to what the model allows.
        max_sequences: how many requests are in the works at once.
        port: where to listen; None takes a free one.
        start_seconds: how long a start may take.
        cpu_cache_gib: memory for the key-value cache on a machine without a GPU.
        trust_remote_code: let code that comes with the checkpoint run.
        cpu_threads: threads to compute with on such a machine; None takes one for a small model, which more only slow
            down, and all cores for others.
        tensor_parallel: accelerators that share the model, each with a slice of every layer.
    """

    dtype: str = "float32"
    max_length: int = 2048
    max_sequences: int = 128
    port: int | None = None
    start_seconds: float = 600.0
    cpu_cache_gib: int = 1
    cpu_threads: int | None = None
    trust_remote_code: bool = False
    tensor_parallel: int = 1


def arguments(checkpoint: Path, port: int, settings: Settings, on_cpu: bool) -> list[str]:
    """The command line of `vllm serve` for this checkpoint and machine."""
    config = model_config(checkpoint)
    options = {
        "--served-model-name": MODEL,
        "--host": HOST,
        "--port": str(port),
        "--dtype": settings.dtype,
        "--max-model-len": str(served_length(config, settings.max_length)),
        "--max-num-seqs": str(settings.max_sequences),
        "--generation-config": "vllm",
        "--worker-extension-cls": "esft_bench.harness.serving.swap.WeightSwap",
    }
    needed = needs(config)
    options |= needed.options
    flags = ["--disable-uvicorn-access-log", "--disable-log-stats"]
    if settings.trust_remote_code:
        flags.append("--trust-remote-code")
    if settings.tensor_parallel > 1:
        # Its own processes, also within a node of a Ray cluster, where vLLM would ask Ray for accelerators of its own.
        options |= {"--tensor-parallel-size": str(settings.tensor_parallel), "--distributed-executor-backend": "mp"}
    if on_cpu:
        flags.append("--enforce-eager")
        options.setdefault("--distributed-executor-backend", ONE_PROCESS)
        options |= needed.on_cpu
    return ["serve", str(checkpoint), *(part for option in options.items() for part in option), *flags]


def environment(checkpoint: Path, settings: Settings, on_cpu: bool) -> dict[str, str]:
    """The server's environment: what `PASSED_ON` names of ours, offline, quiet, with what machine and model need."""
    env = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name) and not SECRET.search(name)}
    env |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    config = model_config(checkpoint)
    env |= needs(config).environment
    if on_cpu:
        env |= _cpu_environment(config, settings)
    return env


def _cpu_environment(config: dict[str, Any], settings: Settings) -> dict[str, str]:
    threads = settings.cpu_threads or (1 if takes_one_core(config) else os.cpu_count() or 1)
    env = {
        "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_cache_gib),
        # vLLM would pin its threads to cores; beside any other busy process that is several times slower.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        # Some of vLLM's helpers are compiled at their first call, for longer than they would ever take as they are.
        "TORCH_COMPILE_DISABLE": "1",
        "TORCHDYNAMO_DISABLE": "1",
    }
    # With Intel's OpenMP the engine's idle threads do not spin. It comes as a package that vLLM's CPU build requires.
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    return env | ({"LD_PRELOAD": str(openmp)} if openmp.exists() else {})


def choose_port(wanted: int | None) -> int:
    """`wanted`, or any free port. Raises UserError if something listens at `wanted`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted or 0))
        except OSError as error:
            raise UserError(f"port {wanted} is in use; free it, choose another or let one be chosen") from error
        return int(probe.getsockname()[1])


def first_error(log: Path) -> str:
    """The first line of a log that names an error, without the logger's decoration; else its last line.

    Those after it only say that something went wrong before.
    """
    lines = [_undecorated(line) for line in log.read_text(errors="replace").splitlines() if line.strip()]
    named = [number for number, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception)\b: ", line)]
    if not named:
        return lines[-1] if lines else "it wrote nothing"
    line = lines[named[0]]
    if "validation error" in line:  # pydantic says what is wrong in the line after
        line = " ".join([line, *lines[named[0] + 1 : named[0] + 2]])
    return line


def _undecorated(line: str) -> str:
    line = re.sub(r"\x1b\[[0-9;]*m", "", line).strip()
    return re.sub(r"^(\(.*?pid=\d+\) )?(ERROR [\d:. -]+ \[.*?\] )?", "", line).strip()


class VllmServer(Client):
    """A running server. Construct it to start it; it ends with `close`, or with this process."""

    def __init__(self, checkpoint: Path, log: Path, settings: Settings, port: int) -> None:
        """Start `vllm serve` on `checkpoint` and wait until it answers.

        Raises UserError if it ends before that (with the first error of its log) or takes too long.
        """
        on_cpu = not torch.cuda.is_available()
        self.port = port
        self.log = log
        super().__init__(f"http://{HOST}:{port}", settings.start_seconds)
        self._memory: set[Path] = set()
        command = [sys.executable, "-m", LAUNCHER, *arguments(checkpoint, port, settings, on_cpu)]
        found = environment(checkpoint, settings, on_cpu)
        log.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = Temporary()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=found | self._temporary.environment(),
                pass_fds=[self._temporary.handle],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait(settings.start_seconds)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._memory |= shared_memory.of_group(self._process.pid)  # it may end before it answers
            if not self.alive:
                why = first_error(self.log).rstrip(".")
                raise UserError(
                    f"the vLLM server ended while starting: {why} (log: {self.log}); or take --engine transformers"
                )
            try:
                if self._client.get("/health", timeout=5).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise UserError(f"the vLLM server did not answer within {seconds:.0f} seconds (log: {self.log})")

    def _failed(self, path: str, error: httpx.HTTPError) -> str:
        return f"the vLLM server failed at {path}: {first_error(self.log)} (log: {self.log})"

    def close(self) -> None:
        """End the server and all its children, and remove what they leave behind. Closing twice is fine."""
        self._memory |= shared_memory.of_group(self._process.pid)
        for end in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, end)
                self._process.wait(timeout=5)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        shared_memory.remove(self._memory)
        self._temporary.close()
        stdin: IO[bytes] | None = self._process.stdin
        if stdin:
            stdin.close()
        super().close()

    def __enter__(self) -> "VllmServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def log_names(folder: Path) -> Iterator[Path]:
    """Fresh log files for one server after another: vllm-1.log, vllm-2.log, …"""
    number = 1
    while True:
        path = folder / f"vllm-{number}.log"
        if not path.exists():
            yield path
        number += 1
