"""A benchmark's questions: lm-eval's requests, built and tokenised once and asked of every model of a backbone.

texts.jsonl       a line for each text of the requests, once: the text and its token ids
requests.jsonl    a line for each request: its kind, its item, its place among the item's requests, the line of the
                  text that it begins with, and lm-eval's other arguments
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from esft_bench.harness.backbone.prompts import Form, ids_of_texts, parted
from esft_bench.harness.evaluate import Asked, Benchmark, lm_eval_task, quiet
from esft_bench.harness.store.names import REQUESTS, TEXTS
from esft_bench.spec.files import read_jsonl, write_jsonl
from esft_bench.tasks.task import Item


@dataclass(frozen=True)
class Request:
    """One of lm-eval's requests; `text` is the number of the text that it begins with."""

    kind: str
    item: int
    place: int
    text: int
    more: Sequence[Any]


def write_questions(task: Benchmark, items: Sequence[Item], form: Form, folder: Path) -> int:
    """Build a benchmark's requests in a prompt format and write them into `folder`; returns how many they are.

    Token ids are a text's alone, without BOS.
    """
    with quiet():
        prepared = lm_eval_task(task, items, form)
        prepared.build_all_requests()
    numbers: dict[str, int] = {}
    requests = []
    for instance in prepared.instances:
        begins, *more = instance.args
        for text in (begins, *_encoded(instance)):
            numbers.setdefault(text, len(numbers))
        requests.append(Request(instance.request_type, instance.doc_id, instance.idx, numbers[begins], more))
    ids = ids_of_texts(form.tokenizer, numbers)
    write_jsonl(folder / TEXTS, ({"text": text, "ids": ids[text]} for text in numbers))
    write_jsonl(folder / REQUESTS, (asdict(request) for request in requests))
    return len(requests)


def _encoded(instance: Instance) -> Iterator[str]:
    """The texts that are encoded of a request, besides the one that it begins with."""
    if instance.request_type == "loglikelihood":
        yield from parted(*instance.args)


def read_questions(task: Benchmark, items: Sequence[Item], folder: Path) -> Asked:
    """A benchmark as `write_questions` wrote it, to be asked of any number of models."""
    rows = list(read_jsonl(folder / TEXTS))
    with quiet():
        prepared = lm_eval_task(task, items, kind=_Stored)
    prepared.texts = [row["text"] for row in rows]
    prepared.requests = [Request(**row) for row in read_jsonl(folder / REQUESTS)]
    return Asked(task, items, prepared, {row["text"]: row["ids"] for row in rows})


class _Stored(ConfigurableTask):  # type: ignore[misc]
    """A task of lm-eval's whose requests have been built before."""

    texts: Sequence[str]
    requests: Sequence[Request]

    def build_all_requests(self, **_: Any) -> None:
        """Take the stored ones, in place of making them of items and templates."""
        items = list(self.eval_docs)
        self._instances = [
            Instance(
                each.kind,
                items[each.item],
                (self.texts[each.text], *each.more),
                each.place,
                (self.config.task, each.item, self.config.repeats),
            )
            for each in self.requests
        ]
