"""The figures of a run, in the order of the report."""

from collections.abc import Sequence
from dataclasses import replace

from esft_bench.reports.backbone_report import BackboneReport
from esft_bench.reports.content import Content
from esft_bench.reports.figures import costs, experts, gain_curve, sweep, trade, training, tuning
from esft_bench.reports.figures.canvas import Gallery, Missing, Picture, draw
from esft_bench.spec import curves, routing

FOLDER = "figures"


def gallery(run: Content) -> Gallery:
    """Draw the figures of a run that was read. Files of an earlier drawing are replaced or removed.

    The same data give the same bytes.
    """
    folder = run.folder / FOLDER
    known, points = routing.read(run.folder), curves.read(run.folder)
    found: list[Picture | Missing] = []
    for k, report in enumerate(run.backbones):
        pictures = _of_a_backbone(report, known if k == 0 else None, points if k == 0 else [])
        found += [_named(one, report, k + 1) if isinstance(one, Picture) else one for one in pictures]
    drawn = [draw(one, folder) for one in found if isinstance(one, Picture)]
    kept = {path for one in drawn for path in (one.svg, one.csv)}
    for path in [*folder.glob("*.svg"), *folder.glob("*.csv")]:
        if path not in kept:
            path.unlink()
    return Gallery(drawn, [one for one in found if isinstance(one, Missing)])


def _of_a_backbone(
    report: BackboneReport, known: routing.Routing | None, points: Sequence[curves.Point]
) -> list[Picture | Missing]:
    """In the order of a report: the outcome first, then costs, sweeps, experts, training."""
    results = report.results
    ablations = frozenset(row.name for row in results.rows if row.ablates)
    return [
        gain_curve.gain_curve(report),
        trade.pareto(report),
        costs.costs(results, report.backbone),
        *sweep.swept(report, known),
        experts.concentration(known),
        experts.overlap(known),
        *experts.selected(known, ablations),
        experts.by_layer(known, ablations),
        *experts.shift(known, training.consistency(points)),
        training.advantage(results, points, known),
        *training.learning_curves(results, points),
        tuning.tuning_curves(results, report.trials),
    ]


def _named(picture: Picture, report: BackboneReport, number: int) -> Picture:
    """Figures of a run on several backbones carry their number and its name."""
    if not report.suffix:
        return picture
    return replace(picture, name=f"{picture.name}-backbone-{number}", title=picture.title + report.suffix)
