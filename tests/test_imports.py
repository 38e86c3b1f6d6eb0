"""Every module has its place in the order of imports that import-linter holds, or is a method or a task."""

import importlib
import pkgutil
import tomllib

import grimp
import pytest

import esft_bench.tasks
from esft_bench.methods.registry import load_methods
from tests.changed import PACKAGES, REPOSITORY

CONTRACTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
LAYERS = {each["containers"][0]: each for each in CONTRACTS if each["type"] == "layers"}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("esft_bench")


def methods() -> set[str]:
    """The modules that methods are in."""
    return {method.__module__.rpartition(".")[2] for method in load_methods().values()}


def tasks() -> set[str]:
    """The folders of tasks."""
    folders = {module.name for module in pkgutil.iter_modules(esft_bench.tasks.__path__) if module.ispkg}
    return {name for name in folders if hasattr(importlib.import_module(f"esft_bench.tasks.{name}"), "TASKS")}


def modules(graph: grimp.ImportGraph, package: str) -> set[str]:
    """The modules and folders at the top of a package."""
    return {name.removeprefix(f"{package}.") for name in graph.find_children(package)}


@pytest.mark.parametrize("package", ["esft_bench", *(f"esft_bench.{name}" for name in PACKAGES)])
def test_a_package_has_an_order_that_names_each_of_its_modules(graph, package):
    order = LAYERS[package]
    named = {name.strip("() ") for layer in order["layers"] for name in layer.split("|")}
    free = {"esft_bench.methods": methods, "esft_bench.tasks": tasks}.get(package, set)()
    missing = modules(graph, package) - named - free
    assert not missing, f"name {', '.join(sorted(missing))} among the layers of {package} in pyproject.toml"
    assert order.get("exhaustive", False) or free
