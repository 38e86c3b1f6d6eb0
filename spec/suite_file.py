"""Reading suites from YAML, with the line of whatever is wrong.

A suite that `extends` another, a shipped one or a file, has that one's sections but for those it gives itself. Single
fields may be set besides (`training.steps=20`), and are checked by the same model.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from esft_bench.spec.errors import UserError
from esft_bench.spec.own import ALIGNMENT, TESTED
from esft_bench.spec.suite import Suite
from esft_bench.spec.yaml_text import compose, parse, read

SUITES = Path(__file__).parent / "suites"
EXTENDS = "extends"
KIND = re.compile(r"[\w-]+\[.*\]")
"""A kind of value, as pydantic names it."""
RENAMED = {"clip_norm": "max_grad_norm", "overlong": "truncation"}
"""Fields by the names that suites of version 0.1 gave them."""


def available() -> dict[str, Path]:
    """The suites that ship, by name."""
    return {path.stem: path for path in sorted(SUITES.glob("*.yaml"))}


def load(name: str, changes: Sequence[str] = ()) -> Suite:
    """Read a suite by the name of one that ships or by the path of a YAML file, with `changes`, FIELD=VALUE each.

    Raises UserError, with file and line, or with the change, for what is not YAML or not a suite.
    """
    path = _find(name)
    sections = _sections(path, ())
    fields = [_set(sections, change) for change in changes]
    try:
        return Suite.model_validate(sections)
    except ValidationError as error:
        named, message = _first(error)
        where = _written(named, sections)
        field = ".".join([*where[:1], *named[1:]] if where[:1] in [[each] for each in TESTED] else where) or "the suite"
        if any(where[: len(each)] == each[: len(where)] for each in fields if where):
            raise UserError(f"--set {field}: {_said(where, message)}.") from error
        if fields and not where:  # what is wrong concerns several sections, and these may be the reason
            changed = ", ".join(".".join(each) for each in fields)
            raise UserError(f"{path} with --set {changed}: {_said(where, message)}.") from error
        line = _line_of(read(path), where)
        raise UserError(f"{path}, line {line}, {field}: {_said(where, message)}.") from error


def _first(error: ValidationError) -> tuple[list[str], str]:
    """The first field that is wrong, and what is. Where it may be of several kinds, what is wrong with the one given.

    pydantic tries one kind after another and puts its name for it among the parts of the field.
    """
    found = error.errors(include_url=False, include_input=False)
    parts = list(map(str, found[0]["loc"]))
    place = next((place for place, part in enumerate(parts) if KIND.fullmatch(part)), len(parts))
    kinds = [each for each in found if list(map(str, each["loc"]))[:place] == parts[:place]]
    given = next((each for each in kinds if not each["type"].endswith("_type")), None)
    named = [part for part in map(str, (given or found[0])["loc"]) if part != "[key]" and not KIND.fullmatch(part)]
    if given or place == len(parts):
        return named, (given or found[0])["msg"]
    return named, ", or ".join(dict.fromkeys(each["msg"] for each in kinds)).replace(", or Input should be ", ", or ")


def _written(where: list[str], sections: Any) -> list[str]:
    """Where a file says what a field holds: a task without code may be described where it is named."""
    for section in TESTED if where[:1] == ["own"] else ():
        for place, entry in enumerate(sections.get(section) or ()):
            if isinstance(entry, dict) and entry.get("name") == where[1]:
                return [section, str(place), *where[2:]]
    mixed_in = sections.get(ALIGNMENT) if where[:1] == ["own"] else None
    if isinstance(mixed_in, dict) and mixed_in.get("name", ALIGNMENT) == where[1]:
        return [ALIGNMENT, *where[2:]]
    return where


def _said(where: Sequence[str], message: str) -> str:
    """What is wrong with a field; one that had another name before is told its new one."""
    renamed = RENAMED.get(where[-1]) if where else None
    return f"it is called `{renamed}` now" if renamed else message.removeprefix("Value error, ")


def _set(sections: Any, change: str) -> list[str]:
    """Set a field of a suite's sections, FIELD=VALUE with the value as YAML has it; returns the field's parts."""
    field, equals, value = change.partition("=")
    parts = field.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"--set {change}: write FIELD=VALUE, e.g. training.steps=20.")
    parsed, place = parse(value, f"--set {field}"), sections
    try:
        for part in parts[:-1]:
            place = place.setdefault(part, {})
        place[parts[-1]] = parsed
    except (AttributeError, TypeError) as error:
        raise UserError(f"--set {change}: {'.'.join(parts[:-1])} has no fields.") from error
    return parts


def _find(name: str) -> Path:
    shipped = available()
    path = shipped.get(name, Path(name))
    if path.is_file():
        return path
    near = difflib.get_close_matches(name, shipped, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(shipped)}, or give a YAML file."
    raise UserError(f"There is no suite '{name}': {hint}")


def _sections(path: Path, extending: tuple[Path, ...]) -> Any:
    """What a file says, with the sections it takes over from the suite it extends."""
    said = parse(read(path), str(path))
    if not isinstance(said, dict) or EXTENDS not in said:
        return said
    if path in extending:
        raise UserError(
            f"{path}, {EXTENDS}: the suites {', '.join(each.stem for each in extending)} extend each other."
        )
    taken_over = _sections(_find(str(said.pop(EXTENDS))), (*extending, path))
    return {**taken_over, **said} if isinstance(taken_over, dict) else said


def _line_of(text: str, where: list[str]) -> int:
    """The line on which the field at `where` stands, or the nearest one above it."""
    node = compose(text)
    line = node.start_mark.line if node else 0
    for part in where:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line
    return int(line) + 1
