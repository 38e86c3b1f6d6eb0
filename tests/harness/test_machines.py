"""Where a run is carried out, and the sentences that refuse it before anything is computed."""

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.harness.commands import machines
from esft_bench.harness.commands.options import RunOptions
from esft_bench.harness.plan.price import needs
from esft_bench.harness.plan.price.estimate import TrainingPrice
from esft_bench.harness.plan.price.hardware import GIB
from esft_bench.harness.plan.price.sharded import Sharing
from esft_bench.harness.steps.step import Resources
from esft_bench.spec.errors import UserError
from tests.harness.plans import graph_of, prepared
from tests.harness.runs import SUITE

pytest.importorskip("ray")

from esft_bench.harness.execute.cluster import checks
from esft_bench.harness.execute.cluster.room import Need, Node, Room, counts_of, machines_for


@pytest.fixture
def machine(monkeypatch):
    """`machine(gpus, ray)`: what is chosen on a machine with so many GPUs, with Ray or without."""

    def chosen(gpus: int, ray: bool, **options):
        monkeypatch.setattr(machines, "_gpus", lambda: gpus)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if ray else None)
        return machines._chosen(RunOptions(**options))

    return chosen


@pytest.mark.parametrize(
    ("gpus", "ray", "options", "where"),
    [
        (0, True, {}, "local"),
        (1, True, {}, "local"),
        (8, True, {}, "here"),
        (8, True, {"on": "local"}, "local"),
        (8, True, {"workers": 4}, "local"),
        (8, False, {"processes": 8}, "local"),
        (8, True, {"processes": 8}, "here"),
        (0, True, {"on": "ray"}, "ray"),
        (8, True, {"on": "ray://host:10001"}, "ray://host:10001"),
    ],
)
def test_several_gpus_are_all_used_without_being_asked_and_one_machine_is_left_as_it_is(
    machine, gpus, ray, options, where
):
    assert machine(gpus, ray, **options) == (where, [])


def test_several_gpus_without_ray_are_one_gpu_and_one_sentence(machine):
    where, (note,) = machine(8, False)
    assert where == "local"
    assert note == "One of 8 GPUs is used; to use all of them: pip install 'esft-bench[cluster]'."


@pytest.mark.parametrize(
    ("ray", "options", "why"),
    [
        (False, {"on": "ray"}, "Ray is not installed here"),
        (True, {"on": "slurm"}, "give local, ray, or ray://HOST:PORT"),
        (True, {"on": "ray", "workers": 2}, "--workers is for one machine"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(machine, ray, options, why):
    with pytest.raises(UserError, match=why):
        machine(1, ray, **options)


def test_a_run_begins_without_ray_and_before_torch_is_there():
    """The process that children are forked from begins its imports first; one machine never needs Ray."""
    modules = "esft_bench.harness.commands.run, esft_bench.harness.commands.prepare"
    program = f"import sys, {modules}; sys.exit(bool({{'ray', 'torch', 'transformers'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_no_other_folder_knows_ray():
    harness = Path(machines.__file__).resolve().parents[1]
    users = {path.parent.name for path in harness.rglob("*.py") if "import ray" in path.read_text("utf-8")}
    assert users == {"cluster"}


NODE = Node("id", "worker-3", 8, 1)


@pytest.fixture
def good():
    """What a node with this very environment says."""
    found = {name: importlib.metadata.version(name) for name in ("ray", "esft-bench", "torch")}
    return checks.Seen(found | {"Python": platform.python_version()}, checks.our_source())


def ask(monkeypatch, tmp_path, seen):
    """Check a node that says this, and that writes nothing."""
    monkeypatch.setattr(checks, "_ask", lambda nodes, told: {node.id: seen for node in nodes})
    checks.check_nodes([NODE], tmp_path / "store", [], ["torch"])


@pytest.mark.parametrize(
    ("name", "version", "why"),
    [
        ("ray", "2.50.0", "Node worker-3 has ray 2.50.0, this machine 2.60"),
        ("Python", "3.10.1", "Node worker-3 has Python 3.10.1"),
        ("torch", "", "Node worker-3 has no torch"),
        ("esft-bench", "0.1.0", "Node worker-3 has esft-bench 0.1.0"),
    ],
)
def test_a_node_with_another_environment_is_named(monkeypatch, tmp_path, good, name, version, why):
    with pytest.raises(UserError, match=why):
        ask(monkeypatch, tmp_path, replace(good, versions=good.versions | {name: version}))


def test_a_node_without_our_environment_or_with_another_source_is_named(monkeypatch, tmp_path, good):
    with pytest.raises(UserError, match="Node worker-3 has no esft-bench: install"):
        ask(monkeypatch, tmp_path, replace(good, versions=good.versions | {"esft-bench": ""}, source=""))
    with pytest.raises(UserError, match="Node worker-3 has another source of esft-bench"):
        ask(monkeypatch, tmp_path, replace(good, source="another"))


def test_a_node_that_does_not_see_the_store_or_the_backbone_is_named(monkeypatch, tmp_path, good):
    with pytest.raises(UserError, match=f"Node worker-3 does not see the files of {tmp_path}: give a --run-dir"):
        ask(monkeypatch, tmp_path, good)
    with pytest.raises(UserError, match="Node worker-3 does not see /models/moe"):
        ask(monkeypatch, tmp_path, replace(good, missing=["/models/moe"]))
    assert not list((tmp_path / "store" / ".work" / "nodes").iterdir())


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """`rows(sizes)`: the GPUs that rows of 60, 200 and 500 GiB take of nodes with so many cards of 80 GiB each."""
    made = prepared(tmp_path, SUITE.replace("ENGINE", "transformers"))
    sizes = {"FFT": 500, "ESFT-Token": 60, "Random": 200}
    prices = [TrainingPrice(row, 1, peak_bytes=size * GIB) for row, size in sizes.items()]
    shared = [Sharing("FFT", 7, 70 * GIB, 1.0), Sharing("Random", 3, 70 * GIB, 1.0)]
    monkeypatch.setattr(needs, "training_prices", lambda *_: prices)
    monkeypatch.setattr(needs, "sharings", lambda *_: shared)
    cards = [("H200-141GB", 141 * GIB), ("H100-80GB", 80 * GIB)]
    return lambda *sizes: needs.gpus_of_rows(made.plan, graph_of(made), cards, counts_of(sizes), None)


def test_a_row_takes_as_many_gpus_as_hold_it(rows):
    assert rows(8) == {"fft": 7, "esft-token": 1, "random-token": 3}


def test_a_row_that_the_cluster_cannot_hold_is_refused_with_the_most_it_can_give(rows):
    with pytest.raises(UserError, match=r"methods\.fft: a training needs 500 GiB, and 4 × H100-80GB with 80 GiB"):
        rows(4)
    with pytest.raises(UserError, match=r"and 6 × H100-80GB with 80 GiB, as many as the cluster can give one training"):
        rows(3, 3)
    assert rows(4, 4)["fft"] == 7


node_sizes = st.lists(st.integers(0, 8), max_size=6)


@given(st.integers(1, 40), node_sizes)
def test_devices_come_in_equal_parts_of_the_fewest_machines(count, sizes):
    def has(machines: int) -> bool:
        able = [size for size in sizes if size >= count // machines]
        return count % machines == 0 and len(able) >= machines

    assert machines_for(count, sizes) == next((each for each in range(1, len(sizes) + 1) if has(each)), 0)


@given(node_sizes)
def test_each_number_of_devices_that_may_share_a_model_can_be_had(sizes):
    counts = counts_of(sizes)
    assert all(machines_for(count, sizes) for count in counts)
    assert set(range(2, max(sizes, default=0) + 1)) <= set(counts)
    assert counts_of([8, 8, 8]) == [2, 3, 4, 5, 6, 7, 8, 16, 24]
    assert counts_of([8, 4, 4]) == [2, 3, 4, 5, 6, 7, 8, 12]


def test_a_training_that_no_node_has_room_for_takes_parts_of_several_and_an_engine_does_not():
    room = Room([Node(str(number), "", 16, 8) for number in range(3)])
    need = room.need(Resources("process", gpus=16))
    assert (need, need.each) == (Need(16, 16, 2), Need(8, 8))
    assert room.need(Resources("engine", gpus=16)).machines == 1
    assert room.has(need)
    room.take(need)
    assert not room.has(need)
    room.look([Node("left", "", 16, 8)])
    assert not room.could_have(need)
    assert not room.has(room.need(Resources("process", gpus=16)))


needed = st.tuples(st.integers(0, 3), st.booleans())


@given(st.lists(needed), st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4)), min_size=1, max_size=4))
def test_no_more_is_taken_than_there_is_and_all_of_it_is_free_again(asked, sizes):
    nodes = [Node(str(number), "", cores, gpus) for number, (cores, gpus) in enumerate(sizes)]
    room, taken = Room(nodes), list[Need]()
    for gpus, ends in asked:
        need = room.need(Resources("process", gpus=gpus))
        if room.has(need):
            room.take(need)
            taken.append(need)
        elif ends and taken:
            assert room.has_without(taken[0], taken[:1])
            room.give_back(taken.pop(0))
        assert sum(each.cores for each in taken) <= sum(node.cores for node in nodes)
        assert sum(each.gpus for each in taken) <= sum(node.gpus for node in nodes)
    for each in taken:
        room.give_back(each)
    whole = Need(sum(node.cores for node in nodes), sum(node.gpus for node in nodes))
    assert room.has(whole)
    assert not room.has(replace(whole, cores=whole.cores + 1))
