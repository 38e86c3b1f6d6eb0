"""Tasks without code: a user's own rows, read, understood and scored as a suite, or the command line, says."""

from esft_bench.tasks.task import Task

TASKS: tuple[Task, ...] = ()
"""None of its own: each is made of what a suite says of it (`own.task.make`)."""
