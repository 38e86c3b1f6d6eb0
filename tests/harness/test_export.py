"""Exported folders: loaded by tools that are not ours, with the trained model's logits, and described by a card."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from esft_bench.harness.commands.export.folder import export
from esft_bench.harness.commands.options import ExportOptions, SuiteOptions
from esft_bench.harness.store.names import ADAPTER
from esft_bench.spec.errors import UserError
from esft_bench.spec.results import read
from tests.harness.runs import SUITE, carry_out

pytestmark = pytest.mark.slow

LOGITS = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

def logits(folder, base, ids):
    model = AutoModelForCausalLM.from_pretrained(base or folder, dtype="float32")
    if base:
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, folder)
    AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].tolist()

found = [logits(*folders, json.loads(sys.argv[1])) for folders in json.loads(sys.argv[2])]
assert "esft_bench" not in sys.modules
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a small suite."""
    folder = tmp_path_factory.mktemp("exported")
    lora = "  lora: {title: LoRA, learning_rate: 1.0e-2, rank: 2, alpha: 4, experts: true}\n  random-token:"
    text = SUITE
    few = {"steps: 60": "steps: 4", "limit: 12": "limit: 2"}
    for old, new in {"ENGINE": "transformers", "  random-token:": lora, **few}.items():
        text = text.replace(old, new)
    (folder / "path.yaml").write_text(text)
    return carry_out(SuiteOptions(str(folder / "path.yaml"), run_dir=folder / "runs"))


def logits(*folders: tuple[Path, str]) -> list[list[float]]:
    """What plain transformers, or peft on a base, make of folders; in a process that knows nothing of ours."""
    told = [(str(folder), base) for folder, base in folders]
    command = [sys.executable, "-I", "-c", LOGITS, json.dumps([5, 9, 300, 17]), json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def exported(run: Path, to: Path, method: str, form: str = "merged") -> Path:
    list(export(ExportOptions(run=run, to=to, method=method, form=form)))
    return to


def test_merged_folders_and_a_peft_adapter_are_loaded_by_others_with_other_logits_than_the_backbones(
    run: Path, tmp_path: Path
) -> None:
    merged = exported(run, tmp_path / "merged", "lora")
    adapter = exported(run, tmp_path / "adapter", "lora", "adapter")
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    both = exported(run, tmp_path / "both", "esft-token", "both")
    ours, theirs, before, of_experts = logits((merged, ""), (adapter, base), (Path(base), ""), (both, ""))
    assert ours == pytest.approx(theirs, abs=2e-4)
    assert max(abs(a - b) for a, b in zip(ours, before, strict=True)) > 1e-2
    assert max(abs(a - b) for a, b in zip(of_experts, before, strict=True)) > 1e-3


def test_an_adapter_of_chosen_experts_keeps_the_official_layout(run: Path, tmp_path: Path) -> None:
    both = exported(run, tmp_path / "both", "esft-token", "both")
    assert "experts" in json.loads((both / "adapter" / "expert_cfg.json").read_text())


def test_what_is_exported_shares_no_file_with_the_backbone_or_the_store(run: Path, tmp_path: Path) -> None:
    both = exported(run, tmp_path / "own", "esft-token", "both")
    assert {path.stat().st_nlink for path in both.rglob("*") if path.is_file()} == {1}
    assert not [path for path in both.rglob("*") if path.is_symlink()]


def test_a_card_tells_the_hub_the_results_and_a_reader_how_it_came_about(run: Path, tmp_path: Path) -> None:
    card = ModelCard.load(exported(run, tmp_path / "my-model", "fft") / "README.md")
    values = {one.dataset_type: one.metric_value for one in card.data.eval_results or []}
    stored = {
        record.benchmark: round(record.value, 2)
        for record in read(run).records
        if record.method == "fft" and record.benchmark and record.value is not None
    }
    assert values == stored
    assert card.data.model_name == "my-model"
    for said in ("fft", "SHA-256", "esft-bench run", "Against the backbone", "95% intervals", "vllm serve my-model"):
        assert said in card.text


def test_a_folder_that_is_there_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="is there already"):
        exported(run, tmp_path / "there", "fft")
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "Say which row"),
        ({"best": True, "method": "fft"}, "Say which row"),
        ({"method": "nobody"}, "has no results of nobody on mini-law"),
        ({"method": "fft", "seed": 7}, "with seed 7; it has: esft-token on mini-law, seed 0"),
        ({"method": "fft", "form": "gguf"}, "--form gguf: it is one of merged, adapter, both"),
        ({"method": "fft", "form": "adapter"}, "no form that other tools read"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    run: Path, tmp_path: Path, options: dict[str, str | int | bool], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        list(export(ExportOptions(run=run, to=tmp_path / "out", **options)))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_damaged_adapter_is_not_exported(run: Path, tmp_path: Path) -> None:
    record = next(one for one in read(run).records if one.method == "random-token" and one.training)
    weights = run.parent / ".store" / record.training / ADAPTER / "adapter_model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-8] + b"damaged!")
        with pytest.raises(UserError, match="run the suite again"):
            exported(run, tmp_path / "out", "random-token")
    finally:
        weights.write_bytes(whole)


def test_nothing_is_pushed_offline_and_the_folder_stays(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the hub did not take it"):
        list(export(ExportOptions(run=run, to=tmp_path / "out", method="fft", push="me/model")))
    assert (tmp_path / "out" / "README.md").is_file()
