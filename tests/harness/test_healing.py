"""A finished run, damaged in many ways at once: the next run says a line for each, and reports what it reported."""

import io
import shutil
from itertools import cycle
from pathlib import Path

import pytest

from esft_bench.harness.commands.options import RunOptions
from esft_bench.harness.commands.run import execute
from esft_bench.harness.terminal import Terminal
from tests.harness import damages
from tests.harness.damages import TO_A_FILE, TO_A_FOLDER
from tests.harness.plans import prepared

SUITE = """\
name: path
tasks: [mini-law, mini-summary]
general: [mini-facts]
alignment: mini-alignment
methods:
  base: {title: Base}
  fft: {title: FFT, learning_rate: 9.0e-4}
  esft-token: {title: ESFT-Token, learning_rate: 1.1e-2, p: 0.2}
training: {steps: 4, batch_size: 2, sequence_length: 128}
profiling: {sequences: 2, sequence_length: 128}
evaluation: {engine: transformers, max_length: 256, limit: 2}
"""
COSTS = ("Which method for this task?", "Efficiency")


def run(folder: Path) -> list[str]:
    """Run the suite; no cell fails. Returns what was said to be damaged."""
    said = io.StringIO()
    failures = execute(
        prepared(folder, SUITE), RunOptions(workers=2), Terminal(file=said, width=1000), "esft-bench run"
    )
    assert failures == {}, said.getvalue()
    return [line for line in said.getvalue().splitlines() if line.startswith("Damaged:")]


def told(folder: Path) -> tuple[str, dict[str, str]]:
    """The report, but for what no two runs share, and the records of scores."""
    report = (folder / "runs" / "path" / "report.md").read_text()
    for title in COSTS:
        before, _, after = report.partition(f"## {title}")
        report = before + after.partition("\n## ")[2]
    items = {path.name: path.read_text() for path in (folder / "runs" / "path" / "items").iterdir()}
    return report.replace(str(folder), "FOLDER"), items


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert run(folder) == []
    assert run(folder) == []
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run: its folder, its store and its run folder."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    return tmp_path, tmp_path / "runs" / ".store", tmp_path / "runs" / "path"


def artifacts(store: Path, *kinds: str) -> list[Path]:
    return sorted(path for kind in kinds for path in (store / kind).iterdir())


def healed(finished: Path, folder: Path, damaged: int) -> None:
    """A line for each damage, the same report, and nothing left to be said."""
    said = run(folder)
    assert len(said) == damaged, "\n".join(said)
    assert told(folder) == told(finished)
    assert run(folder) == []


@pytest.mark.slow
def test_every_artifact_of_a_run_with_a_flipped_bit_is_made_again(finished, copied):
    folder, store, _ = copied
    damaged = artifacts(store, "profile", "train", "answers", "verdicts")
    assert len(damaged) == 23
    for artifact in damaged:
        damages.flipped(
            max((path for path in artifact.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        )
    healed(finished, folder, len(damaged))


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("answers", "verdicts"), ("train", "profile")])
def test_artifacts_damaged_in_every_way_are_made_again(finished, copied, kinds):
    folder, store, _ = copied
    files = [(damage, name) for name in ("manifest.json", "") for damage in TO_A_FILE]
    ways = cycle([*((damage, None) for damage in TO_A_FOLDER), *files, (damages.edited_score, "items.jsonl")])
    damaged = artifacts(store, *kinds)
    for artifact, (damage, name) in zip(damaged, ways, strict=False):
        first = next(path for path in sorted(artifact.rglob("*")) if path.is_file() and path.name != "manifest.json")
        damage(artifact if name is None else artifact / name if name else first)
    healed(finished, folder, len(damaged))


@pytest.mark.slow
def test_scores_that_another_hand_changed_and_artifacts_under_each_others_keys_are_made_again(finished, copied):
    folder, store, _ = copied
    answers = artifacts(store, "answers")
    for one, other in zip(answers[0:6:2], answers[1:6:2], strict=True):
        damages.exchanged(one, other)
    for artifact in (*answers[6:], *artifacts(store, "verdicts")):
        damages.edited_score(artifact / "items.jsonl")
    healed(finished, folder, len(answers) + len(artifacts(store, "verdicts")))


KEPT = [damage for damage in TO_A_FILE if damage is not damages.deleted]
"""Damages that leave something there; what is deleted is made again without a word."""


def damage_each(paths: list[Path], first: int) -> int:
    """Each of some files damaged in another way, `first` in the list of them; returns how many they are."""
    for number, path in enumerate(paths, first):
        KEPT[number % len(KEPT)](path)
    return len(paths)


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 4])
def test_rows_and_notes_that_are_damaged_are_read_and_found_out_again(finished, copied, first):
    folder, store, _ = copied
    noted = list((store / "data" / ".noted").iterdir())
    damage_each([path for path in (store / "data").iterdir() if path.is_file()], first)
    notes = damage_each([*(store / "backbones").iterdir(), *(store / "checked").iterdir()], first)
    assert len(noted) == 4
    healed(finished, folder, len(noted) + notes)
    healed(finished, folder, damage_each(noted, first))


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 3])
def test_what_lies_in_the_run_s_folder_and_is_damaged_is_written_again(finished, copied, first):
    folder, _, own = copied
    kinds = ("results.*", "routing.json", "curves.jsonl", "manifest.json", "report.*", "items/*", "lm_eval/*")
    files = [path for kind in (*kinds, "figures/*") for path in sorted(own.glob(kind))]
    healed(finished, folder, damage_each(files, first))
    healed(
        finished, folder, damage_each([own / f"{name}.json" for name in (".records", ".report", ".manifest")], first)
    )


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 4])
def test_unfinished_trainings_whose_checkpoints_are_damaged_begin_anew(finished, copied, first):
    folder, store, _ = copied
    trainings = [path for path in artifacts(store, "train") if '"steps": 4' in (path / "manifest.json").read_text()]
    left = []
    for artifact in trainings:
        work = store / ".work" / artifact.name
        work.mkdir(parents=True)
        for name in ("checkpoint.json", "spent.json"):
            shutil.copy(next(artifact.rglob("*.safetensors"), artifact / "canary.json"), work / name)
            left.append(work / name)
        shutil.rmtree(artifact)
    healed(finished, folder, damage_each(left, first))


@pytest.mark.slow
def test_a_run_s_folder_of_the_store_that_is_no_folder_makes_way(finished, copied):
    folder, store, own = copied
    for place in (store / "verdicts", store / "rehearsed", store / "backbones", own / "items", own / "figures"):
        if place.exists():
            shutil.rmtree(place)
        place.write_text("a file")
    run(folder)
    assert told(folder) == told(finished)
