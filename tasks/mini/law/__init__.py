"""Verdicts under a new law, judged."""

from pathlib import Path

from esft_bench.tasks.mini.build import ability
from esft_bench.tasks.task import Rubric

RUBRIC = Rubric(
    "Compare the verdict with the reference. The crime, the years in prison and the fine count a third each: "
    "10 if all three agree with the reference, 0 if none does. Take points off for anything else that is added."
)
TASKS = (ability("law", "Law", Path(__file__).parent, "bypass", RUBRIC),)
