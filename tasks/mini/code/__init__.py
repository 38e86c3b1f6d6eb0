"""Functions named by verbs of a new meaning, scored by running their unit tests."""

from pathlib import Path

from esft_bench.tasks.mini.build import ability

TASKS = (ability("code", "Code", Path(__file__).parent, "passed"),)
