"""One row against another, on the same items and, where there are several, in the same training runs."""

from reports.scores import Role, Row, Scores
from reports.statistics import Comparison, compare


def against(scores: Scores, row: Row, other: Row, role: Role, task: str = "") -> Comparison | None:
    """A row minus another, averaged over the columns of a role; None where they share no item in some column.

    With `task`, general ability after training on that task only.
    """
    key = (row.name, other.name, role, task)
    if key not in scores.compared:
        blocks = scores.blocks([row, other], scores.columns(role), role, task)
        differences = [a - b for a, b in zip(blocks[row.name], blocks[other.name], strict=True)]
        scores.compared[key] = compare(differences, shared_runs=role == "general")
    return scores.compared[key]


def own(scores: Scores, row: Row, role: Role) -> Comparison | None:
    """A row's own average with its interval over items, and over runs where there are several."""
    return compare(scores.blocks([row], scores.columns(role), role)[row.name], shared_runs=role == "general")
