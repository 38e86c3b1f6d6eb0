"""lm-eval's own tasks by name (`lm-eval:arc_easy`), and a user's in lm-eval's YAML (`--include-path FOLDER`).

Their prompts, examples and targets are made by lm-eval from the rows when a suite is planned; their filters and metrics
score the answers. Rows come as for every task, from the hub or from a data folder, where the split `test` of
`dataset_path: allenai/ai2_arc`, `dataset_name: ARC-Easy` is the file `ai2_arc/ARC-Easy/test.jsonl`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Dataset, Source
from esft_bench.tasks.task import Conversation, Item, Task, turn

PREFIX = "lm-eval:"
"""How a suite says that a task is one of lm-eval's."""
DOC = "lm_eval_doc"
"""The field of an item that holds lm-eval's own row, as JSON."""
SEED = 1234
"""lm-eval's own seed for few-shot examples."""
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
KINDS = ("multiple_choice", "generate_until")


def make(name: str, include_path: str, *, trained: bool) -> Task:
    """The task of that name. One that is `trained` on is asked without examples, in the prompt format.

    Raises TaskError where lm-eval has none of that name, or one of another kind.
    """
    theirs = _Theirs(name, _find(name, include_path))
    return Task(
        name=PREFIX + name,
        title=name,
        role="ability" if trained else "general",
        lm_eval=theirs.path,
        metric=theirs.metric,
        training=theirs.training if trained else None,
        items=theirs.asked if trained else theirs.items,
        otherwise={"in_form": trained, "output_type": theirs.config["output_type"]},
        identity=json.dumps([name, str(theirs.path), trained, theirs.path.read_text("utf-8")]),
    )


@lru_cache(32)
def _find(name: str, include_path: str) -> Path:
    """The file of a task, the user's first; by its name where that is the task's, else by lm-eval's index."""
    import lm_eval

    if include_path and not Path(include_path).expanduser().is_dir():
        raise TaskError(f"--include-path {include_path}: there is no such folder.")
    theirs = Path(lm_eval.__file__).parent / "tasks"
    folders = [Path(include_path).expanduser()] if include_path else []
    folders += [each.parent for each in theirs.rglob(f"{name}.yaml")]
    for folder in folders:
        index = _index(str(folder))
        if name in index:
            return _task_file(name, index[name])
    index = _index("")
    if name not in index:
        import difflib

        near = difflib.get_close_matches(name, index, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`lm_eval ls tasks` lists them."
        raise TaskError(f"lm-eval has no task '{name}'; {hint}")
    return _task_file(name, index[name])


@lru_cache(32)
def _index(folder: str) -> Mapping[str, Any]:
    """The tasks in a folder, or all of lm-eval's, which takes seconds."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder, include_defaults=False) if folder else TaskManager()
    index: Mapping[str, Any] = manager.task_index
    return index


def _task_file(name: str, entry: Any) -> Path:
    if entry.yaml_path is None or "TASK" not in str(entry.kind) or "PY" in str(entry.kind):
        inside = (entry.cfg or {}).get("task") if isinstance(entry.cfg, dict) else None
        listed = f", such as {PREFIX}{inside[0]}" if isinstance(inside, list) and isinstance(inside[0], str) else ""
        raise TaskError(f"{PREFIX}{name} is no single task but a group: name the tasks in it{listed}.")
    return Path(entry.yaml_path)


@dataclass(frozen=True)
class _Theirs:
    """A task of lm-eval's, by its configuration's file."""

    name: str
    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the file says, with what it includes. Raises TaskError for a kind that is not asked here."""
        from lm_eval.tasks._yaml_loader import load_yaml

        config: dict[str, Any] = load_yaml(self.path)
        config.setdefault("output_type", "generate_until")
        if config["output_type"] not in KINDS:
            raise TaskError(
                f"{PREFIX}{self.name} asks for {config['output_type']}; tasks that choose or generate are run here."
            )
        return config

    @property
    def metric(self) -> str:
        """The score: accuracy by length where there is one, else the first metric, after the most lenient filter."""
        names = [each["metric"] for each in self.config.get("metric_list") or [{"metric": "acc"}]]
        if self.config["output_type"] == "multiple_choice":
            return "acc_norm" if "acc_norm" in names else str(names[0])
        filters = [each["name"] for each in self.config.get("filter_list") or ()]
        chosen = "flexible-extract" if "flexible-extract" in filters else next(iter(filters), "")
        return f"{names[0]},{chosen}" if chosen else str(names[0])

    def dataset(self) -> Dataset:
        """Where its rows lie."""
        path, config = str(self.config.get("dataset_path", "")), self.config.get("dataset_name")
        return Dataset(path, None, "/".join(filter(None, [path.rpartition("/")[2], config])), config)

    def prepared(self, source: Source, split: str, shots: int = 0) -> Any:
        """lm-eval's object with the rows of a split, and of the one that examples come from if it shows any."""
        import datasets
        from lm_eval.api.task import ConfigurableTask

        examples = self._examples if shots else None
        wanted = {"test_split": self.config[split], **({"fewshot_split": examples} if examples else {})}
        data = self.dataset()
        tables = {
            each: datasets.Dataset.from_list(list(source.rows(data, each, {}))) for each in sorted(set(wanted.values()))
        }
        splits = dict.fromkeys(SPLITS) | wanted
        config = {**self.config, **splits, "task": self.name, "custom_dataset": lambda **_: tables}
        task = ConfigurableTask(config=config)
        task.set_fewshot_seed(seed=SEED)
        return task

    @property
    def _examples(self) -> str:
        """The split that examples come from, as lm-eval chooses it."""
        named = (self.config.get(each) for each in ("fewshot_split", *SPLITS))
        return next(str(split) for split in named if split)

    @property
    def shots(self) -> int:
        """Solved examples in a prompt."""
        return int(self.config.get("num_fewshot") or 0)

    def items(self, source: Source) -> Iterator[Item]:
        """Yield the rows to test on as lm-eval asks them, with its examples."""
        return self._items(source, self.shots)

    def asked(self, source: Source) -> Iterator[Item]:
        """Yield the rows to test on without examples."""
        return self._items(source, 0)

    def _items(self, source: Source, shots: int) -> Iterator[Item]:
        split = "test_split" if self.config.get("test_split") else "validation_split"
        if not self.config.get(split):
            raise TaskError(f"{PREFIX}{self.name} has no split to test on.")
        task = self.prepared(source, split, shots)
        for number, doc in enumerate(task.eval_docs):
            prompt = task.fewshot_context(doc, num_fewshot=shots)
            if not isinstance(prompt, str):
                raise TaskError(f"{PREFIX}{self.name} puts its choices before what follows them: not run here.")
            answer = self._answer(task, doc)
            item: Item = {"id": f"{self.name}-{number:05d}", "prompt": prompt, "answer": answer[0]}
            yield item | answer[1] | {DOC: json.dumps(doc, ensure_ascii=False, default=str)}

    def training(self, source: Source) -> Iterator[Conversation]:
        """Yield the training rows, each without examples. Raises TaskError where there is no training split."""
        if not self.config.get("training_split"):
            raise TaskError(f"{PREFIX}{self.name} has no training split: name it under `general` or `tested_only`.")
        task = self.prepared(source, "training_split")
        for doc in task.eval_docs:
            yield turn(str(task.doc_to_text(doc)), self._answer(task, doc)[0])

    def _answer(self, task: Any, doc: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The reference, and the choices where there are any."""
        target = task.doc_to_target(doc)
        if self.config["output_type"] != "multiple_choice":
            return str(target[0] if isinstance(target, list) and target else target), {}
        choices = [str(each) for each in task.doc_to_choice(doc)]
        first = target[0] if isinstance(target, list) else target
        gold = first if isinstance(first, int) else choices.index(str(first))
        return choices[gold], {"choices": choices, "gold": gold}
