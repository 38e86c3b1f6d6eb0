"""The examples of CONTRIBUTING.md as they stand: put into a copy of the tree, and into a package of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import build

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PARTS = ("harness", "methods", "reports", "spec", "tasks", "src")
SAMPLES = [{"text": f"It was {word}.", "stars": stars} for stars, word in enumerate(("bad", "so so", "good"))]

DRIVE = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM
from esft_bench.methods.method import Context
from esft_bench.methods.registry import load_methods
from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.source import Source

folder = Path(sys.argv[1])
method = load_methods()["routers-only"]()
task, source = load_tasks()["reviews"], Source(data_dir=folder / "data")
assert [turns[1]["content"] for turns in task.training(source)] == ["0", "1", "2"]
assert [item["answer"] for item in task.items(source)] == ["0", "1", "2"]
assert task.lm_eval.is_file()

model = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
method.check_model(model)
ids = torch.arange(3, 51).view(4, 12)
before = model(input_ids=ids).logits
parameters = method.prepare(model, Context(seed=0))
optimizer = torch.optim.AdamW(parameters, lr=1e-1)
model(input_ids=ids, labels=ids).loss.backward()
optimizer.step()
after = model(input_ids=ids).logits
assert (after - before).abs().max() > 1e-3
adapter, out = folder / "adapter", folder / "out"
adapter.mkdir()
out.mkdir()
method.export(model, adapter)
method.merge(folder / "base", adapter, out)
merged = AutoModelForCausalLM.from_pretrained(out).eval()
torch.testing.assert_close(merged(input_ids=ids).logits, after, atol=1e-5, rtol=1e-5)
"""


def example(language: str, marks: str) -> str:
    """The one example of the page in a language that has these words."""
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if marks in text]
    return str(found)


def copy_with_examples(folder: Path) -> Path:
    """A copy of the tree with the method's file and the task's folder in their places; returns what to import from."""
    tree = folder / "tree"
    for part in PARTS:
        shutil.copytree(ROOT / part, tree / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "methods" / "routers_only.py").write_text(example("python", "RoutersOnly"))
    write_task(tree / "tasks" / "my_task")
    return tree / "src"


def package_with_examples(folder: Path) -> Path:
    """A package of another's that has both and names them in its entry points, beside ours as it is."""
    package = folder / "site" / "my_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "routers_only.py").write_text(example("python", "RoutersOnly"))
    write_task(package / "my_task")
    info = folder / "site" / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    points = example("toml", "esft_bench.methods") + example("toml", "esft_bench.tasks")
    points = points.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")
    (info / "entry_points.txt").write_text(points)
    return folder / "site"


def write_task(folder: Path) -> None:
    folder.mkdir()
    (folder / "__init__.py").write_text(example("python", "REVIEWS"))
    (folder / "reviews.yaml").write_text(example("yaml", "task: reviews"))


def write_data(folder: Path, rows: list[dict[str, object]]) -> None:
    data = folder / "data" / "reviews"
    data.mkdir(parents=True)
    for split in ("train", "test"):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def python(folder: Path, path: list[Path], *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("place", [copy_with_examples, package_with_examples], ids=["in the tree", "as a package"])
def test_the_examples_are_found_trained_exported_and_merged(tmp_path: Path, place) -> None:
    write_data(tmp_path, SAMPLES)
    build("qwen3-moe").save_pretrained(tmp_path / "base")
    done = python(tmp_path, [place(tmp_path), ROOT / "src"], "-c", DRIVE, str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_the_tests_of_every_method_take_the_new_one(tmp_path: Path) -> None:
    """In a copy of the tree, tests and documents as they are."""
    source = copy_with_examples(tmp_path)
    tree = source.parent
    for part in ("tests", "docs"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__", "mini"))
    tests = ["tests/methods/test_every_method.py", "tests/methods/test_registry.py", "tests/tasks/test_registry.py"]
    wanted = "routers-only or fits_an_architecture or registry"
    done = python(
        tree, [source, tree], "-m", "pytest", "-c", "/dev/null", f"--rootdir={tree}", "--import-mode=importlib",
        "-q", "-k", wanted, *tests,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 40


@pytest.mark.slow
def test_the_examples_come_to_a_report_with_the_table_of_the_suite(tmp_path: Path) -> None:
    write_data(tmp_path, SAMPLES * 8)
    (tmp_path / "my-suite.yaml").write_text(example("yaml", "name: my-suite"))
    run = ["run", "my-suite.yaml", "--data-dir", "data", "--engine", "transformers", "--limit", "4", "--steps", "2"]
    done = python(tmp_path, [copy_with_examples(tmp_path)], "-m", "esft_bench.harness.cli", *run)
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = (tmp_path / "runs").glob("*/report.md")
    _, _, table = report.read_text("utf-8").partition("Table 4: Routers against experts")
    assert re.search(r"Routers .*\n.*ESFT-Gate", table)
