"""Parts of a suite: what `--quick` keeps, and what `--only` leaves to compute."""

import difflib

from esft_bench.spec.errors import UserError
from esft_bench.spec.suite import Suite


def quick_slice(suite: Suite) -> Suite:
    """What the suite's `quick` section keeps, under a name of its own; nothing is asked twice."""
    if suite.quick is None:
        raise UserError(f"Suite '{suite.name}' has no `quick` section: leave out --quick, or choose with --only.")
    methods = {name: row for name, row in suite.methods.items() if name in suite.quick.methods}
    limit = min(filter(None, (suite.evaluation.limit, suite.quick.limit)), default=None)
    once = suite.evaluation.model_copy(update={"repeats": None, "limit": limit})
    kept = {"tasks": suite.quick.tasks, "methods": methods, "evaluation": once}
    return suite.model_copy(update={"name": f"{suite.name}-quick", **kept})


def selection(suite: Suite, only: str | None) -> dict[str, set[str]]:
    """Read `method=a,method=b,task=c,rate=1`: rows, tasks and points of their curves; what is not named keeps all.

    Points are multiples of a row's learning rate or steps, written as a suite's `curve` has them. Raises UserError
    naming what the suite does not have, or where nothing is named.
    """
    rates = {f"{rate:g}" for rate in suite.curve.points}
    known = {"method": set(suite.methods), "task": set(suite.tasks), "rate": rates}
    chosen: dict[str, set[str]] = {kind: set() for kind in known}
    kind = ""
    for part in [] if only is None else only.split(","):
        left, equals, right = part.partition("=")
        kind, name = (left.strip(), right.strip()) if equals else (kind, part.strip())
        if kind not in known or not name:
            raise UserError(f"--only {only}: write method=NAME, task=NAME or rate=NUMBER, several with commas between.")
        if name not in known[kind]:
            near = difflib.get_close_matches(name, known[kind], n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(sorted(known[kind]))}."
            raise UserError(f"--only {kind}={name}: suite '{suite.name}' has no such {kind}; {hint}")
        chosen[kind].add(name)
    return {kind: names or known[kind] for kind, names in chosen.items()}
