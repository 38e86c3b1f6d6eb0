"""Looking at a plan, for which no weights are read, shows what runs have done."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.text import Text

from esft_bench.harness.commands.noted import noted, plain_table
from esft_bench.harness.commands.options import PriceOptions, SuiteOptions
from esft_bench.harness.commands.plan import deviations, prices
from esft_bench.harness.commands.prepare import prepare
from esft_bench.harness.plan.price import show
from esft_bench.harness.plan.state import state_of
from esft_bench.harness.store.artifacts import Store
from esft_bench.harness.terminal import Terminal
from esft_bench.reports import power
from esft_bench.reports.statistics.detectable import Deviations
from esft_bench.tasks.mini import BACKBONE
from tests.harness.plans import finish, graph_of, prepared
from tests.harness.test_plan import ROWS


def test_looking_at_a_plan_shows_what_a_run_has_done_also_where_the_weights_are_gone(tmp_path):
    backbone = shutil.copytree(BACKBONE, tmp_path / "backbone")
    text = ROWS + f"backbone: {{path: {backbone}}}\n"
    made = prepared(tmp_path, text)
    base, fft = made.plan.cells[:2]
    finish(made, made.plan.paths[base].training)
    finish(made, made.plan.paths[fft].training)

    def seen():
        look = prepare(SuiteOptions(str(tmp_path / "suite.yaml"), run_dir=tmp_path / "runs"), weights=False)
        return [state_of(look.plan.paths[cell], graph_of(look)) for cell in look.plan.cells[:3]]

    assert seen() == ["trained", "trained", "to do"]
    weights = backbone / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + b"\1\2\3\4")
    assert seen() == ["to do", "to do", "to do"]
    weights.unlink()
    assert seen() == ["trained", "trained", "to do"]
    (backbone / "config.json").write_text((backbone / "config.json").read_text() + "\n")
    assert seen() == ["to do", "to do", "to do"]


def test_how_much_a_run_varied_is_read_off_its_items_once_for_each_state_of_its_results(tmp_path, monkeypatch):
    looked: list[Path] = []
    seen = {"law": Deviations(1.5, 1 / 3, 0.1)}

    def look(folder):
        looked.append(folder)
        return seen

    monkeypatch.setattr(power, "deviations_in", look)
    folder = tmp_path / "run"
    made: Any = SimpleNamespace(folder=folder, store=Store(tmp_path / "store"))
    assert deviations(made) == {}
    folder.mkdir()
    for text, times in (("a", 1), ("a longer one", 2)):
        (folder / "results.jsonl").write_text(text)
        assert [deviations(made), deviations(made)] == [seen, seen]
        assert looked == [folder] * times


def drawn(tables):
    told = io.StringIO()
    for table in tables:
        Terminal(file=told, width=60, force_terminal=True).print(table)
    return told.getvalue()


def made(rows):
    table = plain_table("Title [bold]")
    table.add_column("method")
    table.add_column("memory", justify="right")
    for number in range(rows):
        memory = Text("1 GiB")
        memory.append(" > 80 GiB", "red")
        table.add_row(f"[red]row {number}", memory, end_section=not number)
    table.caption = "A caption."
    return [table]


def test_tables_that_were_noted_are_shown_as_they_were_made(tmp_path):
    store = Store(tmp_path)
    first = drawn(noted(store, {"rows": 2}, lambda: made(2)))
    assert first == drawn(made(2)) == drawn(noted(Store(tmp_path), {"rows": 2}, list))
    assert "[red]row 1" in first
    assert drawn(noted(store, {"rows": 3}, lambda: made(3))) == drawn(made(3)) != first


def test_a_damaged_note_of_tables_is_not_believed(tmp_path):
    noted(Store(tmp_path), {"rows": 2}, lambda: made(2))
    (note,) = (tmp_path / ".tables").iterdir()
    note.write_text(note.read_text().replace("80 GiB", "90 GiB"))
    assert drawn(noted(Store(tmp_path), {"rows": 2}, lambda: made(2))) == drawn(made(2))


def test_a_plan_is_priced_once_for_each_of_its_states(tmp_path, monkeypatch):
    asked: list[int | None] = []

    def price_tables(plan, graph, fleet, micro_batch):
        asked.append(micro_batch)
        return made(1)

    monkeypatch.setattr(show, "price_tables", price_tables)
    plan = prepared(tmp_path, ROWS)
    for options in (PriceOptions(), PriceOptions(), PriceOptions(micro_batch=1), PriceOptions(gpus=2)):
        prices(plan, graph_of(plan), options)
    assert asked == [None, 1, None]
    finish(plan, next(iter(plan.plan.profiles.values())))
    prices(plan, graph_of(plan), PriceOptions())
    assert len(asked) == 4  # with what is known of the profile now
