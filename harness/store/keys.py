"""What decides a step's result besides its inputs and settings: the source it runs, and the libraries that compute.

Source is followed along import statements, also those inside functions, from the modules a step names through our own
packages and those a plug-in belongs to; so an unrelated file beside them changes nothing. What stands under
`if TYPE_CHECKING` is not run and not followed.
"""

import ast
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from packaging.version import Version
from pydantic import BaseModel

from esft_bench.harness.store.notes import Notes
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, digest_of_text

OURS = "esft_bench"


@dataclass(frozen=True)
class Code:
    """The code a step depends on: modules by name, whose imports count too, and distributions by name."""

    modules: tuple[str, ...]
    libraries: tuple[str, ...] = ()

    def sources(self) -> dict[str, str]:
        """Digests of the sources, by module."""
        return sources(self.modules)

    def versions(self) -> dict[str, str]:
        """Public versions of the libraries that are installed."""
        return {name: found for name in self.libraries if (found := version(name))}


def key_of(kind: str, settings: Mapping[str, Any], inputs: Mapping[str, str], code: Code) -> str:
    """The key of a step: what it is, what it is told, the digests of what it reads, and the code it runs."""
    told = canonical([kind, settings, inputs])
    return digest_of_text(f"{told}{_of_sources(code.modules)}{_as_text(tuple(code.versions().items()))}")[:20]


@cache
def _of_sources(modules: tuple[str, ...]) -> str:
    """A digest of sources, of which thousands of steps have the same."""
    return digest_of_text(canonical(sources(modules)))


@cache
def _as_text(versions: tuple[tuple[str, str], ...]) -> str:
    return canonical(versions)


@cache
def version(distribution: str) -> str:
    """The public version of an installed distribution (without a build's suffix); empty where it is not installed."""
    try:
        return Version(importlib.metadata.version(distribution)).public
    except importlib.metadata.PackageNotFoundError:
        return ""


def modules_of(value: object) -> tuple[str, ...]:
    """The modules that define a model's class, those it builds on, and the classes of the models in its fields."""
    found: dict[str, None] = {}
    for each in type(value).__mro__:
        if each.__module__.partition(".")[0] not in ("builtins", "pydantic", "abc", "typing"):
            found[each.__module__] = None
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            held = getattr(value, name)
            found |= dict.fromkeys(modules_of(held)) if isinstance(held, BaseModel) else {}
    return tuple(found)


def module_of(function: Any) -> str:
    """The module that defines a function, or the one that a partial binds."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__module__", ""))


@cache
def sources(modules: tuple[str, ...]) -> dict[str, str]:
    """Digests of the source of modules and of all that they import of our packages and of their own, by module."""
    own = {OURS, *(name.partition(".")[0] for name in modules)}
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        digest, imported = _read(name)
        found[name] = digest
        named = (each for each in (*_parents(name), *imported) if each.partition(".")[0] in own)
        waiting += [each for each in named if _file(each)]
    return dict(sorted(found.items()))


def _parents(name: str) -> Iterator[str]:
    """The packages a module lies in: their `__init__` runs when it is imported."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


@cache
def _read(name: str) -> tuple[str, tuple[str, ...]]:
    """Digest of a module's source, and the names that it imports. Raises ModuleNotFoundError without a source."""
    path = _file(name)
    if path is None:
        raise ModuleNotFoundError(name)
    text = path.read_text("utf-8")
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    digest = digest_of_text(text)
    place = f"{package} {digest}"
    if place not in _PARSED:
        imported = (each for node in _run(ast.parse(text)) for each in _names(node, package))
        _PARSED[place] = list(dict.fromkeys(imported))
    return digest, tuple(_PARSED[place])


_PARSED: dict[str, list[str]] = {}
"""What source imports, by its package and digest: parsing all of it takes half a second."""


def recall_parsed(notes: Notes) -> None:
    """Take what other processes have parsed."""
    if not _PARSED:
        _PARSED.update((notes.read(_parser()) or {}).get("imports", {}))


def keep_parsed(notes: Notes) -> None:
    """Note what was parsed, where that is not noted, as far as one may."""
    with suppress(OSError, UserError):
        if (notes.read(_parser()) or {}).get("imports", {}).keys() != _PARSED.keys():
            notes.write(_parser(), {"imports": _PARSED})


@cache
def _parser() -> str:
    """The name of the note: another version of this file may find other imports."""
    return digest_of_text(Path(__file__).read_text("utf-8"))[:20]


@cache
def _file(name: str) -> Path | None:
    """The source file of a module; None where there is none (an extension, a namespace, not installed, no module).

    Looked for below its first package, since importlib would import all that lies between.
    """
    first, *rest = name.split(".")
    spec = importlib.util.find_spec(first)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for place in spec.submodule_search_locations or ():
        path = Path(place, *rest)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """All statements of a tree but those that only type checkers read. Expressions import nothing and are passed by."""
    for part in ("body", "orelse", "handlers", "finalbody", "cases"):
        for child in getattr(node, part, ()):
            if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                continue
            yield child
            yield from _run(child)


def _names(node: ast.AST, package: str) -> Iterable[str]:
    """The names that an import statement may import as modules; `from a import b` may mean a module a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, *([base] if base else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]
