"""How the process that runs programs is started, at each level of isolation."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

Isolation = Literal["bubblewrap", "namespaces", "limits only"]
LEVELS: tuple[Isolation, ...] = ("bubblewrap", "namespaces", "limits only")


def command(level: Isolation) -> list[str]:
    """The command line that starts the child's text in a sandbox of this level."""
    python = getattr(sys, "_base_executable", None) or sys.executable
    child = [python, "-I", "-S", "-c", _text()]
    if level == "bubblewrap":
        return [*_bubblewrap(), *child]
    if level == "namespaces":
        user = [] if _privileged() else ["--user", "--map-root-user"]
        unshare = [shutil.which("unshare") or "unshare", *user, "--net", "--ipc", "--uts", "--mount"]
        return [*unshare, "--pid", "--fork", "--kill-child", "--", *child]
    return child


@functools.cache
def _text() -> str:
    """The child's text, with the module that it imports."""
    kernel, child = (
        Path(__file__).with_name(f"sandbox_{name}.py").read_text(encoding="utf-8") for name in ("kernel", "child")
    )
    name = "esft_bench.tasks.sandbox_kernel"
    module = f"import sys, types\nmodule = sys.modules[{name!r}] = types.ModuleType({name!r})\n"
    return f"{module}exec({kernel!r}, module.__dict__)\ndel module\n{child}"


@functools.cache
def _privileged() -> bool:
    """Whether this is root with a right to mount: then the sandbox needs no user namespace, and programs get a user."""
    probe = [shutil.which("unshare") or "unshare", "--mount", "true"]
    with contextlib.suppress(OSError):
        return os.geteuid() == 0 and subprocess.run(probe, capture_output=True).returncode == 0
    return False


def _bubblewrap() -> list[str]:
    """Bubblewrap's options: all namespaces, a read-only root, home and temporary folders and /proc empty."""
    options = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--cap-drop", "ALL"]
    if _privileged():
        options += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        options += [part for right in ("SETUID", "SETGID", "KILL") for part in ("--cap-add", f"CAP_{right}")]
    else:
        options.append("--unshare-all")
    options += ["--chdir", "/", "--ro-bind", "/", "/", "--dev", "/dev"]
    empty = hidden()
    options += [part for path in empty for part in ("--tmpfs", str(path))]
    for prefix in kept():
        inside = [path for path in reversed(Path(prefix).parents) if set(empty) & set(path.parents)]
        options += [part for path in inside for part in ("--dir", str(path))]  # bound alone, root only may enter them
        options += ["--ro-bind", prefix, prefix]
    options += [part for path in [*empty, "/dev"] for part in ("--remount-ro", str(path))]
    return [*options, "--"]


def hidden() -> list[Path]:
    """Folders that a program sees empty: they hold keys, sockets, processes and the work of others."""
    usual = [Path("/tmp"), Path("/var/tmp"), Path("/run"), Path("/proc")]  # noqa: S108
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - a user may have none, which Path.home does not bear
    candidates = {Path(tempfile.gettempdir()), home, *usual}
    folders = {path.resolve() for path in candidates if path.is_dir()} - {Path("/")}
    return sorted(path for path in folders if not folders & set(path.parents))


def kept() -> list[str]:
    """Python's own folders, which are seen wherever they are."""
    return sorted({sys.base_prefix, sys.base_exec_prefix})
