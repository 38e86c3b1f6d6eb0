"""The wheel: what it holds, and that it runs in an empty environment, from a folder full of namesakes."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PARTS = ("harness", "methods", "reports", "spec", "tasks")
NAMESAKES = (*PARTS, "tests", "esft_bench", "datasets", "vllm", "yaml", "json")

pytestmark = pytest.mark.slow


def call(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    """Run a program away from this checkout, and return what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_", "PYTEST"))}
    ended = subprocess.run(arguments, cwd=cwd, env=env | environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def sources() -> list[str]:
    """The files of this checkout, new ones included, as they would be committed."""
    listed = call("git", "ls-files", "-co", "--exclude-standard", cwd=REPOSITORY).splitlines()
    return [name for name in listed if (REPOSITORY / name).exists() or (REPOSITORY / name).is_symlink()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is made of the source distribution that is made of this checkout; nothing is downloaded."""
    tree = tmp_path_factory.mktemp("tree")
    for name in sources():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, tree / name, follow_symlinks=False)
    build = "import setuptools.build_meta as backend; backend.build_sdist('dist')"
    call(sys.executable, "-c", build, cwd=tree)
    (archive,) = (tree / "dist").glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tree)
    call(*pip, archive, cwd=tree)
    (made,) = tree.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel in it; the packages it needs are borrowed from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", folder, "install", "--no-deps", "--no-index", wheel)
    call(*pip, cwd=folder)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


@pytest.fixture
def namesakes(tmp_path: Path) -> Path:
    """A working folder with modules of the names that we and our libraries import; each raises."""
    for name in NAMESAKES:
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('the {name}.py of the working folder was imported')")
    return tmp_path


def test_the_wheel_holds_every_file_of_our_packages_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {f"esft_bench/{name}" for name in sources() if name.partition("/")[0] in PARTS}
    links = {f"src/esft_bench/{part}" for part in PARTS}
    ours |= {name.removeprefix("src/") for name in sources() if name.startswith("src/") and name not in links}
    assert held == ours
    assert "esft_bench/py.typed" in held


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["methods"], "esft-token"),
        (["tasks"], "mini-law"),
        (["suites"], "intent-bdci"),
        (["plan", "mini", "--no-price"], "37 cells"),
    ],
)
def test_an_installed_wheel_runs_beside_modules_named_like_ours(environment, namesakes, arguments, shown):
    assert shown in call(environment / "esft-bench", *arguments, cwd=namesakes)


CHILDREN = """
import multiprocessing, sys
from pathlib import Path
from esft_bench.harness import cli
from esft_bench.harness.serving.server import Settings, VllmServer

def start_children():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["esft_bench.harness.workers", "datasets"])
    with context.Pool(1) as pool:
        print(pool.apply(eval, ["__import__('sys').path"]))
    log = Path("vllm.log")
    try:
        VllmServer(Path(sys.argv[1]), log, Settings(), 1)
    except cli.UserError:
        print(log.read_text())

if __name__ == "__main__":
    cli.app = start_children
    cli.main()
"""
VLLM = """
import sys
print(sys.path)
sys.exit("the server's child has shown its path")
"""


def test_children_do_not_have_the_working_folder_on_their_path(environment, namesakes, tmp_path_factory):
    fake = tmp_path_factory.mktemp("fake")
    (fake / "vllm").mkdir()
    (fake / "vllm" / "__init__.py").write_text(VLLM)
    checkpoint = REPOSITORY / "tasks" / "mini" / "backbone"
    script = fake / "start.py"
    script.write_text(CHILDREN)
    printed = call(environment / "python", script, checkpoint, cwd=namesakes, PYTHONPATH=str(fake))
    paths = [ast.literal_eval(line) for line in printed.splitlines() if line.startswith("[")]
    assert len(paths) == 2, printed
    assert all(str(fake) in path for path in paths)  # what the user puts on it stays
    assert not {"", ".", str(namesakes)} & {folder for path in paths for folder in path}
