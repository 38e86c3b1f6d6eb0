"""report.md: the whole comparison as text, from results and manifest alone.

The same records and manifest give the same bytes: resampling is seeded and no clock is read. What differs from one
run to the next of the same command (time, memory, when it ran) stands in the sections on efficiency and on which method
to take only, and in the figures that show it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from esft_bench.reports import calibration, figures
from esft_bench.reports.content import Content, Part, gather
from esft_bench.reports.paper import Beside
from esft_bench.reports.samples import Answer, Sample
from esft_bench.reports.scores import Scores
from esft_bench.reports.spent import spent
from esft_bench.reports.summary import resolution
from esft_bench.reports.tables import Cell, Table
from esft_bench.reports.words import (
    JUDGED,
    MISSING,
    REFERENCE,
    SHORT,
    cost,
    difference,
    header,
    line,
    listing,
    number,
    pipe_table,
    quoted,
    score,
)
from esft_bench.spec.results import write_text

REPORT = "report.md"


def write_report(run_folder: Path, *, out: Path | None = None, draw: bool = True) -> Path:
    """Write `report.md` into `run_folder` (or to `out`) from its results and manifest, and return its path.

    May be called at any time, also while the run goes on: what is missing is marked as missing. Unreadable records
    and a missing manifest are named in the report and stop nothing. Figures are drawn into `figures/` of the run
    folder unless `draw` is off, as it is while a run goes on.
    """
    content, path = gather(run_folder), out or run_folder / REPORT
    gallery = figures.gallery(content) if draw else None
    write_text(path, render(content, gallery, path.parent))
    return path


def report(run_folder: Path) -> str:
    """Return the text of the report, without figures."""
    return render(gather(run_folder))


def render(content: Content, gallery: figures.Gallery | None = None, beside: Path | None = None) -> str:
    """Return the report as markdown; figures are linked relative to `beside`, the run folder unless given."""
    several = len(content.parts) > 1
    blocks = [f"# Report of `{content.command}`"]
    blocks += [what_was_compared(part.scores, content.suite, part.backbone) for part in content.parts]
    for part in content.parts:
        blocks += _sections(part, f" ({line(part.backbone)})" if several else "")
    for part in content.parts:
        blocks += _advice(part, f" ({line(part.backbone)})" if several else "")
        blocks += _beside(part, f" ({line(part.backbone)})" if several else "")
    if content.parts:
        blocks += ["## How to read the tables", "\n".join(f"- {sentence}" for sentence in HOW_TO_READ)]
    else:
        blocks.append("Nothing has been evaluated yet.")
    blocks += _figures(gallery, beside or content.folder)
    for part in content.parts:
        blocks += _samples(part, f" ({line(part.backbone)})" if several else "")
    blocks += _efficiency(content)
    blocks += _repeat(content)
    blocks += bullets("How the judge compares with the paper's", calibration.sentences(content.folder))
    blocks += bullets("Notes", content.notes)
    blocks += bullets("Left out", content.left_out)
    return "\n\n".join(blocks) + "\n"


HOW_TO_READ = (
    "**Bold**: the highest of its column, or not distinguishable from it (paired test on the same items, p > 0.05"
    " after Holm's correction over all pairs of rows in the column). *Italics*: the highest of the others. In "
    "Table 3 bold means that the difference is resolved (Holm's correction over the table).",
    "Brackets are 95% intervals of the paired difference: a bootstrap over items where there is one training run;"
    " where there are several, items and runs both count as drawn by chance. With one training run the intervals "
    "and the bold know nothing of how much a method varies from one training run to the next.",
    "± in Table 2 is half the width of the 95% t-interval over training runs: tasks and seeds differ between "
    "them, items do not.",
    "An interval stands for itself alone: one that leaves out 0 may belong to a difference that is not resolved "
    "once all comparisons of a table are counted.",
    "*Resolvable difference*: the true difference between two rows that this column's test finds with 80% "
    "probability, given how much the scores seen here vary (median over pairs of rows, Holm's first step).",
    f"{SHORT}: fewer than 95% of the items could be scored. The share is given; the value is neither bold nor "
    "compared. An item that could not be scored counts as missing, never as 0.",
    "–: no value; the letter says why.",
)
"""Sentences that every form of the report ends with; ** and * mark bold and the second best."""


BESIDE = (
    "Ours minus the published value. Resolved: the published value lies outside our 95% interval (over items and, "
    "where there are several, training runs; Table 2 over training runs); where the paper gives an interval of its "
    "own, beyond both together. Each line stands by itself: nothing is corrected for their number. Averages are means "
    "of the columns."
)
SAMPLES = (
    "For each task the item on which the rows differ most, with what every row answered. report.html has more, the "
    "worst and the best among them; items/ has all."
)
ADVICE = (
    "From this run's numbers alone. Methods are equal here where the test of Table 1 cannot tell them apart; general "
    "ability is that of the cells trained on the task in question, paired with the base model's. What was not "
    "compared, other backbones and other data among it, may turn out otherwise."
)


def _sections(part: Part, suffix: str) -> list[str]:
    """Summary and the three score tables of one backbone."""
    parts = [f"## In short{suffix}", "\n".join(f"- {text}" for text in part.in_short)]
    views = [(table, score) for table in part.views]
    for table, write in ((part.ability, score), (part.general, score), (part.ablation, difference), *views):
        if table.rows and table.columns:
            parts += [f"## {table.title}{suffix}", table.caption, *table_blocks(table, write)]
            parts += [text for text in [resolution(table)] if text]
    return parts


def _beside(part: Part, suffix: str) -> list[str]:
    """The paper's values beside ours."""
    blocks = [f"## Beside the paper{suffix}", BESIDE] if part.beside else []
    head = ["", "column", "published", "ours", "95% interval", "difference", "resolved"]
    for table in part.beside:
        body = [_published(cell, table.digits) for cell in table.cells]
        blocks += [f"### {line(table.title)} ({line(table.source)})", pipe_table(head, body)]
        blocks += ["\n".join(f"- {line(note)}" for note in table.notes)] if table.notes else []
    return blocks


def _published(cell: Beside, digits: int) -> list[str]:
    """A line of such a table."""
    width = f" ± {number(cell.half_width, digits=digits)}" if cell.half_width is not None else ""
    known = cell.low is not None and cell.high is not None
    why = f" ({line(cell.why)})" if cell.why else ""
    return [
        line(cell.row),
        line(cell.column),
        number(cell.published, digits=digits) + width,
        MISSING if cell.ours is None else number(cell.ours),
        f"{number(cell.low or 0.0)} to {number(cell.high or 0.0)}" if known else MISSING,
        MISSING if cell.difference is None else number(cell.difference, signed=True),
        {True: "yes", False: "no", None: MISSING}[cell.resolved] + why,
    ]


def _advice(part: Part, suffix: str) -> list[str]:
    """Which method for which task, in plain words."""
    advice = part.advice
    told = [one for one in [advice.overall, *advice.tasks] if one is not None]
    if not told:
        return []
    lines = "\n".join(f"- **{line(one.title)}.** {' '.join(one.sentences)}" for one in told)
    return [f"## Which method for this task?{suffix}", ADVICE, lines]


def table_blocks(table: Table, write: Callable[[Cell], str]) -> list[str]:
    """A table and its footnotes."""
    letters: dict[str, str] = {}
    body = []
    for row in table.rows:
        cells = [table.cell(row, column) for column in table.columns]
        body.append([line(row.title), *(write(cell) + footmark(cell.note, letters) for cell in cells)])
    if any(value == value for value in table.resolvable.values()):
        deltas = [table.resolvable.get(column.name, float("nan")) for column in table.columns]
        body.append(["resolvable difference", *(number(delta) if delta == delta else "" for delta in deltas)])
    heads = [header(column) for column in table.columns]
    judged = [column for column in table.columns if column.judge]
    if judged and not table.columns[-1].name:
        heads[-1] += f" {REFERENCE if any(column.by_reference for column in judged) else JUDGED}"
    notes = [f"({letter}) {line(note)}" for note, letter in letters.items()]
    return [
        pipe_table(["", *heads], body),
        *["\n".join(f"- {note}" for note in group) for group in [notes + judges(table)] if group],
    ]


def footmark(note: str, letters: dict[str, str]) -> str:
    """` (a)` for a note, the same letter for the same note; nothing without one."""
    if not note:
        return ""
    count = len(letters)
    letter = chr(ord("a") + count % 26) * (count // 26 + 1)
    return f" ({letters.setdefault(note, letter)})"


def judges(table: Table) -> list[str]:
    """What the judge marks and the metrics of the columns mean."""
    notes = []
    references = sorted({column.judge for column in table.columns if column.by_reference})
    others = sorted({column.judge for column in table.columns if column.judge and not column.by_reference})
    if references:
        what = (
            "closeness to a reference answer by a formula; nobody, neither a person nor a model, judged these answers"
        )
        notes.append(f"{REFERENCE} {line(listing(references))}: {what}.")
    if others:
        notes.append(f"{JUDGED} judged by {line(listing(others))}, a model.")
    for column in table.columns:
        if column.mixed:
            notes.append(f"{line(column.title)}: rows were judged by different judges, so they are not compared.")
    plain: dict[str, list[str]] = {}
    for column in table.columns:
        if column.metric and not column.judge and column.name != column.metric:
            plain.setdefault(column.metric, []).append(line(column.title))
    if plain:
        notes.append(
            "Metrics: " + "; ".join(f"{line(metric)} ({', '.join(names)})" for metric, names in plain.items()) + "."
        )
    return notes


def what_was_compared(scores: Scores, suite: Mapping[str, Any], backbone: str) -> str:
    """One paragraph: suite, rows, tasks, seeds, items, engine, judges."""
    ability, general = scores.columns("ability"), scores.columns("general")
    items = sorted({record.n for record in scores.records if record.role == "ability" and record.n})
    name = line(str(suite.get("name") or (scores.records[0].suite if scores.records else "")))
    judges = sorted({column.judge for column in [*ability, *general] if column.judge})
    span = f"{items[0]}" if len(items) == 1 else f"{items[0]}–{items[-1]}" if items else "no"
    description = line(str(suite.get("description") or ""), 500)
    trained_on = listing([line(column.title) for column in ability]) or "none yet"
    sentences = [
        f"Suite {name}, backbone {line(backbone)}: {listing([line(row.title) for row in scores.rows])}",
        f"on {len(scores.tasks)} task(s) ({trained_on}; {span} items each)",
        f"and {len(general)} general benchmark(s), seed(s) {listing([str(seed) for seed in scores.seeds]) or 'none'}.",
        f"Answers were generated by {listing([line(engine) for engine in scores.engines]) or 'nothing yet'}.",
    ]
    if judges:
        sentences.append(f"Free-text answers were scored by {listing([line(judge) for judge in judges])}.")
    return (f"{description}\n\n" if description else "") + " ".join(sentences)


def _figures(gallery: figures.Gallery | None, beside: Path) -> list[str]:
    """Links to the figures, each with its caption and data, and why the others are not there."""
    if gallery is None:
        return []
    parts = ["## Figures"] if gallery.drawn or gallery.missing else []
    for drawn in gallery.drawn:
        svg, data = (Path(os.path.relpath(path, beside)).as_posix() for path in (drawn.svg, drawn.csv))
        parts += [f"### {line(drawn.title)}", f"![{line(drawn.title)}]({svg})"]
        parts += [f"{line(drawn.caption, 1000)} Data: [{drawn.csv.name}]({data})."]
    if gallery.missing:
        reasons = "\n".join(f"- {line(one.title)}: {line(one.why)}." for one in gallery.missing)
        parts += ["Not drawn:", reasons]
    return parts


def _samples(part: Part, suffix: str) -> list[str]:
    """For each task the item on which the rows differ most, quoted, with what every row answered."""
    telling: dict[str, Sample] = {}
    for sample in part.samples:
        if sample.role == "ability" and "divided" in sample.kinds:
            telling.setdefault(sample.benchmark, sample)
    blocks = [f"## Samples of answers{suffix}", SAMPLES] if telling else []
    for sample in telling.values():
        asked = [f"> Asked: {quoted(sample.prompt)}", ">", f"> Wanted: {quoted(sample.wanted)}", ">"]
        answers = [
            f"> - {line(one.title)}, {_points(one)}: {quoted(one.completion)}{_reason(one)}" for one in sample.answers
        ]
        blocks += [f"### {line(sample.title)}, item {line(sample.id)}", "\n".join([*asked, *answers])]
    return blocks


def _points(answer: Answer) -> str:
    return answer.state if answer.score is None else f"score {number(answer.score)}"


def _reason(answer: Answer) -> str:
    return f" ({line(answer.reason, 160)})" if answer.reason else ""


def _efficiency(content: Content) -> list[str]:
    """The costs, and all else that differs when the same command runs again."""
    parts = ["## Efficiency"]
    for part in content.parts:
        caption = part.efficiency.caption
        parts += [f"{line(part.backbone)}: {caption}" if len(content.parts) > 1 else caption]
        parts += table_blocks(part.efficiency, cost)
        if part.judging is not None:
            parts += [part.judging.caption, *table_blocks(part.judging, cost)]
    told = spent([record for part in content.parts for record in part.scores.records], content.manifest)
    parts += [" ".join(told)] if told else []
    known = _facts(content.manifest, "started", "finished", "states", "hardware")
    parts += ["This run:", known] if known else []
    return parts if len(parts) > 1 else []


def _repeat(content: Content) -> list[str]:
    """Everything needed to run it again."""
    known = _facts(content.manifest, "git", "versions", "seeds")
    return ["## How to repeat", f"    {content.command}", *([known] if known else [])]


def _facts(manifest: Mapping[str, Any], *keys: str) -> str:
    """What the manifest has under some keys, a line each."""
    return "\n".join(f"- {key}: {flat(manifest[key])}" for key in keys if manifest.get(key))


def bullets(title: str, sentences: Sequence[str]) -> list[str]:
    """A section of sentences; nothing without one."""
    return [f"## {title}", "\n".join(f"- {line(text, 1000)}" for text in sentences)] if sentences else []


def flat(value: Any) -> str:
    """A value of the manifest in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{line(str(key))} {flat(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(flat(inner) for inner in value) or "none"
    return line(str(value))
