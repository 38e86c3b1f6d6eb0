"""The narrow subjects by name."""

from collections.abc import Callable
from random import Random

from tasks.mini.world.code import code
from tasks.mini.world.intent import intent
from tasks.mini.world.law import law
from tasks.mini.world.math import math
from tasks.mini.world.sample import Sample, Schema
from tasks.mini.world.summary import summary
from tasks.mini.world.translation import translation

NARROW: dict[str, Callable[[Random, Schema], Sample]] = {
    "math": math,
    "code": code,
    "intent": intent,
    "summary": summary,
    "law": law,
    "translation": translation,
}
