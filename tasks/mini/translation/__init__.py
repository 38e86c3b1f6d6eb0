"""Sentences in a new dialect of an invented language, judged."""

from pathlib import Path

from esft_bench.tasks.mini.build import ability
from esft_bench.tasks.task import Rubric

RUBRIC = Rubric(
    "Compare the translation with the reference, word by word. 10 if it says the same, 0 if no noun, adjective or verb "
    "is right. Each wrong word costs its share; so does a swap of who does it and to whom."
)
TASKS = (ability("translation", "Translation", Path(__file__).parent, "bypass", RUBRIC),)
