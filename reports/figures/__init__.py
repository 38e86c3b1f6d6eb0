"""Every figure of both papers that a run has the data for, as SVG with its data as CSV, in the run's folder `figures/`.

ESFT's Figures 2 to 7 and DAS's Figures 1, 3, 4 and 5 keep their numbers in their names; the trade of gain against
forgetting and memory, and the learning curves, are in neither paper. matplotlib is imported when something is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from esft_bench.reports.content import Content, Part, gather
from esft_bench.reports.figures import costs, experts, sweep, trade, training
from esft_bench.reports.figures.canvas import Drawn, Missing, Picture, draw
from esft_bench.spec import curves, routing

FOLDER = "figures"

__all__ = ["FOLDER", "Drawn", "Gallery", "Missing", "draw_all", "gallery"]


@dataclass(frozen=True)
class Gallery:
    """What was drawn, in the order of the report, and what this run has no data for."""

    drawn: list[Drawn]
    missing: list[Missing]


def draw_all(run_folder: Path) -> list[Drawn]:
    """Draw every figure that the run has data for into `run_folder/figures/`; the same data give the same bytes."""
    return gallery(gather(run_folder)).drawn


def gallery(run: Content) -> Gallery:
    """Draw the figures of a run that was read. Files of an earlier drawing are replaced or removed."""
    folder = run.folder / FOLDER
    known, points = routing.read(run.folder), curves.read(run.folder)
    found = [
        (part, outcome)
        for k, part in enumerate(run.parts)
        for outcome in _of_a_backbone(part, known if k == 0 else None, points if k == 0 else [])
    ]
    drawn = [draw(_named(one, part, run.parts), folder) for part, one in found if isinstance(one, Picture)]
    kept = {path for one in drawn for path in (one.svg, one.csv)}
    for path in [*folder.glob("*.svg"), *folder.glob("*.csv")]:
        if path not in kept:
            path.unlink()
    return Gallery(drawn, [outcome for _, outcome in found if isinstance(outcome, Missing)])


def _of_a_backbone(
    part: Part, known: routing.Routing | None, points: Sequence[curves.Point]
) -> list[Picture | Missing]:
    """In the order of a report: the outcome first, then costs, sweeps, experts, training."""
    scores = part.scores
    ablations = frozenset(row.name for row in scores.rows if row.ablates)
    return [
        trade.pareto(part),
        costs.costs(scores),
        *sweep.swept(part),
        experts.concentration(known),
        experts.overlap(known),
        *experts.selected(known, ablations),
        experts.by_layer(known, ablations),
        experts.shift(known),
        training.advantage(scores, points, known),
        *training.learning_curves(scores, points),
    ]


def _named(picture: Picture, part: Part, parts: Sequence[Part]) -> Picture:
    """Figures of a run on several backbones carry their number and its name."""
    if len(parts) < 2:
        return picture
    number = list(parts).index(part) + 1
    return replace(picture, name=f"{picture.name}-backbone-{number}", title=f"{picture.title} ({part.backbone})")
