"""One self-contained page: no network, light and dark, sortable, printable, and readable without its script.

The page's policy (a Content-Security-Policy in its head) allows one script and one style sheet, by their hashes, and
nothing from anywhere. Everything that a run brought along is text: Jinja escapes it, samples travel as JSON and are
shown by `textContent`, figures are cleaned.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from esft_bench.reports import calibration
from esft_bench.reports.advice import TaskAdvice
from esft_bench.reports.content import Content, Part
from esft_bench.reports.figures import Gallery
from esft_bench.reports.glance import glance
from esft_bench.reports.html.grids import Grid, beside_grid, cost_entry, gap_entry, glance_grid, grid, score_entry, slug
from esft_bench.reports.html.svg import inline
from esft_bench.reports.markdown import ADVICE, BESIDE, HOW_TO_READ, flat, what_was_compared
from esft_bench.reports.samples import KINDS, Sample, as_json
from esft_bench.reports.spent import spent
from esft_bench.reports.words import amount, number, plain
from esft_bench.spec.results import JSONL, write_text

REPORT = "report.html"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Chapter:
    """What the page says of one backbone."""

    backbone: str
    suffix: str
    in_short: Sequence[str]
    compared: str
    glance: Grid
    advice: Sequence[TaskAdvice]
    tables: Sequence[Grid]
    beside: Sequence[Grid]
    costs: Sequence[Grid]
    samples: Sequence[Sample]


def write_html(content: Content, gallery: Gallery | None = None, *, out: Path | None = None) -> Path:
    """Write `report.html` into the run folder (or to `out`), beside and renamed; returns its path."""
    path = out or content.folder / REPORT
    write_text(path, render(content, gallery))
    return path


def render(content: Content, gallery: Gallery | None = None) -> str:
    """Return the page, with the figures that were drawn. The same run gives the same bytes."""
    chapters = [_chapter(part, content, len(content.parts) > 1) for part in content.parts]
    samples = [sample for chapter in chapters for sample in chapter.samples]
    records = [record for part in content.parts for record in part.scores.records]
    drawn = gallery.drawn if gallery else []
    figures = [(figure, inline(figure.svg.read_text("utf-8"), figure.name, figure.title)) for figure in drawn]
    return fill(
        "report.html.jinja",
        title=str(content.suite.get("name") or content.folder.name),
        content=content,
        chapters=chapters,
        figures=[(figure, svg) for figure, svg in figures if svg is not None],
        spent=[plain(told) for told in spent(records, content.manifest)],
        calibration=calibration.sentences(content.folder),
        about_advice=ADVICE,
        about_beside=BESIDE,
        missing=gallery.missing if gallery else [],
        samples=Markup(as_json(samples)),  # noqa: S704 - as_json leaves nothing that HTML could read
        sample_count=len(samples),
        kinds=KINDS,
        records=records,
        updated=_updated(content.folder) if content.at_work else "",
        facts={key: plain(flat(content.manifest[key])) for key in FACTS if content.manifest.get(key)},
        reading=[_reading(sentence) for sentence in HOW_TO_READ],
    )


FACTS = {"git": "Code", "versions": "Versions", "hardware": "Machine", "seeds": "Seeds", "started": "Started"}
FACTS |= {"finished": "Finished", "states": "Cells"}


def fill(template: str, **values: Any) -> str:
    """Fill a template of this package, with the page's style, script and policy."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    ours = {"style": Markup(style), "script": Markup(script)}  # noqa: S704 - files of this package
    return _environment().get_template(template).render(policy=policy, facts_titles=FACTS, **ours, **values)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "amount": amount, "plain": plain, "rich": rich, "slug": slug}
    return environment


@cache
def _asset(name: str) -> str:
    return (HERE / name).read_text("utf-8")


def _hash(text: str) -> str:
    """A source's hash as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _updated(folder: Path) -> str:
    """When the results were last written, for a run at work."""
    path = folder / JSONL
    if not path.is_file():
        return ""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def rich(text: str) -> Markup:
    """A sentence as reports write it: ** around what is bold, escaped as `words.line` does."""
    parts = [Markup.escape(plain(part)) for part in re.split(r"(?<!\\)\*\*", text)]
    return Markup("").join(Markup("<strong>{}</strong>").format(one) if k % 2 else one for k, one in enumerate(parts))


def _reading(sentence: str) -> Markup:
    """A sentence on how to read, in this page's own marks."""
    return Markup(re.sub(r"\*(.+?)\*", r"<em>\1</em>", rich(sentence.replace("*Italics*", "Underlined"))))  # noqa: S704


def _chapter(part: Part, content: Content, several: bool) -> Chapter:
    suffix = f" ({part.backbone})" if several else ""
    views = [(table, score_entry) for table in part.views]
    written = [(part.ability, score_entry), (part.general, score_entry), (part.ablation, gap_entry), *views]
    costs = [(part.efficiency, "What training cost"), (part.judging, "What judging cost")]
    return Chapter(
        part.backbone,
        suffix,
        [plain(sentence) for sentence in part.in_short],
        plain(what_was_compared(part.scores, content.suite, part.backbone).rpartition("\n\n")[2]),
        glance_grid(glance(part.scores, part.ability, part.general, part.efficiency), suffix),
        [one for one in (part.advice.overall, *part.advice.tasks) if one is not None],
        [grid(table, f"{table.title}{suffix}", write) for table, write in written if table.rows and table.columns],
        [beside_grid(table, suffix) for table in part.beside],
        [grid(table, f"{title}{suffix}", cost_entry) for table, title in costs if table is not None],
        part.samples,
    )
