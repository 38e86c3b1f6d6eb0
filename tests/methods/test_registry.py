"""Methods are found by name, those of other packages through their entry points."""

import sys
from pathlib import Path

import pytest

from esft_bench.methods.base import Base
from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Method
from esft_bench.methods.registry import METHODS, load_methods


def install(folder: Path, name: str, code: str, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package with an entry point `entry` on the path, as pip would."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[esft_bench.methods]\n{entry}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


WITHOUT_PROFILE = {"base", "adapter", "fft", "lora", "all-experts", "attention-router"}
UNTRAINED = {"base", "adapter"}
ABLATIONS = {"random-experts", "unrelated-experts"}
WITH_PROFILE = {
    "esft-gate",
    "esft-token",
    "esft-lora",
    "esft-router",
    "esft-union",
    "top-k-experts",
    "das-tune",
    "das-lora",
}


def test_every_method_has_defaults_but_those_that_need_what_they_ablate_or_load() -> None:
    assert set(METHODS) == WITHOUT_PROFILE | ABLATIONS | WITH_PROFILE
    for name, method in METHODS.items():
        assert method.trains == (name not in UNTRAINED)
        needed = {"path": "a/folder"} if name == "adapter" else {"of": {"method": "esft-gate"}}
        made = method.model_validate(needed if name in ABLATIONS | {"adapter"} else {})
        assert made.needs_profile == (name not in WITHOUT_PROFILE)


def test_a_method_of_another_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from esft_bench.methods.base import Base\nclass Mine(Base):\n    pass\n"
    install(tmp_path, "mine_pkg", code, "mine = mine_pkg:Mine", monkeypatch)
    found = load_methods()
    assert issubclass(found["mine"], Method)
    assert found["base"] is Base


@pytest.mark.parametrize(
    ("code", "entry", "message"),
    [
        ("x = 1\n", "mine = other_pkg:x", "no subclass"),
        ("raise RuntimeError('broken')\n", "mine = other_pkg:x", "cannot be loaded: broken"),
        ("from esft_bench.methods.base import Base\n", "fft = other_pkg:Base", "takes the name"),
    ],
    ids=["no method", "broken", "name taken"],
)
def test_an_entry_point_that_is_no_method_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, entry: str, message: str
) -> None:
    install(tmp_path, "other_pkg", code, entry, monkeypatch)
    with pytest.raises(MethodError, match=message):
        load_methods()
