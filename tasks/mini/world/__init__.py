"""The embedded world: small subjects that a small backbone can learn in minutes.

Every narrow subject (math, code, intent, summary, law, translation) exists in three schemas under one and the same
prompt. Pretraining shows schemas A and B; the downstream task asks for a third one, N: another price list, another
meaning of the verbs, another label set, lexicon or verdict rule. So the base knows the subject but not the task, and
what has to change sits mostly in experts. General kinds (facts, exams, ...) have one schema; each splits its
entities in two halves, one for alignment data and one for benchmarks.

Every module draws from its own seeded generators: a change to one subject leaves the others as they are.
"""

from esft_bench.tasks.mini.world.general import GENERAL
from esft_bench.tasks.mini.world.narrow import NARROW
from esft_bench.tasks.mini.world.sample import Half, Sample, Schema

__all__ = ["GENERAL", "NARROW", "Half", "Sample", "Schema"]
