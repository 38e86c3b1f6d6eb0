"""The averages that the two papers print, recomputed from their columns as each paper weighs them. Needs no files."""

from esft_bench.harness.official.verify import Row, Verdict
from esft_bench.reports.tables.published_values import PublishedTable, published

PAPERS = ("esft", "das")
WEIGHED = {"tasks": "columns alike", "items": "by items", "unknown": "weights not told; columns alike"}


def check_averages() -> list[Row]:
    """A row for each published table with averages: `ok` where all of them follow from the columns."""
    return [_row(paper, table) for paper in PAPERS for table in published(paper).tables if table.averages]


def _row(paper: str, table: PublishedTable) -> Row:
    wrong = table.misprinted()
    row = next(iter(table.averages))
    told = f"{row} {table.averages[row]:.{table.digits}f}, {len(table.averages)} rows"
    right = len(table.averages) - len(wrong)
    found = f"{table.mean(row):.{table.digits}f}, {right} right, {WEIGHED[table.average]}"
    backbone = table.backbone if paper == "das" else ""  # of the other there is only one
    name = f"{table.title.partition('.')[0]}{f', {backbone}' if backbone else ''}"
    verdict: Verdict = "info" if table.average == "unknown" else "differs" if wrong else "ok"
    return Row(f"Averages that the {paper.upper()} paper prints, from its columns", name, told, found, verdict)
