"""BDCI-21 law: the facts of a civil case in Chinese → the judgment (ESFT paper, Table 1), scored by a judge.

Two tasks share the 927 training rows and the 100 evaluation rows of the ESFT release. `law-bdci` asks for the last
case alone; `law-bdci-fewshot` has the official prompt, with 4 decided cases before it: compare with published numbers
on that one. The released training questions begin 请写出以下案件的判决, the evaluation's 请预测以下案件的判决.
"""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks import released
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Conversation, Item, Rubric, Task

DATASET = released.dataset("law")
START = "请预测以下案件的判决： "

# The criteria are those of the ESFT paper's judge (Table 5; benchmarks.py of the release), the wording is ours.
RUBRIC = Rubric(
    "请把模型预测的判决与参考判决对照,从满分10分起按下列四项扣分,最低为0分。\n"
    "一、相关性(最重要):预测的判决结果是否与参考判决一致;措辞不同而意思相同视为一致;只有部分一致的,按一致的程度扣分;"
    "根本没有作出判决的,扣10分。\n"
    "二、完整性:当事人、金额、责任认定、费用负担等参考判决中的要点,遗漏的要扣分。\n"
    "三、准确性:细节、数字、日期和法律依据与参考判决不符的要扣分,错误越严重扣得越多。\n"
    "四、客观性与专业性:主观臆断或用语不专业的酌情扣分。",
    language="zh",
    question_starts=START,
)

PAPER_RUBRIC = Rubric(Path(__file__).with_name("paper_rubric.txt").read_text("utf-8"), language="zh", verbatim=True)
"""The ESFT paper's own prompt, word for word (Table 5)."""


def training(source: Source) -> Iterator[Conversation]:
    """Yield one case and its judgment per conversation."""
    return released.training(source, DATASET)


def fewshot_items(source: Source) -> Iterator[Item]:
    """Yield the evaluation items with the official prompt, 4 decided cases included."""
    return released.fewshot_items(source, DATASET)


def items(source: Source) -> Iterator[Item]:
    """Yield the evaluation items with the last case alone."""
    return released.items(source, DATASET, START)


LM_EVAL = Path(__file__).with_name("law_bdci.yaml")
FEWSHOT = LM_EVAL.with_name("law_bdci_fewshot.yaml")

TASKS = (
    Task("law-bdci", "Law", "ability", LM_EVAL, "bypass", training, items, RUBRIC, PAPER_RUBRIC),
    Task(
        "law-bdci-fewshot", "Law (4-shot)", "ability", FEWSHOT, "bypass", training, fewshot_items, RUBRIC, PAPER_RUBRIC
    ),
)
