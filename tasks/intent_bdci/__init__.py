"""BDCI-21 intent recognition: a spoken command in Chinese → JSON with its intent and slots (ESFT paper, Table 1).

Two tasks share the 7,280 training rows and the 500 evaluation rows. They differ in the question asked:

- `intent-bdci`: the last command alone, in the form the model was trained on. Short (about 50 Chinese characters).
- `intent-bdci-fewshot`: the official prompt, with 16 solved commands before it: about 740 Chinese characters and
  1,340 others, 2,500–3,000 tokens of a tokenizer without Chinese words. Compare with published numbers on this one.
"""

from tasks.intent_bdci.data import TASKS

__all__ = ["TASKS"]
