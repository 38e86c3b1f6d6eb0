"""Samples of answers: for each benchmark the items that say most, and what every row answered to them.

Chosen are each row's worst and best items and those on which the rows differ most. Ties, which all-or-nothing scores
are full of, are broken by one fixed shuffle of the items, the same for every row, so that the choice is the same each
time, is not simply the first items, and shows the rows side by side on the same item.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from esft_bench.reports.backbone_results import BackboneResults, Column, Role
from esft_bench.spec.record import ItemScore, Record
from esft_bench.spec.results import read_items

LONGEST = 1500
"""Characters of a prompt, an answer or a reason that are kept."""
LARGEST = 1_500_000
"""Bytes of all samples of a report, as JSON."""
KINDS = {"divided": "rows differ most", "worst": "among the worst", "best": "among the best", "unscored": "not scored"}


@dataclass(frozen=True)
class Answer:
    """What one row answered: `score` 0–100 or None, `run` what it was trained on, `reason` the judge's."""

    method: str
    title: str
    run: str
    score: float | None
    state: str
    completion: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """An item with the answers of all rows, in the order of the tables. `kinds` says why it was chosen, from KINDS."""

    benchmark: str
    title: str
    role: str
    judge: str
    id: str
    prompt: str
    wanted: str
    kinds: tuple[str, ...]
    answers: tuple[Answer, ...]


def choose(results: BackboneResults, *, each: int = 2, divided: int = 3, largest: int = LARGEST) -> list[Sample]:
    """Choose the samples of a report, benchmark by benchmark, the most telling items of each first.

    Args:
        results: the records of one backbone; of a row with several training runs the first is shown.
        each: how many worst and how many best items a row chooses for its task; half as many of a general benchmark.
        divided: how many items on which the rows differ most.
        largest: bytes; where all would be more, every benchmark loses items from its end.
    """
    lists = [_of_column(results, column, "ability", each, divided) for column in results.columns("ability")]
    fewer = max(1, each // 2), max(1, divided // 2)
    lists += [_of_column(results, column, "general", *fewer) for column in results.columns("general")]
    return _within(lists, largest)


def _of_column(results: BackboneResults, column: Column, role: Role, each: int, divided: int) -> list[Sample]:
    """The samples of one benchmark."""
    shown: dict[str, tuple[Record, dict[str, ItemScore]]] = {}
    for row in results.rows:
        records = [record for record in results.of(row, column, role).values() if record.items]
        items = read_items(results.folder, records[0]) if records else []
        if items:
            shown[row.name] = records[0], {item.id: item for item in items}
    chosen = _choice({name: items for name, (_, items) in shown.items()}, each, divided)
    samples = []
    for key, kinds in chosen.items():
        found = [(record, items[key]) for record, items in shown.values() if key in items]
        first = found[0][1]
        samples.append(
            Sample(
                benchmark=column.name,
                title=column.title,
                role=role,
                judge=column.judge,
                id=key,
                prompt=_clip(first.prompt),
                wanted=_clip(first.answer),
                kinds=kinds,
                answers=tuple(_answer(record, item) for record, item in found),
            )
        )
    return samples


def _choice(rows: Mapping[str, Mapping[str, ItemScore]], each: int, divided: int) -> dict[str, tuple[str, ...]]:
    """Ids of the chosen items with their kinds: in turn one on which rows differ, one of the worst, one of the best."""
    known = {name: {key: item.score for key, item in items.items()} for name, items in rows.items()}
    shuffled = sorted({key for items in known.values() for key in items}, key=_shuffle)
    spread: dict[str, float] = {}
    for key in shuffled:
        values = [value for items in known.values() if (value := items.get(key)) is not None]
        if len(values) > 1 and max(values) > min(values):
            spread[key] = float(np.std(values))
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    found["divided"] = sorted(spread, key=lambda key: -spread[key])[:divided]
    for items in known.values():
        scored = [(key, value) for key in shuffled if (value := items.get(key)) is not None]
        found["worst"] += [key for key, _ in sorted(scored, key=lambda pair: pair[1])[:each]]
        found["best"] += [key for key, _ in sorted(scored, key=lambda pair: -pair[1])[:each]]
        found["unscored"] += [key for key in shuffled if key in items and items[key] is None][:1]
    unique = {kind: list(dict.fromkeys(keys)) for kind, keys in found.items()}
    turns = range(max((len(keys) for keys in unique.values()), default=0))
    order = dict.fromkeys(keys[turn] for turn in turns for keys in unique.values() if turn < len(keys))
    return {key: tuple(kind for kind, keys in unique.items() if key in keys) for key in order}


def _answer(record: Record, item: ItemScore) -> Answer:
    run = f"{record.task}, seed {record.seed}" if record.task else ""
    score = None if item.score is None else round(100 * item.score, 1)
    return Answer(
        record.method, record.method_title, run, score, item.state, _clip(item.completion), _clip(item.reason)
    )


def _within(lists: Sequence[Sequence[Sample]], largest: int) -> list[Sample]:
    """As many of the first samples of each list as fit."""
    sizes = [[_size(sample) for sample in samples] for samples in lists]
    depth, total = 0, 0
    while depth < max(map(len, lists), default=0):
        total += sum(of_list[depth] for of_list in sizes if depth < len(of_list))
        if total > largest:
            break
        depth += 1
    return [sample for samples in lists for sample in samples[:depth]]


def _size(sample: Sample) -> int:
    """Bytes as JSON."""
    return len(json.dumps(asdict(sample), ensure_ascii=False, separators=(",", ":")).encode()) + 1


def _shuffle(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _clip(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text) - LONGEST} more characters)"
