"""Names that libraries do not promise to keep: all are listed, all are still there, and their versions are capped."""

import importlib
import importlib.metadata
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.private_names import NAMES, REPOSITORY, PrivateName, defined_in, found_in, sources, users


def requirements() -> dict[str, Requirement]:
    """What pyproject.toml asks for, by the package's import name."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [line for name in ("vllm", "optimizers", "cluster") for line in project["optional-dependencies"][name]]
    asked = [Requirement(line) for line in [*project["dependencies"], *extras]]
    return {each.name.replace("-", "_"): each for each in asked}


def is_there(private: PrivateName) -> bool:
    """Whether the installed library has the name; its module is imported only where its source does not tell."""
    if private.sign:
        package = importlib.util.find_spec(private.library)
        assert package is not None
        assert package.origin is not None
        module = Path(package.origin).parent.joinpath(*private.module.split(".")[1:])
        texts = [path for path in (module.with_suffix(".py"), module / "__init__.py") if path.exists()]
        return any(private.sign in path.read_text("utf-8") for path in texts)
    if private.module == "torch.ops.aten":  # an object, not a module
        import torch

        return hasattr(torch.ops.aten, private.name)
    try:
        return hasattr(importlib.import_module(private.module), private.name)
    except ImportError:
        return False


@pytest.mark.parametrize("private", NAMES, ids=lambda private: f"{private.module}-{private.name}")
def test_a_private_name_is_still_there(private):
    pytest.importorskip(private.library)
    version = importlib.metadata.version(private.library)
    seen = requirements()[private.library].specifier
    where = ", ".join(users(private.name))
    assert is_there(private), (
        f"{private.library} {version} has no `{private.name}` in {private.module} any more (seen in {seen}): "
        f"{where} need it, because {private.why}."
    )


@pytest.mark.parametrize(
    "gone",
    [
        PrivateName("transformers.integrations.moe", "_gone", ""),
        PrivateName("transformers.integrations.gone", "_gone", ""),
        PrivateName("torch.ops.aten", "_gone", ""),
        PrivateName("transformers.integrations.moe", "_gone", "", sign="self._gone ="),
        PrivateName("transformers.integrations.gone", "_gone", "", sign="self._gone ="),
    ],
)
def test_a_private_name_that_is_gone_is_noticed(gone):
    assert not is_there(gone)


@pytest.mark.parametrize("private", NAMES, ids=lambda private: f"{private.module}-{private.name}")
def test_a_private_name_that_is_listed_is_used(private):
    assert users(private.name), f"nothing uses {private.name}: take it off the list in tests/private_names.py"


def test_every_private_name_is_listed():
    texts = {path: path.read_text("utf-8") for path in sources()}
    own = frozenset(name for text in texts.values() for name in defined_in(text))
    listed = {pair for private in NAMES for pair in private.spellings}
    missing = [
        f"{path.relative_to(REPOSITORY)} uses {module}{module and '.'}{name}: list it in tests/private_names.py"
        for path, text in texts.items()
        for module, name in found_in(text, own if path.is_relative_to(REPOSITORY / "tests") else frozenset())
        if (module, name) not in listed
    ]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from vllm.v1.worker import Worker", ("vllm.v1.worker", "Worker")),
        ("from torch.utils._pytree import tree_map", ("torch.utils._pytree", "tree_map")),
        ("from accelerate.utils import _thing", ("accelerate.utils", "_thing")),
        ("import torch._dynamo", ("torch._dynamo", "")),
        ("model._tied_weights_keys", ("", "_tied_weights_keys")),
        ("super()._ours()", ("", "_ours")),
        ("getattr(model, '_conversions', None)", ("", "_conversions")),
    ],
)
def test_a_private_name_is_found_in_a_source(source, found):
    assert list(found_in(source, frozenset({"_ours"}))) == [found]


def test_what_is_documented_or_ours_is_not_found_in_a_source():
    source = "from torch.nn.utils import parametrize\nfrom lm_eval.api.model import LM\nself._x\na._ours\nos._exit(0)"
    assert not list(found_in(source, frozenset({"_ours"})))


@pytest.mark.parametrize("library", sorted({private.library for private in NAMES}))
def test_a_library_whose_private_names_are_used_is_capped_below_its_next_release(library):
    pytest.importorskip(library)
    asked = requirements()[library]
    installed = importlib.metadata.version(library)
    assert asked.specifier.contains(installed.partition("+")[0])
    major, minor, patch = (int(part) for part in re.findall(r"\d+", f"{installed}.0.0")[:3])
    following = f"{major}.{minor}.{patch + 1}" if major == 0 else f"{major}.{minor + 1}"
    assert not asked.specifier.contains(following), f"{asked} allows {following}, in which no private name was seen"


def test_the_versions_that_are_installed_from_constraints_are_the_capped_ones():
    asked = requirements()
    for name in ("constraints-cpu.txt", "constraints-gpu.txt"):
        pins = dict(re.findall(r"^(\w[\w.-]*)==(\S+)$", (REPOSITORY / name).read_text("utf-8"), re.MULTILINE))
        for library in {private.library for private in NAMES} & set(pins):
            assert asked[library].specifier.contains(pins[library]), (name, library)
    assert f"VLLM := {str(asked['vllm'].specifier).removeprefix('==')}\n" in (REPOSITORY / "Makefile").read_text(
        "utf-8"
    )
