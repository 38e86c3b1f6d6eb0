"""Runs on quantised backbones: they are unpacked once, and all that follows is as on the bfloat16 checkpoint."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from esft_bench.harness.backbone import unpack
from esft_bench.harness.backbone.packing import packing
from esft_bench.harness.backbone.unpack import size_of
from esft_bench.harness.commands import unpacking
from esft_bench.harness.commands.export.folder import export
from esft_bench.harness.commands.machines import Machines
from esft_bench.harness.commands.options import ExportOptions
from esft_bench.harness.commands.prepare import Prepared
from esft_bench.harness.commands.unpacking import unpacked
from esft_bench.harness.commands.where import where
from esft_bench.harness.schedule import manifest_of
from esft_bench.harness.steps.step import Job, Parallelism
from esft_bench.harness.store import soundness
from esft_bench.harness.terminal import Terminal
from esft_bench.methods.atomic import write_tensors
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import made_folder
from tests.harness.executors import Beside
from tests.harness.quantised_runs import ALONE, CONFIGS, made_in, planned, quantised, run
from tests.methods.helpers import logits


@contextmanager
def here(*_: Any) -> Iterator[Machines]:
    """No machines: steps are run by this process."""
    yield Machines(Parallelism(), lambda judges, batches: Beside())


def unpacked_in(folder: Path) -> Path:
    """The folder of the one artifact that holds the unpacked backbone."""
    (manifest,) = (folder / "runs" / ".store" / "unpacked").glob("*/manifest.json")
    return manifest.parent


def is_done(made: Prepared) -> bool:
    """Whether nothing is left to do."""
    graph = made.plan.graph(made.store)
    return graph.finished == set(graph.steps)


@pytest.mark.slow
@pytest.mark.parametrize("method", CONFIGS)
def test_a_run_on_a_quantised_backbone_ends_where_one_on_its_bfloat16_checkpoint_does(
    tmp_path: Path, method: str
) -> None:
    packed, plain = quantised(tmp_path, method)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    said = run(ours, packed)
    assert f"ships in {method.upper()}: a run first unpacks it to bfloat16, once for all runs, into" in said
    run(theirs, plain)
    assert made_in(ours) == made_in(theirs)
    assert len(made_in(ours)) == 6
    report = (ours / "runs" / "tried" / "report.md").read_text()
    assert f"The backbone ships in {method.upper()} and was unpacked to bfloat16" in report

    way = [place.path for place in where(ours / "runs" / "tried", "esft-token", "mini-law")]
    assert way.index(unpacked_in(ours) / "checkpoint") + 1 == way.index(unpacked_in(ours))
    assert packed in way

    before = unpacked_in(ours).stat().st_mtime_ns
    assert "unpacking" not in run(ours, packed)
    assert unpacked_in(ours).stat().st_mtime_ns == before
    assert is_done(planned(ours, packed, weights=False))
    assert is_done(planned(ours, unpacked_in(ours) / "checkpoint"))  # which anybody may name as their backbone

    list(export(ExportOptions(run=ours / "runs" / "tried", to=tmp_path / "out", method="esft-token")))
    list(export(ExportOptions(run=theirs / "runs" / "tried", to=tmp_path / "expected", method="esft-token")))
    model, expected = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32) for name in ("out", "expected")
    )
    assert torch.equal(logits(model), logits(expected))
    start = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    assert not torch.allclose(logits(model), logits(start))


def test_a_plan_says_what_unpacking_takes_and_unpacks_nothing(tmp_path: Path) -> None:
    packed, _ = quantised(tmp_path, "mxfp4")
    made = planned(tmp_path, packed, weights=False)
    (note,) = [note for note in made.notes if "MXFP4" in note]
    kind = packing(packed)
    assert kind
    size = size_of(packed, kind)
    assert size
    assert f"into {made.store.root / 'unpacked'} ({size[0] / 2**30:.1f} GiB; " in note
    assert not (made.store.root / "unpacked").exists()


@pytest.mark.parametrize(("method", "times"), [("fp8", 2), ("mxfp4", 64 / 17)])
def test_before_its_weights_are_fetched_the_index_says_what_unpacking_takes_at_most(
    tmp_path: Path, method: str, times: float
) -> None:
    packed, _ = quantised(tmp_path, method)
    kind = packing(packed)
    assert kind
    exact = size_of(packed, kind)
    held = sum(tensor.nbytes for path in packed.glob("*.safetensors") for tensor in load_file(path).values())
    for path in packed.glob("*.safetensors"):
        path.unlink()
    assert any("a size that is known when" in note for note in planned(tmp_path, packed, weights=False).notes)
    index = packed / "model.safetensors.index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"metadata": {"total_size": held}}))
    most = size_of(packed, kind)
    assert most == (int(held * times), False)
    assert exact
    assert exact[0] <= most[0]
    assert any("(at most 0.0 GiB; " in note for note in planned(tmp_path, packed, weights=False).notes)


def test_an_unpacked_backbone_that_was_damaged_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its files are too large to be read whenever a run looks at its store."""
    monkeypatch.setattr(soundness, "SMALL", 0)
    packed, _ = quantised(tmp_path, "fp8")
    said = Terminal(file=io.StringIO())
    made = unpacked(planned(tmp_path, packed), ALONE, said)
    weights = made.plan.backbone.path / "model.safetensors"
    whole = weights.read_bytes()
    assert planned(tmp_path, packed).plan.backbone == made.plan.backbone
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again = planned(tmp_path, packed)
    assert again.plan.unpacking
    assert again.plan.unpacking.artifact is None
    assert "model.safetensors is not what was written; it is made again" in again.store.news[0]
    assert unpacked(again, ALONE, said).plan.backbone == made.plan.backbone
    assert weights.read_bytes() == whole


def test_an_unpacking_that_was_stopped_is_gone_on_from_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, _ = quantised(tmp_path, "fp8")
    monkeypatch.setattr(unpack, "FILE_BYTES", 100_000)
    monkeypatch.setattr(unpacking, "machines", here)
    written: list[Path] = []

    def write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write_tensors(path, tensors)

    monkeypatch.setattr(unpack, "write_tensors", write)
    made, said = planned(tmp_path, packed), Terminal(file=io.StringIO())
    with pytest.raises(KeyboardInterrupt):
        unpacked(made, ALONE, said)
    again = planned(tmp_path, packed).plan.unpacking
    assert again
    assert again.artifact is None
    times = [path.stat().st_mtime_ns for path in written]
    monkeypatch.setattr(unpack, "write_tensors", write_tensors)
    folder = unpacked(planned(tmp_path, packed), ALONE, said).plan.backbone.path
    assert [(folder / path.name).stat().st_mtime_ns for path in written] == times
    assert list((made.store.root / "unpacked").iterdir()) == [folder.parent]
    assert not list((made.store.root / ".work").iterdir())


def test_another_run_of_the_store_waits_for_what_one_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = quantised(tmp_path, "fp8")
    made, said = planned(tmp_path, packed), io.StringIO()
    other = planned(tmp_path, packed)
    step = other.plan.unpacking.step  # type: ignore[union-attr]
    lease = other.store.claim(step.kind, step.key({}))
    assert lease

    class Elsewhere(Beside):
        def wait(self) -> Any:  # meanwhile it is done by the other one
            if other.store.find(step.kind, step.key({})) is None:
                job = Job(
                    {}, made_folder(other.store.begin(step.kind, step.key({}))), other.store.scratch(step.key({}))
                )
                other.store.finish(job.out, manifest_of(step, step.key({}), {}, step.run(job)))
                lease.release()
            return super().wait()

        def start(self, step: Any, job: Job) -> None:
            raise AssertionError("it is not made twice")

    monkeypatch.setattr(unpacking, "machines", lambda *_: nullcontext(Machines(Parallelism(), lambda *_: Elsewhere())))
    assert unpacked(made, ALONE, Terminal(file=said, width=1000)).plan.unpacking.artifact  # type: ignore[union-attr]


def test_what_cannot_be_unpacked_is_one_sentence(tmp_path: Path) -> None:
    packed, _ = quantised(tmp_path, "fp8")
    made = planned(tmp_path, packed)
    scales = load_file(packed / "model-1.safetensors")
    broken = {name: tensor * torch.inf if name.endswith("_scale_inv") else tensor for name, tensor in scales.items()}
    save_file(broken, packed / "model-1.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="holds what is no finite number: fetch the checkpoint again"):
        unpacked(made, ALONE, Terminal(file=io.StringIO()))


def test_another_quantisation_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    packed, _ = quantised(tmp_path, "fp8")
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(UserError, match=r"backbone\.path: .* is quantised by awq, and .* take the checkpoint"):
        planned(tmp_path, packed)
