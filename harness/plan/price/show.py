"""The price of a plan as tables for the terminal."""

from rich.table import Table
from rich.text import Text

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.plan.price.estimate import (
    ASSUMPTIONS,
    EvaluationPrice,
    TrainingPrice,
    TuningPrice,
    evaluation_prices,
    training_prices,
    tuning_prices,
)
from esft_bench.harness.plan.price.fleet import Fleet, fleet_table
from esft_bench.harness.plan.price.hardware import GIB, MARGIN, UTILISATION, Accelerator
from esft_bench.harness.plan.price.serving import COUNTS as SHARE
from esft_bench.harness.plan.price.serving import serving
from esft_bench.harness.plan.price.sharded import COUNTS, Sharing, held_whole, sharings
from esft_bench.harness.steps.graph import Graph


def price_tables(plan: Plan, graph: Graph, fleet: Fleet, micro_batch: int | None) -> list[Table]:
    """What training and testing will cost; where there are several cards, also what all of them make of it."""
    device = fleet.device
    trainings = training_prices(plan, graph, device, micro_batch)
    tunings = tuning_prices(plan, trainings)
    tuned = [tuning_table(tunings, device)] if plan.searches else []
    together = sharings(plan, graph, device, trainings, micro_batch)
    shared = [sharing_table(together, device)] if together else []
    training = training_table(trainings, device)
    training.caption = f"{training.caption} {whole_sentence(plan)}".strip()
    several = [fleet_table(fleet, trainings, tunings, together)] if fleet.count > 1 else []
    testing = evaluation_table(evaluation_prices(plan))
    testing.caption = f"{testing.caption or ''} {served(plan, device)}".strip() or None
    return [*tuned, training, *shared, *several, testing]


def served(plan: Plan, device: Accelerator) -> str:
    """What serves the models, in a sentence; empty where no server does."""
    if plan.engine.external:
        return f"Served by {', '.join(plan.suite.evaluation.endpoints)}, which others run."
    if plan.suite.evaluation.engine != "vllm":
        return ""
    found = serving(plan, device)
    each = _bytes(found.bytes_each)
    if not found.devices:
        return f"Serving takes more than {SHARE[-1]} {device.name}, which would hold {each} each."
    how = ", as the suite has it" if found.chosen else ""
    over = f", more than {MARGIN:.0%} of its memory" if found.bytes_each > MARGIN * device.memory else ""
    if found.devices == 1:
        return f"Served by one {device.name}{how}: {each} or more{over}."
    return f"Served by {found.devices} {device.name} that share a model (tensor parallelism){how}: {each} each{over}."


def whole_sentence(plan: Plan) -> str:
    """Which rows share no experts out though the suite wants that, and why; empty where all do."""
    told = "; ".join(f"{row}: {why}" for row, why in held_whole(plan).items())
    return f"Trained as without training.expert_parallel: {told}." if told else ""


def sharing_table(sharings: list[Sharing], device: Accelerator) -> Table:
    """How many devices the rows take that one does not hold."""
    columns = ("method", "how", "devices", "memory of each", "time", "sending")
    table = _table(f"Rows that share their model among several {device.name}", *columns)
    for each in sharings:
        how, memory = "experts apart" if each.apart else "FSDP2", Text(_bytes(each.bytes_each))
        if not each.holds:
            memory.append(f" > {device.memory / GIB:.0f} GiB", "red")
        if each.devices:
            sending = _duration(each.sending) if each.apart else "–"
            table.add_row(each.row, how, str(each.devices), memory, _duration(each.seconds), sending)
        else:
            table.add_row(each.row, how, f"more than {COUNTS[-1]}", f"{_bytes(each.bytes_each)} of these", "–", "–")
    table.caption = (
        "FSDP2: with --processes. Experts apart: training.expert_parallel. Time is that of a cell, on all of them. "
        f"Sending is the part of it that tokens are on their way to experts: at {UTILISATION:.0%} of the stated rate "
        "of a node's links (NVLink, else PCIe) and of 200 Gb/s a device between nodes; what FSDP2 sends is taken to go "
        "on beside the work."
    )
    if not all(each.holds for each in sharings):
        table.caption += " Red: more devices must share the experts."
    return table


def tuning_table(prices: list[TuningPrice], device: Accelerator) -> Table:
    """What the searches for each row's values cost, and all of them together."""
    table = _table(f"Tuning on one {device.name}", "method", "searches", "trials", "steps", "operations", "time")
    for price in prices:
        told = (price.operations, price.seconds)
        operations, seconds = ("?", "?") if None in told else (_prefixed(told[0] or 0), _duration(told[1] or 0))
        table.add_row(price.row, str(price.searches), str(price.trials), str(price.steps), operations, seconds)
    table.add_section()
    table.add_row(
        "all",
        str(sum(price.searches for price in prices)),
        str(sum(price.searches * price.trials for price in prices)),
        str(sum(price.searches * price.steps for price in prices)),
        _prefixed(sum(price.operations or 0 for price in prices)),
        _duration(sum(price.seconds or 0 for price in prices)),
    )
    table.caption = (
        "Trials and steps are those of one search, operations and time those of all. At most: see docs/suites.md."
    )
    return table


def training_table(prices: list[TrainingPrice], device: Accelerator) -> Table:
    """What a cell of each row costs to train, and all of them together."""
    table = _table(
        f"Training a cell on one {device.name}", "method", "cells", "operations", "time", "looks", "memory", "disk"
    )
    for price in prices:
        if price.why_not:
            table.add_row(price.row, str(price.cells), f"no estimate: {price.why_not}")
            continue
        fits = price.peak_bytes <= MARGIN * device.memory
        memory = Text(_bytes(price.peak_bytes))
        if not fits:
            memory.append(f" > {device.memory / GIB:.0f} GiB", "red")
        table.add_row(
            price.row,
            str(price.cells),
            _prefixed(price.operations),
            _duration(price.seconds),
            _duration(price.looks) if price.looks else "–",
            memory,
            _bytes(price.adapter_bytes),
        )
    table.add_section()
    table.add_row(
        "all",
        str(sum(price.cells for price in prices)),
        _prefixed(sum(price.cells * price.operations for price in prices)),
        _duration(sum(price.cells * price.seconds for price in prices)),
        _duration(looks) if (looks := sum(price.cells * price.looks for price in prices)) else "–",
        "",
        _bytes(sum(price.cells * price.adapter_bytes for price in prices)),
    )
    if any(price.peak_bytes > MARGIN * device.memory for price in prices):
        table.caption = (
            "Red: more than one such device holds; see below how many do. A smaller --micro-batch, "
            "training.gradient_checkpointing, a lower precision, several processes or, for every row alike, "
            "training.optimizer adamw-bf16-stochastic (8 bytes for each trained parameter in place of 16) help.\n"
        )
    if looks:
        table.caption = (table.caption or "") + "Looks: the part of the time in which a training is looked at.\n"
    table.caption = (table.caption or "") + f"Assumed: {ASSUMPTIONS}."
    return table


def evaluation_table(prices: list[EvaluationPrice]) -> Table:
    """What each benchmark costs to generate and to judge in one cell, and in all of them together."""
    table = _table("Testing a cell", "benchmark", "cells", "items", "tokens, at most", "judge calls", "dollars")
    for price in prices:
        table.add_row(
            price.benchmark,
            str(price.cells),
            f"{price.items:,}",
            f"{price.generated:,}" if price.generated else "–",
            f"{price.judge_calls:,}" if price.judge_calls else "–",
            _money(price.dollars) if price.judge_calls else "–",
        )
    unknown = any(price.dollars is None for price in prices)
    table.add_section()
    table.add_row(
        "all",
        "",
        f"{sum(price.cells * price.items for price in prices):,}",
        f"{sum(price.cells * price.generated for price in prices):,}",
        f"{sum(price.cells * price.judge_calls for price in prices):,}",
        "?" if unknown else _money(sum(price.cells * (price.dollars or 0) for price in prices)),
    )
    if unknown:
        table.caption = "?: the judge's price is not known; give judge.price in the suite."
    return table


def _bytes(count: float) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / 2**20:,.1f} MiB"


def _prefixed(operations: float) -> str:
    """Floating-point operations with a prefix: 1.2 PFLOP."""
    scale = [(1e21, "Z"), (1e18, "E"), (1e15, "P")]
    unit, prefix = next((found for found in scale if operations >= found[0]), (1e12, "T"))
    return f"{operations / unit:,.3g} {prefix}FLOP"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _money(dollars: float | None) -> str:
    return "?" if dollars is None else f"${dollars:,.2f}"


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=None, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
