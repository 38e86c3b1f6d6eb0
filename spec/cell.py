"""A cell of the matrix: backbone × task × method × seed."""

from dataclasses import dataclass

TOGETHER = "+"
"""What stands between the names of tasks that are trained together."""


@dataclass(frozen=True)
class Cell:
    """backbone × task × method × seed. The base model is one cell, with an empty task.

    `task` names several tasks, with `+` between, where they are trained together. `after` are the tasks that were
    trained on before, in order.
    """

    method: str
    task: str
    seed: int
    after: tuple[str, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """What it is trained on; nothing for the base model."""
        return self.task.split(TOGETHER) if self.task else []

    @property
    def label(self) -> str:
        """How the progress display and logs name it."""
        before = f" after {', '.join(self.after)}" if self.after else ""
        return self.method if not self.task else f"{self.method} · {self.task}{before} · seed {self.seed}"
