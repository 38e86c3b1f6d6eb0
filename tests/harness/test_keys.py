"""What keys cover: the source a step runs, wherever it lies, the versions of what computes, and nothing beside them."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.harness.plan.benchmarks import benchmark_of
from esft_bench.harness.plan.checks import make_method
from esft_bench.harness.store import keys
from esft_bench.harness.store.keys import Code, key_of, modules_of, sources
from esft_bench.tasks.registry import load_tasks

PLUGIN = """\
from esft_bench.methods.fft import FullFineTuning
from other_pkg.parts import RATE

class Mine(FullFineTuning):
    def prepare(self, model, context):
        return super().prepare(model, context)
"""


@pytest.fixture(autouse=True)
def _read_anew():
    """Sources are read once in a process; these tests change them."""
    for cached in (keys.sources, keys._of_sources, keys._read, keys._file, keys.version):
        cached.cache_clear()


@given(st.dictionaries(st.text(max_size=5), st.integers()), st.sampled_from(["kind", "settings", "inputs"]))
def test_a_key_changes_with_each_of_its_parts_and_with_nothing_else(settings, part):
    base = {"kind": "train", "settings": settings, "inputs": {"backbone": "1"}, "code": Code(())}
    changed = {**base, part: {**base[part], "new": "2"} if isinstance(base[part], dict) else "other"}
    assert key_of(**base) == key_of(**{**base, "settings": dict(reversed(settings.items()))})
    assert key_of(**base) != key_of(**changed)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Another package with a method of its own: its folder, and the modules that its class depends on."""
    folder = tmp_path / "other_pkg"
    folder.mkdir()
    for name, text in (("__init__", ""), ("parts", "RATE = 1\n"), ("beside", ""), ("method", PLUGIN)):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("other_pkg")]:
        del sys.modules[name]


def covered(*modules):
    for cached in (keys.sources, keys._read, keys._file):
        cached.cache_clear()
    return sources(modules)


@pytest.mark.parametrize(
    ("file", "changes"), [("method.py", True), ("parts.py", True), ("__init__.py", True), ("beside.py", False)]
)
def test_a_changed_plug_in_changes_its_key_and_a_file_beside_it_does_not(plugin, file, changes):
    before = covered("other_pkg.method")
    (plugin / file).write_text((plugin / file).read_text() + "# changed\n")
    assert (covered("other_pkg.method") != before) == changes


def test_a_plug_ins_class_brings_what_it_builds_on_along(plugin):
    from other_pkg.method import Mine  # type: ignore[import-not-found]

    covers = covered(*modules_of(Mine()))
    assert {"other_pkg.method", "other_pkg.parts", "esft_bench.methods.fft", "esft_bench.methods.method"} <= set(covers)


def test_full_fine_tuning_does_not_depend_on_other_methods_files():
    covers = sources(modules_of(make_method("fft", {}, "fft")))
    assert not {"esft_bench.methods.lora", "esft_bench.methods.das", "esft_bench.methods.registry"} & set(covers)


def test_an_ablation_depends_on_the_method_it_is_of():
    method = make_method("random-experts", {"of": {"method": "esft-gate"}}, "random")
    assert {"esft_bench.methods.random_experts", "esft_bench.methods.esft"} <= set(modules_of(method))


@pytest.mark.parametrize("library", ["torch", "transformers", "peft"])
def test_another_version_of_a_library_that_computes_changes_the_key_of_a_training(monkeypatch, library):
    code = Code((), ("torch", "transformers", "peft"))
    before = key_of("train", {}, {}, code)
    known = keys.version
    monkeypatch.setattr(keys, "version", lambda name: "0.0" if name == library else known(name))
    assert key_of("train", {}, {}, code) != before


@pytest.mark.parametrize("name", ["mini-code", "humaneval", "mbpp"])
def test_answers_to_a_task_that_runs_code_depend_on_the_sandboxs_own_files(name):
    covers = sources(benchmark_of(load_tasks()[name]).modules)
    assert {"esft_bench.tasks.sandbox", "esft_bench.tasks.sandbox_child"} <= set(covers)


def test_answers_depend_on_the_metric_that_lies_beside_their_configuration():
    assert "esft_bench.tasks.mini.code.metric" in benchmark_of(load_tasks()["mini-code"]).modules


def test_what_only_type_checkers_read_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "typed_pkg.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import esft_bench.methods.lora\n"
        "def late():\n    from esft_bench.spec import errors\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert set(covered("typed_pkg")) == {"typed_pkg", "esft_bench", "esft_bench.spec", "esft_bench.spec.errors"}
