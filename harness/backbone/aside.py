"""Calls in a child that is forked from a process which has imported already what they need."""

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, get_context
from typing import Any, TypeVar

from esft_bench.spec.errors import UserError

T = TypeVar("T")

_contexts: list[Any] = []


def warm_up(modules: Sequence[str]) -> None:
    """Let the process that children are forked from begin to import modules, beside what is done here meanwhile."""
    context = get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    forkserver.ensure_running()
    _contexts.append(context)


def aside(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module that itself is light in such a child; here where nothing was warmed up.

    Arguments and result are pickled; what the function raises is raised here, and UserError where the child dies.
    """
    if not _contexts:
        return function(*arguments)
    try:
        with ProcessPoolExecutor(1, _contexts[-1], signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool as error:
        raise UserError("A process that was to look at the backbone has died: see what took its memory.") from error
