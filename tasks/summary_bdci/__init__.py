"""BDCI-21 summary: a call to a phone company's service desk in Chinese → the agent's note, scored by a judge.

Two tasks share the rows of the ESFT release (ESFT paper, Table 1; 100 evaluation rows). `summary-bdci` asks for the
last call alone; `summary-bdci-fewshot` has the official prompt, with one summarised call before it: compare with
published numbers on that one.
"""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks import released
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Conversation, Item, Rubric, Task

DATASET = released.dataset("summary")
START = "请总结下面这段客服对话： "

# The criteria are those of the ESFT paper's judge (Table 5; benchmarks.py of the release), the wording is ours.
RUBRIC = Rubric(
    "请把模型写的通话总结与参考总结对照,从满分10分起按下列四项扣分,最低为0分。\n"
    "一、内容准确性:是否说对了客户的核心问题或投诉;关键信息有误述或误解的要扣分。\n"
    "二、详细程度与完整性:参考总结中的要点是否都有;遗漏关键信息的要扣分。\n"
    "三、内容冗余度:是否简洁,风格是否与参考总结一致;过长或风格不一致的要扣分。\n"
    "四、行动指令正确性:对后续处理的建议或请求是否与参考总结相同;改变或丢失的要扣分。",
    language="zh",
    question_starts=START,
)

PAPER_RUBRIC = Rubric(Path(__file__).with_name("paper_rubric.txt").read_text("utf-8"), language="zh", verbatim=True)
"""The ESFT paper's own prompt, word for word (Table 5)."""


def training(source: Source) -> Iterator[Conversation]:
    """Yield one call and its summary per conversation."""
    return released.training(source, DATASET)


def fewshot_items(source: Source) -> Iterator[Item]:
    """Yield the evaluation items with the official prompt, one summarised call included."""
    return released.fewshot_items(source, DATASET)


def items(source: Source) -> Iterator[Item]:
    """Yield the evaluation items with the last call alone."""
    return released.items(source, DATASET, START)


LM_EVAL = Path(__file__).with_name("summary_bdci.yaml")
FEWSHOT = LM_EVAL.with_name("summary_bdci_fewshot.yaml")

TASKS = (
    Task("summary-bdci", "Summary", "ability", LM_EVAL, "bypass", training, items, RUBRIC, PAPER_RUBRIC),
    Task(
        "summary-bdci-fewshot",
        "Summary (1-shot)",
        "ability",
        FEWSHOT,
        "bypass",
        training,
        fewshot_items,
        RUBRIC,
        PAPER_RUBRIC,
    ),
)
