"""report.md: the whole comparison as text.

The same records and manifest give the same bytes: resampling is seeded and no clock is read. What differs from one
run to the next of the same command (time, memory, when it ran) stands in the sections on efficiency and on which method
to take only, and in the figures that show it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from esft_bench.reports.backbone_report import BackboneReport
from esft_bench.reports.content import Content
from esft_bench.reports.figures.canvas import Gallery
from esft_bench.reports.formatting import number
from esft_bench.reports.markdown.text import (
    bullets,
    code,
    escaped,
    indented,
    section,
    sentence,
    table_blocks,
    table_section,
)
from esft_bench.reports.prose.reading import ADVICE, BESIDE, JUDGE, how_to_read
from esft_bench.reports.samples import Answer, Sample

SAMPLES = (
    "For each task the item on which the rows differ most, with what every row answered. report.html has more, the "
    "worst and the best among them; items/ has all."
)


def render(content: Content, gallery: Gallery | None = None) -> str:
    """Return the report as Markdown; figures are linked relative to the run folder."""
    found = [f"# Report of {code(content.manifest.command)}"]
    for backbone in content.backbones:
        description = content.manifest.suite.description
        found += [escaped(description, 500)] if description else []
        found += [escaped(backbone.compared, 2000)]
    for tell in (_advice, _scores, _beside):
        found += [text for backbone in content.backbones for text in tell(backbone)]
    if content.backbones:
        found += [
            "## How to read the tables",
            bullets(map(sentence, how_to_read("Italics", content.manifest.suite.same_within))),
        ]
    else:
        found.append("Nothing has been evaluated yet.")
    found += _figures(gallery, content.folder) if gallery else []
    for backbone in content.backbones:
        found += _samples(backbone)
    found += _efficiency(content) + _repeat(content)
    found += section(JUDGE, content.judging)
    found += [text for table in content.debiased for text in table_section(table, 3)]
    found += section("Notes", content.manifest.notes)
    found += section("Left out", content.left_out)
    return "\n\n".join(found) + "\n"


def _scores(backbone: BackboneReport) -> list[str]:
    """Summary and score tables of one backbone."""
    short = bullets(escaped(text, 2000) for text in backbone.in_short)
    views = [*backbone.curve_views(), *backbone.score_views()]
    tables = [text for table in views for text in table_section(table)]
    without = [escaped(backbone.without_curves, 1000)] if backbone.without_curves else []
    return [f"## In short{escaped(backbone.suffix)}", short, *without, *tables]


def _beside(backbone: BackboneReport) -> list[str]:
    """The paper's values beside ours."""
    tables = [text for table in backbone.beside_views() for text in table_section(table, 3)]
    return [f"## Beside the paper{escaped(backbone.suffix)}", escaped(BESIDE, 1000), *tables] if tables else []


def _advice(backbone: BackboneReport) -> list[str]:
    """Which method for which task, in plain words."""
    told = [
        f"**{escaped(one.title)}.** {' '.join(sentence(each) for each in one.sentences)}" for one in backbone.advised
    ]
    told += [sentence(backbone.hour)] if backbone.hour else []
    title = f"## Which method for this task?{escaped(backbone.suffix)}"
    return [title, bullets(told), escaped(ADVICE, 1000)] if told else []


def _figures(gallery: Gallery, folder: Path) -> list[str]:
    """Links to the figures, each with its caption and data, and why the others are not there."""
    found = ["## Figures"] if gallery.drawn or gallery.missing else []
    for drawn in gallery.drawn:
        svg, data = (Path(os.path.relpath(path, folder)).as_posix() for path in (drawn.svg, drawn.csv))
        found += [f"### {escaped(drawn.title)}", f"![{escaped(drawn.title)}]({svg})"]
        found += [f"{escaped(drawn.caption, 1000)} Data: [{drawn.csv.name}]({data})."]
    if gallery.missing:
        found += ["Not drawn:", bullets(f"{escaped(one.title)}: {escaped(one.why)}." for one in gallery.missing)]
    return found


def _samples(backbone: BackboneReport) -> list[str]:
    """For each task the item on which the rows differ most, quoted, with what every row answered."""
    telling: dict[str, Sample] = {}
    for sample in backbone.samples:
        if sample.role == "ability" and "divided" in sample.kinds:
            telling.setdefault(sample.benchmark, sample)
    found = [f"## Samples of answers{escaped(backbone.suffix)}", escaped(SAMPLES, 1000)] if telling else []
    for sample in telling.values():
        asked = [f"> Asked: {code(sample.prompt, 200)}", ">", f"> Wanted: {code(sample.wanted, 200)}", ">"]
        answers = [f"> - {_answer(one)}" for one in sample.answers]
        found += [f"### {escaped(sample.title)}, item {escaped(sample.id)}", "\n".join([*asked, *answers])]
    return found


def _answer(one: Answer) -> str:
    points = one.state if one.score is None else f"score {number(one.score)}"
    reason = f" ({escaped(one.reason, 160)})" if one.reason else ""
    return f"{escaped(one.title)}, {points}: {code(one.completion, 200)}{reason}"


def _efficiency(content: Content) -> list[str]:
    """The costs, and all else that differs when the same command runs again."""
    found = []
    for backbone in content.backbones:
        for table in backbone.cost_views():
            named = f"{backbone.backbone}: {table.caption}" if backbone.suffix else table.caption
            found += [escaped(named, 1000), *table_blocks(table)]
    found += [escaped(" ".join(content.spent), 1000)] if content.spent else []
    known = _facts(content, ("started", "finished", "states", "hardware"))
    found += ["This run:", known] if known else []
    return ["## Efficiency", *found] if found else []


def _repeat(content: Content) -> list[str]:
    """Everything needed to run it again."""
    known = _facts(content, ("git", "versions", "seeds"))
    return ["## How to repeat", indented(content.manifest.command), *([known] if known else [])]


def _facts(content: Content, keys: Sequence[str]) -> str:
    """What the manifest says under some keys, a line each."""
    return bullets(f"{key}: {escaped(content.facts[key], 1000)}" for key in keys if key in content.facts)
