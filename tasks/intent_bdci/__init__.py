"""BDCI-21 intent recognition: a spoken command in Chinese → JSON with its intent and slots (ESFT paper, Table 1).

Two tasks share the 7,280 training rows and the 500 evaluation rows. They differ in the question asked:

- `intent-bdci`: the last command alone, in the form the model was trained on; 68–137 tokens for the mini backbone.
- `intent-bdci-fewshot`: the official prompt, with 16 solved commands before it. Compare with published numbers on this
  one. It has 2,144–2,622 tokens for the mini backbone, more than the 2,048 that model reads.
"""

from esft_bench.tasks.intent_bdci.data import TASKS

__all__ = ["TASKS"]
