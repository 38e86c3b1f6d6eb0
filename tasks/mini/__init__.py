"""The embedded world's tasks and its backbone: everything a run needs, without a download."""

from pathlib import Path

from esft_bench.tasks.mini import alignment, code, drift, general, intent, law, math, summary, translation
from esft_bench.tasks.task import Task

BACKBONE = Path(__file__).parent / "backbone"
"""A small mixture-of-experts model laid out as DeepSeek-V2, with its tokenizer; `tasks.mini.pretrain` rebuilds it."""

TASKS: tuple[Task, ...] = (
    *math.TASKS,
    *code.TASKS,
    *intent.TASKS,
    *summary.TASKS,
    *law.TASKS,
    *translation.TASKS,
    *general.TASKS,
    *drift.TASKS,
    *alignment.TASKS,
)
