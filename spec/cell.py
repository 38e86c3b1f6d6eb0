"""A cell of the matrix: backbone × task × method × seed."""

import hashlib
from dataclasses import dataclass

from esft_bench.spec.curve import ITSELF

TOGETHER = "+"
"""What stands between the names of tasks that are trained together."""
LONGEST_FILE_NAME = 160
"""Characters; a benchmark's name and a suffix still have room within 255."""


@dataclass(frozen=True)
class Cell:
    """backbone × task × method × seed. The base model is one cell, with an empty task.

    `task` names several tasks, with `+` between, where they are trained together. `after` are the tasks that were
    trained on before, in order. `rate` is what the row's learning rate, or its steps, were multiplied by: 1 is the row
    itself, others are further points of its curve.
    """

    method: str
    task: str
    seed: int
    after: tuple[str, ...] = ()
    rate: float = ITSELF

    @property
    def is_row(self) -> bool:
        """Whether it is the row itself and no further point of its curve."""
        return self.rate == ITSELF

    @property
    def tasks(self) -> list[str]:
        """What it is trained on; nothing for the base model."""
        return self.task.split(TOGETHER) if self.task else []

    @property
    def file_name(self) -> str:
        """How its files are called, `METHOD-TASK-SEED`, of a further point `METHOD-TASK-SEED-x0.5`.

        Cut where many tasks make it too long for a file system.
        """
        name = f"{self.method}-{self.task or 'none'}-{self.seed}" + ("" if self.is_row else f"-x{self.rate:g}")
        mark = hashlib.sha256(name.encode()).hexdigest()[:12]
        return name if len(name) <= LONGEST_FILE_NAME else f"{name[: LONGEST_FILE_NAME - 13]}-{mark}"

    @property
    def label(self) -> str:
        """How the progress display and logs name it."""
        before = f" after {', '.join(self.after)}" if self.after else ""
        times = "" if self.is_row else f" · curve × {self.rate:g}"
        return self.method if not self.task else f"{self.method} · {self.task}{before} · seed {self.seed}{times}"
