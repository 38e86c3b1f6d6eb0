"""Methods are found by name, those of other packages through their entry points."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from esft_bench.methods.base_model import UntrainedBase
from esft_bench.methods.catalogue import page
from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import Esft, EsftGate, EsftToken
from esft_bench.methods.method import Method
from esft_bench.methods.registry import load_methods


def install(folder: Path, name: str, code: str, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package with an entry point `entry` on the path, as pip would."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[esft_bench.methods]\n{entry}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


SHIPPED = {
    "base",
    "adapter",
    "fft",
    "lora",
    "esft-gate",
    "esft-token",
    "esft-lora",
    "esft-router",
    "esft-union",
    "esft-dynamic",
    "esft-gradual",
    "random-experts",
    "unrelated-experts",
    "top-k-experts",
    "all-experts",
    "attention-router",
    "das-tune",
    "das-lora",
    "densemixer",
    "densemixer-lora",
    "frozen-router",
}
"""Names that suites use: none may be lost."""


def test_every_method_that_ships_is_found_under_the_name_that_suites_use() -> None:
    assert set(load_methods()) >= SHIPPED


def test_methods_are_found_and_made_without_the_libraries_that_train() -> None:
    """Commands that list or plan would wait seconds for them."""
    code = (
        "import sys; from esft_bench.methods.registry import load_methods; found = load_methods(); "
        "found['random-experts'](of={'method': 'esft-gate', 'selection': {1: [0]}}); "
        "found['esft-token'](scores={1: [0.5]}); found['das-lora'](); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "peft", "numpy"} & set(loaded)


def test_a_class_without_a_name_of_its_own_is_a_base_of_others() -> None:
    found = set(load_methods().values())
    assert Esft not in found
    assert {EsftGate, EsftToken} <= found


def test_a_method_of_another_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from esft_bench.methods.base_model import UntrainedBase\nclass Mine(UntrainedBase):\n    pass\n"
    install(tmp_path, "mine_pkg", code, "mine = mine_pkg:Mine", monkeypatch)
    found = load_methods()
    assert issubclass(found["mine"], Method)
    assert found["base"] is UntrainedBase


@pytest.mark.parametrize(
    ("code", "entry", "message"),
    [
        ("x = 1\n", "mine = other_pkg:x", "no subclass"),
        ("raise RuntimeError('broken')\n", "mine = other_pkg:x", "cannot be loaded: broken"),
        ("from esft_bench.methods.fft import FullFineTuning as It\n", "fft = other_pkg:It", "takes the name"),
        ("from esft_bench.methods.fft import FullFineTuning as It\n", "My_Own = other_pkg:It", "use lower case"),
    ],
    ids=["no method", "broken", "name taken", "no name"],
)
def test_an_entry_point_that_is_no_method_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, entry: str, message: str
) -> None:
    install(tmp_path, "other_pkg", code, entry, monkeypatch)
    with pytest.raises(MethodError, match=message):
        load_methods()


def test_the_page_of_methods_is_what_the_methods_on_it_say() -> None:
    """Of those on it alone: a method that somebody adds needs no line there."""
    written = (Path(__file__).parents[2] / "docs" / "methods.md").read_text("utf-8")
    installed = load_methods()
    documented = re.findall(r"^\| `([a-z0-9-]+)` \|", written, re.MULTILINE)
    assert set(documented) >= SHIPPED
    assert written == page({name: installed[name] for name in documented}) + "\n"
