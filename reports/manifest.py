"""A run's manifest, read as what it is; what another version wrote is read as far as it can be."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from esft_bench.spec.suite import Suite

FILE = "manifest.json"
UNKNOWN = "command, order of rows, versions and hardware are not known"


@dataclass(frozen=True)
class Manifest:
    """What a run was.

    Attributes:
        suite: as it ran; empty lists where it is not known.
        command: what was typed.
        benchmarks: what each task that is trained on is tested on.
        notes: what the run itself had to remark.
        at_work: True while the run has been started and not finished.
        raw: everything in the file, as it stands there.
    """

    suite: Suite
    command: str = "esft-bench run"
    benchmarks: Mapping[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    at_work: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python and of the packages that decide a result."""
        return {name: str(version) for name, version in mapping(self.raw.get("versions")).items()}

    @property
    def accelerators(self) -> list[str]:
        """The accelerators of the machine, where it has any."""
        return strings(mapping(self.raw.get("hardware")).get("accelerators"))


def read(folder: Path) -> tuple[Manifest, list[str]]:
    """The manifest of a run folder, and what is wrong with it, a sentence each. Nothing in it can stop this."""
    try:
        raw = mapping(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except OSError:
        return Manifest(stored_suite({})[0]), [f"There is no {FILE}: {UNKNOWN}."]
    except ValueError:
        return Manifest(stored_suite({})[0]), [f"{FILE} is not readable: {UNKNOWN}."]
    suite, ignored = stored_suite(mapping(raw.get("suite")))
    benchmarks = {task: names for task, value in mapping(raw.get("benchmarks")).items() if (names := strings(value))}
    found = Manifest(
        suite,
        str(raw.get("command") or Manifest.command),
        benchmarks,
        strings(raw.get("notes")),
        bool(raw.get("started")) and not raw.get("finished"),
        raw,
    )
    complaint = f"{FILE}: not read, because this version does not know it: {', '.join(ignored)}."
    return found, [complaint] if ignored else []


def stored_suite(raw: Mapping[str, Any]) -> tuple[Suite, list[str]]:
    """A suite as another version may have stored it, and the dotted names of what had to be ignored.

    Each field is checked by itself; within one, what is wrong is left out and the rest kept. What a suite must have
    and this one lacks is empty.
    """
    kept: dict[str, Any] = {"name": "", "tasks": [], "methods": {}, "seeds": []}
    ignored = [name for name in raw if name not in Suite.model_fields]
    for name, about in Suite.model_fields.items():
        if name not in raw:
            continue
        found, lost = _as_far_as_it_fits(TypeAdapter[Any](about.annotation or Any), raw[name])
        ignored += [".".join([name, *map(str, place)]) for place in lost]
        kept |= {name: found[0]} if found else {}
    return Suite.model_construct(**kept), ignored


def _as_far_as_it_fits(adapter: TypeAdapter[Any], raw: Any) -> tuple[list[Any], list[tuple[str | int, ...]]]:
    """The value without what does not fit, none where nothing is left; and the places of what was left out."""
    value, lost = deepcopy(raw), list[tuple[str | int, ...]]()
    while True:
        try:
            return [adapter.validate_python(value)], lost
        except ValidationError as error:
            place = _place(value, error.errors()[0]["loc"])
            lost.append(place)
            if not place:
                return [], lost
            inner = value
            for step in place[:-1]:
                inner = inner[step]
            del inner[place[-1]]


def _place(value: Any, loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """The part of an error's location that exists in the value: a field that is missing is its parent's fault."""
    place: list[str | int] = []
    for step in loc:
        inside = isinstance(value, dict) and step in value
        if not inside and not (isinstance(value, list) and isinstance(step, int) and step < len(value)):
            break
        place.append(step)
        value = value[step]
    return tuple(place)


def mapping(value: Any) -> dict[str, Any]:
    """A mapping as a dict with names for keys; anything else as an empty one."""
    return {str(key): one for key, one in value.items()} if isinstance(value, Mapping) else {}


def strings(value: Any) -> list[str]:
    """A list's entries as text; anything else as an empty list."""
    return [str(one) for one in value] if isinstance(value, list) else []
