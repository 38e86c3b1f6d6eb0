"""Which code this is: the commit of the checkout it is imported from, and whether it differs from that commit."""

import os
import subprocess
from pathlib import Path
from typing import Any


def git_state() -> dict[str, Any]:
    """`commit` of the checkout this code is imported from, and whether its files were `changed` since.

    A change is one of any tracked file, or a new file that git does not ignore in a package's folder. Empty where there
    is no such checkout: in a wheel's installation, though it lie inside a repository of the user's, and without git.
    """
    # In a checkout src/esft_bench links to this file's folder, so this is its root; in a wheel it is the package.
    root = Path(__file__).resolve().parents[1]
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")) != root:
            return {}
        commit = _git(root, "rev-parse", "--verify", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        new = _git(root, "ls-files", "--others", "--exclude-standard", "--", "src", *_packages(root))
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": commit, "changed": bool(changed or new)}


def _packages(root: Path) -> list[str]:
    """The folders that are packages: those that links in src/esft_bench lead to."""
    return sorted(str(link.resolve().relative_to(root)) for link in root.glob("src/*/*") if link.is_symlink())


def _git(root: Path, *arguments: str) -> str:
    """What git prints about the repository that holds `root`, whatever repository the environment may name."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout.strip()
