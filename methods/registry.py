"""All methods by name: those of this package and those other packages add under the entry point `methods`.

Every module of this folder is looked into: a subclass of Method with a `name` of its own is a method. Another package
says

    [project.entry-points."esft_bench.methods"]
    my-method = "my_package.my_method:MyMethod"

Neither torch nor transformers is loaded for that: a method imports them where it works with a model.
"""

import functools
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoints, entry_points

from esft_bench import methods
from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Method

GROUP = "esft_bench.methods"
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def load_methods() -> dict[str, type[Method]]:
    """All methods by name, those of this package first.

    Raises MethodError where an entry point cannot be loaded, is no Method, or where a name is taken or no name.
    """
    found: dict[str, type[Method]] = {}
    for name, origin, method in (*_built_in(), *_plugged_in()):
        if name in found:
            raise MethodError(f"{origin} takes the name '{name}' of a method that exists; rename it")
        if not NAME.fullmatch(name):
            raise MethodError(f"{origin} calls a method '{name}'; use lower case, digits and hyphens")
        found[name] = method
    return found


@functools.cache
def _built_in() -> tuple[tuple[str, str, type[Method]], ...]:
    """Name, origin and class of the methods in this folder."""
    modules = [importlib.import_module(f"{methods.__name__}.{each.name}") for each in _modules()]
    return tuple(
        (value.name, f"methods/{module.__name__.rpartition('.')[2]}.py", value)
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
        if "name" in vars(value)
    )


def _modules() -> Iterator[pkgutil.ModuleInfo]:
    return (module for module in pkgutil.iter_modules(methods.__path__) if not module.ispkg)


def _plugged_in() -> Iterator[tuple[str, str, type[Method]]]:
    """Name, origin and class of the methods of other packages."""
    for point in _points(tuple(sys.path)):
        origin = f"the entry point '{point.name}' ({point.value})"
        try:
            loaded = point.load()
        except Exception as error:  # another package's import may fail in any way
            raise MethodError(f"{origin} cannot be loaded: {error}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Method)):
            raise MethodError(f"{origin} is no subclass of esft_bench.methods.method.Method")
        yield point.name, origin, loaded


@functools.cache
def _points(path: tuple[str, ...]) -> EntryPoints:
    """The entry points of what is installed on a path: which takes 15 ms to look through."""
    return entry_points(group=GROUP)
