"""The narrow subjects by name."""

from collections.abc import Callable
from random import Random

from esft_bench.tasks.mini.world.code import code
from esft_bench.tasks.mini.world.intent import intent
from esft_bench.tasks.mini.world.law import law
from esft_bench.tasks.mini.world.math import math
from esft_bench.tasks.mini.world.sample import Sample, Schema
from esft_bench.tasks.mini.world.summary import summary
from esft_bench.tasks.mini.world.translation import translation

NARROW: dict[str, Callable[[Random, Schema], Sample]] = {
    "math": math,
    "code": code,
    "intent": intent,
    "summary": summary,
    "law": law,
    "translation": translation,
}
