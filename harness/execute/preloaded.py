"""What the process that children are forked from imports once. Imported nowhere else: it takes seconds.

Nothing that is imported is garbage: looking through it for some takes a fifth of the time, and would have every child
copy the pages that it shares with the others.
"""

import gc

gc.disable()

import esft_bench.harness.serving.questions  # noqa: E402
import esft_bench.harness.training.cell  # noqa: E402, F401

gc.freeze()
gc.enable()
