"""Shop sums under a new price list, scored on the number after `Answer:`."""

from pathlib import Path

from esft_bench.tasks.mini.build import ability

TASKS = (ability("math", "Math", Path(__file__).parent, "exact_match"),)
