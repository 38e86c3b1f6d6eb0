"""Which search finds a row's values, where a suite is tuned."""

from esft_bench.spec.suite import Suite


def tuned_as(suite: Suite, name: str) -> str | None:
    """The row whose search finds a row's values, itself or one that it ablates or continues; None where none does."""
    if suite.tune is None:
        return None
    row, named = suite.methods[name], suite.tune.rows
    if named is not None and name in named:
        return name
    if follows := row.ablates or row.continues:
        return None if row.learning_rate or row.learning_rates else tuned_as(suite, follows)
    return name if named is None else None
