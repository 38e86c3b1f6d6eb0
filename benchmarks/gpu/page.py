"""The measured rows as a page: Markdown, with what `plan` says of the same step beside them."""

import datetime
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.records import ESTIMATES, STEPS, read
from benchmarks.gpu.shapes import SHAPES
from esft_bench.harness.plan.price.hardware import ACCELERATORS, GIB, UTILISATION

SHEET = ACCELERATORS["H100-80GB"].rate
COLUMNS = (
    *(
        "method",
        "parameters trained",
        "rows trained",
        "passes, ms",
        "optimizer, ms",
        "step, ms",
        "to FFT's",
        "tokens/s",
    ),
    *("TFLOP", "of 989 TFLOP/s", "of a product's rate", "peak, GiB", "`plan`: GiB", "`plan`: ms", "host waits"),
)
EXPLANATION = f"""A step is forward, backward and fused AdamW, or the optimizer that is named, on one sequence, loss
on every token; medians. Weights are random, and tokens are sent to experts drawn with the odds that `plan` assumes.
What is trained is float32 while it is, what is frozen bf16, products bf16; where a row says so, all is bf16, as what
is rounded stochastically is. Others are set to FFT's step as training takes it where that fits, else to all in bf16,
else to its passes alone: a lower bound. TFLOP: operations of all products of the method's own forward and backward
pass as `plan` counts them, 2·m·n·k each, attention as if it had no mask, nothing for the optimizer; of FFT that is 6
· active parameters · tokens, and attention. Shares are those operations in the step's time over the data sheet's rate
and over that of a product of two 8192 × 8192 bf16 matrices here. `plan`'s time is at {UTILISATION:.0%} of the data
sheet's rate.
"""
REFERENCES = ("FFT", "FFT, all in bf16", "FFT, all in bf16, passes alone")

Record = Mapping[str, Any]


def page(out: Path) -> str:
    """The page of the records in a folder."""
    records = read(out / STEPS)
    about = {key: value for record in records if "row" not in record for key, value in record.items()}
    estimates = {(record["shape"], record["row"]): record for record in read(out / ESTIMATES)}
    today = datetime.datetime.now(datetime.UTC).date()
    lines = [
        f"# {about.get('device')}: training steps ({today.day} {today:%B %Y})\n",
        f"`python -m benchmarks.gpu`; {about.get('versions')}. A large product runs at "
        f"{about.get('product_rate', 0) / 1e12:,.3g} TFLOP/s.\n",
        EXPLANATION,
    ]
    for name in dict.fromkeys(record["shape"] for record in records if "row" in record):
        rows = [record for record in records if record.get("shape") == name]
        lines += [f"## {SHAPES[name].title}, {SHAPES[name].tokens} tokens\n", *_table(rows, estimates, about)]
    return "\n".join(lines)


def _table(rows: Iterable[Record], estimates: Mapping[tuple[str, str], Record], about: Record) -> list[str]:
    rows = list(rows)
    steps = {row["row"]: _step(row) for row in rows if "passes" in row}
    reference = next((steps[name] for name in REFERENCES if name in steps), None)
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" + "|--:" * (len(COLUMNS) - 1) + "|"]
    for row in rows:
        estimate = estimates.get((row["shape"], row["row"]), {})
        cells = _cells(row, estimate, _operations(row, estimates), reference, float(about.get("product_rate", 0)))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _operations(row: Record, estimates: Mapping[tuple[str, str], Record]) -> float:
    """Those of the same method on our kernel: a peer's name, or that of FFT in bf16, begins with it."""
    names = [name for shape, name in estimates if shape == row["shape"] and row["row"].startswith(name)]
    return float(estimates[row["shape"], max(names, key=len)].get("operations", 0)) if names else 0.0


def _step(row: Record) -> float:
    return float(row["passes"] + (row["optimizer"] or 0.0))


def _cells(row: Record, estimate: Record, operations: float, reference: float | None, rate: float) -> list[str]:
    expected = [
        f"{estimate['peak_bytes'] / GIB:.1f}" if "peak_bytes" in estimate else "–",
        f"{1e3 * operations / (SHEET * UTILISATION):.0f}" if "operations" in estimate else "–",
    ]
    if "why_not" in row:
        return [row["row"], row["why_not"], *["–"] * 10, *expected, "–"]
    step = _step(row)
    shares = [f"{operations / (1e-3 * step * peak):.1%}" if operations and peak else "–" for peak in (SHEET, rate)]
    return [
        row["row"],
        f"{row['trained']:,}",
        f"{row['share']:.1%}" if row["share"] else "–",
        f"{row['passes']:.1f}",
        "–" if row["optimizer"] is None else f"{row['optimizer']:.1f}",
        f"{step:.1f}",
        f"{step / reference:.2f}" if reference else "–",
        f"{1e3 * SHAPES[row['shape']].tokens / step:,.0f}",
        f"{operations / 1e12:.1f}" if operations else "–",
        *shares,
        "–" if row["peak"] is None else f"{row['peak'] / GIB:.1f}",
        *expected,
        "–" if row["synchronisations"] is None else str(row["synchronisations"]),
    ]
