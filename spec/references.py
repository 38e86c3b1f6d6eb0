"""What a suite's parts say of each other: rows name rows and tasks, tables and slices name both. Checked on reading."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esft_bench.spec.suite import Row, Suite


def check(suite: Suite) -> None:
    """Raise ValueError, naming the field, where a suite names what it does not have, or one thing twice."""
    _check_roles(suite)
    _check_titles(suite)
    for name, row in suite.methods.items():
        if row.ablates:
            _known(f"methods.{name}.ablates", [row.ablates], suite.methods, "no row of this suite")
        if bool(row.continues) != bool(row.after):
            raise ValueError(f"methods.{name}: `continues` names a row and `after` the tasks it was trained on")
        if row.continues:
            _continues_well(suite, name, row)
    for name in suite.methods:
        _ends(suite, name)
    for table in suite.tables:
        _known(f"tables.{table.title}", table.rows, suite.methods, "no row of this suite")
    if suite.quick is not None:
        _known("quick.tasks", suite.quick.tasks, suite.tasks, "not in this suite")
        _known("quick.methods", suite.quick.methods, suite.methods, "not in this suite")


def _known(field: str, names: Iterable[str], known: Iterable[str], otherwise: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{field} names '{name}', which is {otherwise}")


def _check_roles(suite: Suite) -> None:
    """Refuse a task under two of the sections that say what it is for."""
    place: dict[str, str] = {}
    for section, names in (("tasks", suite.tasks), ("tested_only", suite.tested_only), ("general", suite.general)):
        for name in names:
            if name in place:
                raise ValueError(f"'{name}' is under {place[name]} and under {section}: leave it out of one")
            place[name] = section


def _check_titles(suite: Suite) -> None:
    """Refuse two rows that tables could not tell apart, or file systems that do not tell capitals apart."""
    titles: dict[str, str] = {}
    files: dict[str, str] = {}
    for name in suite.methods:
        for known, key, what in ((titles, suite.title(name), "title"), (files, name.casefold(), "file names")):
            if key in known:
                raise ValueError(f"methods.{name} and methods.{known[key]} have the same {what}: rename one")
            known[key] = name


def _ends(suite: Suite, name: str) -> None:
    """Refuse a row that, through the rows it ablates or continues, comes back to itself."""
    way = [name]
    while before := suite.methods[way[-1]].continues or suite.methods[way[-1]].ablates:
        if before in way:
            raise ValueError(f"methods.{name} comes back to itself: {' → '.join([*way, before])}")
        way.append(before)


def _continues_well(suite: Suite, name: str, row: Row) -> None:
    """Refuse a continuation of no row, of itself, or of what has no task left to train on."""
    _known(f"methods.{name}.continues", [row.continues], suite.methods, "no row of this suite")
    before = suite.methods[row.continues]
    if before.continues or before.together or row.together:
        raise ValueError(f"methods.{name}.continues names '{row.continues}', which is no row of single tasks")
    _known(f"methods.{name}.after", row.after, suite.tasks, "no task of this suite")
    if set(suite.tasks) <= set(row.after):
        raise ValueError(f"methods.{name}.after names every task, so none is left to train on")
