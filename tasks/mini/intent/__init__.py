"""Commands to a house assistant under a new label set, scored by exact match of the JSON."""

from pathlib import Path

from esft_bench.tasks.mini.build import ability

TASKS = (ability("intent", "Intent", Path(__file__).parent, "exact_match"),)
