"""The judges of a run: one whose scores the tables show, and perhaps a second one to compare it with."""

from collections.abc import Sequence
from typing import Any

from esft_bench.harness.judge.base import Judge
from esft_bench.harness.judge.choice import choose
from esft_bench.spec.judge import JudgeSettings


class Panel:
    """Judges, the first of whom decides."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        self.judges = list(judges)

    @property
    def first(self) -> Judge:
        """Whose scores the tables show."""
        return self.judges[0]

    @property
    def named(self) -> list[tuple[str, list[Any]]]:
        """Each judge's name and what makes it another one."""
        return [(judge.name, judge.identity) for judge in self.judges]

    @property
    def notes(self) -> list[str]:
        """What the report must say about how they judged."""
        return [note for judge in self.judges for note in judge.notes]

    def of(self, identity: list[Any]) -> Judge:
        """The judge with this identity. Raises KeyError where none has it."""
        for judge in self.judges:
            if judge.identity == identity:
                return judge
        raise KeyError(f"no judge of this run is {identity}")

    def close(self) -> None:
        """Ask nobody any more."""
        for judge in self.judges:
            judge.close()


def seat(settings: JudgeSettings, account: str = "") -> tuple[Panel, list[str]]:
    """The judges that a suite asks for, and what to say where they are not those.

    Without a key the reference judge stands in for the first, and nobody for the second: likeness of wording is no
    second opinion that was asked for. `account` and errors are those of `choose`.
    """
    first, note = choose(settings, account)
    notes = [note] if note else []
    if settings.second is None:
        return Panel([first]), notes
    second, missing = choose(settings.second, account)
    if missing or second.identity == first.identity:
        left_out = f"the second judge, {settings.second.model or second.name}, is left out"
        return Panel([first]), [*notes, f"No key in {settings.second.key_env}: {left_out}." if missing else left_out]
    return Panel([first, second]), notes
