"""The commit in a manifest is that of this code, and never that of a repository it happens to lie in."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from esft_bench.spec import version

ASK = "import json; from esft_bench.spec.version import git_state; print(json.dumps(git_state()))"


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    command = ["git", *author, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all there is")
    return git(folder, "rev-parse", "HEAD")


def install(package: Path) -> None:
    """What is needed of the package, as files."""
    (package / "spec").mkdir(parents=True)
    (package / "__init__.py").touch()
    for source in Path(version.__file__).parent.glob("*.py"):
        shutil.copy(source, package / "spec")


def asked(path: Path, **environment: str) -> dict[str, object]:
    """What the package that lies in a folder of the import path says."""
    env = os.environ | {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    ended = subprocess.run([sys.executable, "-c", ASK], cwd=path, env=env, capture_output=True, text=True, check=True)
    return dict(json.loads(ended.stdout))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository as ours is: folders at the top, and links to them in src/."""
    root = tmp_path / "checkout"
    install(root / "src" / "esft_bench")
    (root / "src" / "esft_bench" / "spec").rename(root / "spec")
    (root / "tasks").mkdir()
    (root / "tasks" / "task.yaml").write_text("a: 1")
    for folder in ("spec", "tasks"):
        (root / "src" / "esft_bench" / folder).symlink_to(f"../../{folder}")
    (root / ".gitignore").write_text("__pycache__/\nruns/\n")
    return root


def test_a_checkout_says_its_commit_and_that_nothing_was_changed(checkout):
    made = commit(checkout)
    assert asked(checkout / "src") == {"commit": made, "changed": False}


@pytest.mark.parametrize("file", ["spec/files.py", "tasks/task.yaml", "src/esft_bench/__init__.py", ".gitignore"])
def test_a_change_of_any_committed_file_is_a_change(checkout, file):
    made = commit(checkout)
    (checkout / file).write_text("# changed")
    assert asked(checkout / "src") == {"commit": made, "changed": True}


def test_a_change_that_is_staged_or_a_file_that_is_gone_is_a_change(checkout):
    commit(checkout)
    git(checkout, "rm", "--quiet", "tasks/task.yaml")
    assert asked(checkout / "src")["changed"] is True


@pytest.mark.parametrize("file", ["tasks/new/task.py", "spec/new.py", "src/esft_bench/new.py"])
def test_a_new_source_file_is_a_change(checkout, file):
    commit(checkout)
    git(checkout, "config", "status.showUntrackedFiles", "no")
    (checkout / file).parent.mkdir(exist_ok=True)
    (checkout / file).touch()
    assert asked(checkout / "src")["changed"] is True


@pytest.mark.parametrize("file", ["my-suite.yaml", "runs/mini/report.md", "spec/__pycache__/x.pyc"])
def test_a_new_file_that_is_no_source_is_no_change(checkout, file):
    commit(checkout)
    (checkout / file).parent.mkdir(parents=True, exist_ok=True)
    (checkout / file).touch()
    assert asked(checkout / "src")["changed"] is False


@pytest.mark.parametrize("site", [".venv/lib/python3.11/site-packages", "src", "."])
def test_an_installation_inside_a_users_repository_says_nothing_of_it(tmp_path, site):
    install(tmp_path / site / "esft_bench")
    commit(tmp_path)
    assert asked(tmp_path / site) == {}


def test_a_checkout_inside_a_users_repository_says_its_own_state(checkout):
    (checkout.parent / "theirs.py").touch()
    git(checkout.parent, "init", "--quiet")
    made = commit(checkout)
    (checkout.parent / "more.py").touch()
    assert asked(checkout / "src") == {"commit": made, "changed": False}


def test_a_folder_without_a_commit_and_a_machine_without_git_say_nothing(checkout, tmp_path):
    assert asked(checkout / "src") == {}
    git(checkout, "init", "--quiet")
    assert asked(checkout / "src") == {}
    commit(checkout)
    assert asked(checkout / "src", PATH=str(tmp_path)) == {}


def test_another_repository_that_the_environment_names_is_not_asked(checkout, tmp_path):
    made = commit(checkout)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    commit(other)
    named = {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)}
    assert asked(checkout / "src", **named) == {"commit": made, "changed": False}
