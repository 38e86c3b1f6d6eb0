"""Who scores free text: a model behind an OpenAI-compatible endpoint, or, without one, likeness to the reference.

The judge is chosen before a run starts (`choose`) and never changes within it. An answer that could not be judged is
`unscored` or `failed`, never 0.
"""

from esft_bench.harness.judge.base import Judge, JudgeItem, Usage, Verdict
from esft_bench.harness.judge.choice import choose, make_judge

__all__ = [
    "Judge",
    "JudgeItem",
    "Usage",
    "Verdict",
    "choose",
    "make_judge",
]
