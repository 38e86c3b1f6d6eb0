"""ChrEn: a sentence in Cherokee → the same in English (ESFT paper, Table 1), scored by a judge.

Two tasks share the training rows and the 100 evaluation rows of the ESFT release. `translation-chren` asks for the last
sentence alone; `translation-chren-fewshot` has the official prompt, with 16 translated sentences before it: compare
with published numbers on that one.

A data folder without the release's training file may have ChrEn's own training split (folder `chren`), which that file
was made of, instead; its pairs are then asked in the words of the evaluation.
"""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks import released
from esft_bench.tasks.benchmark import numbered
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Dataset, Source
from esft_bench.tasks.task import Conversation, Item, Message, Rubric, Task

DATASET = released.dataset("translation")
CHREN = Dataset(hub="chr_en", revision=None, folder="chren", config="parallel")
START, END = "Translate Cherokee to English: ", "\nTranslation:"

# The criteria are those of the ESFT paper's judge (Table 5; benchmarks.py of the release), the wording is ours.
RUBRIC = Rubric(
    "Score the translation against the reference on three things, from 0 to 10 each; the score is their mean.\n"
    "1. Accuracy: does it say what the reference says?\n"
    "2. Completeness: is every important point of the reference there?\n"
    "3. Economy: is it as concise as the reference, in the same style, with nothing added?",
    question_starts=START,
)

PAPER_RUBRIC = Rubric(Path(__file__).with_name("paper_rubric.txt").read_text("utf-8"), verbatim=True)
"""The ESFT paper's own prompt, word for word (Table 5)."""


def training(source: Source) -> Iterator[Conversation]:
    """Yield one sentence and its translation per conversation, ended by a blank line."""
    if source.has(DATASET, "train") or not source.has(CHREN, "train"):
        return released.training(source, DATASET)
    return _pairs(source)


def _pairs(source: Source) -> Iterator[Conversation]:
    for place, row in numbered(source, CHREN, "train", {"sentence_pair": dict}):
        english, cherokee = row["sentence_pair"].get("en"), row["sentence_pair"].get("chr")
        if not (isinstance(english, str) and isinstance(cherokee, str)):
            raise TaskError(f"{place}: 'sentence_pair' must hold the strings 'chr' and 'en'.")
        yield [
            Message(role="user", content=START + cherokee.strip() + END),
            Message(role="assistant", content=english.strip() + "\n\n"),
        ]


def fewshot_items(source: Source) -> Iterator[Item]:
    """Yield the evaluation items with the official prompt, 16 translated sentences included."""
    return released.fewshot_items(source, DATASET)


def items(source: Source) -> Iterator[Item]:
    """Yield the evaluation items with the last sentence alone."""
    return released.items(source, DATASET, START)


LM_EVAL = Path(__file__).with_name("translation_chren.yaml")
FEWSHOT = LM_EVAL.with_name("translation_chren_fewshot.yaml")

TASKS = (
    Task("translation-chren", "Translation", "ability", LM_EVAL, "bypass", training, items, RUBRIC, PAPER_RUBRIC),
    Task(
        "translation-chren-fewshot",
        "Translation (16-shot)",
        "ability",
        FEWSHOT,
        "bypass",
        training,
        fewshot_items,
        RUBRIC,
        PAPER_RUBRIC,
    ),
)
