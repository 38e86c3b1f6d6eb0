"""Starts `vllm serve` so that it ends with the process that started it: python -m …serving.launch serve …

The starter holds the other end of this process's standard input. When the starter ends, however it ends, the pipe
closes and the whole process group, vLLM's own children included, is killed; its shared memory and temporary folder are
removed.
"""

import gc
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

from esft_bench.harness.serving import shared_memory
from esft_bench.harness.serving.temporary import FOLDER
from esft_bench.spec.files import remove


def _guarded() -> None:
    """Go on in a child; this process, which does nothing else and so cannot hang, ends with it or with the starter.

    The starter may end while the server hangs in a driver's code, or is stopped: then it could not end itself.
    """
    if not (server := os.fork()):
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # that is for the server
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def _end_with_the_starter() -> None:
    while os.read(0, 1):
        pass
    shared_memory.remove(shared_memory.of_group(os.getpgrp()))
    if temporary := os.environ.get(FOLDER):
        remove(Path(temporary))
    os.killpg(0, signal.SIGKILL)


def _import_once() -> None:
    """On a CPU let vLLM fork its engine, and look at models that are new to it here.

    A process that it spawns for either imports torch and vLLM again, half of the start-up time.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from vllm.model_executor.models import registry
        from vllm.utils import system_utils

        system_utils.get_mp_context = lambda: multiprocessing.get_context("fork")
        registry._run_in_subprocess = lambda look: look()


def _import_all() -> None:
    """Import what vLLM will. Nothing of it is garbage: looking through it for some takes a fifth of the time."""
    gc.disable()
    _import_once()  # before others have taken over what it replaces
    importlib.import_module("vllm.entrypoints.cli.serve")
    importlib.import_module("vllm.v1.engine.core")
    gc.freeze()
    gc.enable()


def main() -> None:
    """Run vLLM's command line with this process's arguments."""
    _guarded()
    _import_all()
    from vllm.entrypoints.cli.main import main as vllm_main

    sys.argv[0] = "vllm"
    vllm_main()


if __name__ == "__main__":
    main()
