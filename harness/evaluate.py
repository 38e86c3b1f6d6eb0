"""Asks a model the items of some tasks through lm-eval and returns what it answered and how it scored, item by item."""

import contextlib
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import lm_eval
from datasets import Dataset
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import handle_non_serializable

from esft_bench.spec.errors import UserError
from esft_bench.spec.progress import Progress
from esft_bench.spec.record import ItemScore
from esft_bench.tasks.task import Item

FEWSHOT_SEED = 1234
THEIR_TASKS = Path(lm_eval.__file__).parent / "tasks"
ABOUT_THEIR_DATA = (
    *("dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split", "test_split"),
    *("fewshot_split", "fewshot_config", "num_fewshot", "tag"),
)
"""What a configuration of lm-eval's says about where its data lie; ours come with their examples."""

TEMPLATES = ("doc_to_text", "doc_to_choice", "doc_to_target")
BITS = "bits_per_byte"
"""The metric of a task that asks how likely texts are: lm-eval has (log-likelihood, bytes) for each."""
JUDGED = "bypass"
"""The metric of a task that lm-eval only generates for; a judge scores it later."""


class Benchmark(Protocol):
    """What is asked of a model: a task, as far as lm-eval needs it."""

    @property
    def name(self) -> str:
        """The task's name."""

    @property
    def metric(self) -> str:
        """The metric of lm-eval's that is the task's score, with its filter after a comma."""

    @property
    def lm_eval(self) -> Path | None:
        """lm-eval's configuration of it."""


def evaluate(
    lm: LM,
    benchmarks: Sequence[tuple[Benchmark, Sequence[Item]]],
    folder: Path,
    progress: Progress | None = None,
) -> dict[str, list[ItemScore]]:
    """Evaluate `lm` on the items of one or several tasks, all in one go; returns each task's item scores by its name.

    Scores are in the order of the items. Those of judged tasks come back `unscored`, with the completion. lm-eval's own
    results are written to `folder`/lm_eval.json. Generated code is run by the tasks themselves, in their sandbox: tasks
    that lm-eval marks unsafe are refused.

    Raises UserError where a task's lm-eval configuration and its metric do not fit.
    """
    with quiet():
        prepared = {task.name: lm_eval_task(task, items) for task, items in benchmarks}
        with _reporting(lm, progress, sum(_requests(prepared[task.name], items) for task, items in benchmarks)):
            results = lm_eval.evaluate(
                lm=lm,
                task_dict={"tasks": prepared, "groups": {}, "group_map": {}},
                bootstrap_iters=0,
                log_samples=True,
            )
    samples: Mapping[str, list[dict[str, Any]]] = results.pop("samples")
    (folder / "lm_eval.json").write_text(
        json.dumps(results, indent=2, ensure_ascii=False, default=handle_non_serializable)
    )
    return {task.name: _scores(task, items, samples[task.name]) for task, items in benchmarks}


def lm_eval_task(task: Benchmark, items: Sequence[Item]) -> ConfigurableTask:
    """lm-eval's task object for `task`, holding `items` as its test split. Needs neither network nor cache."""
    if task.lm_eval is None:
        raise UserError(f"task {task.name} has no lm-eval configuration, so nothing can be tested on it")
    config = _without_trivial_templates(_configuration(task.lm_eval))
    split = config.get("test_split") or "test"
    # In memory: `datasets` would otherwise write a copy into its cache for each evaluation.
    dataset = {split: Dataset.from_list(list(items))}
    prepared = ConfigurableTask(config=config | {"task": task.name, "custom_dataset": lambda **_: dataset})
    prepared.set_fewshot_seed(seed=FEWSHOT_SEED)
    if prepared.get_config("num_fewshot") is None:
        prepared.set_config(key="num_fewshot", value=0)
    return prepared


def _configuration(path: Path) -> dict[str, Any]:
    """A task's configuration; `based_on` names one of lm-eval's own, whose metrics and filters it then takes over."""
    ours: dict[str, Any] = load_yaml(path)
    theirs = ours.pop("based_on", None)
    if theirs is None:
        return ours
    base = load_yaml(THEIR_TASKS / theirs)
    return {key: value for key, value in base.items() if key not in ABOUT_THEIR_DATA} | ours


def _without_trivial_templates(config: dict[str, Any]) -> dict[str, Any]:
    """`{{field}}` as `field`, which means the same to lm-eval, without compiling a template for every item."""
    fields = {key: re.fullmatch(r"{{\s*(\w+)\s*}}", str(config.get(key))) for key in TEMPLATES}
    return config | {key: match[1] for key, match in fields.items() if match}


def _requests(prepared: ConfigurableTask, items: Sequence[Item]) -> int:
    if prepared.OUTPUT_TYPE == "multiple_choice":
        return sum(len(item["choices"]) for item in items)
    return len(items)


def _scores(task: Benchmark, items: Sequence[Item], samples: Sequence[dict[str, Any]]) -> list[ItemScore]:
    metric, _, wanted_filter = task.metric.partition(",")
    by_id: dict[str, dict[str, Any]] = {}
    for sample in samples:
        if wanted_filter in ("", sample["filter"]):
            by_id.setdefault(str(sample["doc"]["id"]), sample)
    for sample in by_id.values():
        if metric not in sample:
            raise UserError(
                f"task {task.name} names the metric {task.metric!r}, but its lm-eval configuration {task.lm_eval} "
                f"gives {', '.join(sample['metrics'])}"
            )
    values = {key: None if metric == JUDGED else sample[metric] for key, sample in by_id.items()}
    if metric == BITS:
        values = dict(zip(values, _bits([value for value in values.values() if value is not None]), strict=True))
    return [_score(metric, item, by_id[item["id"]], values[item["id"]]) for item in items]


def _bits(likelihoods: Sequence[tuple[float, int]]) -> list[float]:
    """What each text adds to the bits a byte of all: its bits over the mean length of a text, in bytes.

    From (natural log-likelihood, bytes). Their mean is the bits of all texts over the bytes of all texts, which is what
    lm-eval's `bits_per_byte` is, and what an item adds depends on no other item's likelihood: so models are paired.
    """
    mean_bytes = sum(size for _, size in likelihoods) / len(likelihoods)
    return [-likelihood / math.log(2) / mean_bytes for likelihood, _ in likelihoods]


def _score(metric: str, item: Item, sample: Mapping[str, Any], found: Any) -> ItemScore:
    value = None if found is None else float(found)
    return ItemScore(
        id=item["id"],
        score=value,
        state="unscored" if value is None else "scored",
        prompt=item["prompt"],
        completion=_completion(item, sample["resps"], by_length=metric == "acc_norm"),
        answer=item["answer"],
    )


def _completion(item: Item, responses: Sequence[Sequence[Any]], *, by_length: bool) -> str:
    """The generated text or, where log-likelihoods were asked for, the most likely choice (for its length)."""
    first = responses[0][0]
    if isinstance(first, str):
        return first
    if "choices" not in item:
        return ""  # a text's likelihood was asked for
    lengths = [len(choice) if by_length else 1 for choice in item["choices"]]
    likelihoods = [float(choice[0][0]) / length for choice, length in zip(responses, lengths, strict=True)]
    return str(item["choices"][likelihoods.index(max(likelihoods))])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars and lm-eval's chatter off the terminal; its warnings still reach logging's own handlers."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # noqa: PTH123 - a device
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _reporting(lm: LM, progress: Progress | None, total: int) -> Iterator[None]:
    """Let a model that can tell (`on_answers`) report its progress."""
    if progress is None or not hasattr(lm, "on_answers"):
        yield
        return
    done = 0

    def answered(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    lm.on_answers = answered
    try:
        yield
    finally:
        lm.on_answers = None
