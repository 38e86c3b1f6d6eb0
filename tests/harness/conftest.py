"""Random checkpoints with the shipped backbone's layout, their canaries, one vLLM server, and a server that judges."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from esft_bench.harness.judge import Judge, make_judge
from esft_bench.harness.merging import Merger, Model
from esft_bench.harness.serving.canary import Canary, measure
from esft_bench.harness.serving.engines import VllmEngine
from esft_bench.harness.serving.server import Settings
from esft_bench.harness.store.names import ADAPTER
from esft_bench.spec.judge import JudgeSettings
from tests.harness.judge_server import KEY, MakeJudge, Server, running

BACKBONE = Path(__file__).parents[2] / "tasks" / "mini" / "backbone"


def untrained(folder: Path) -> Model:
    """A checkpoint as it is, to be served."""
    return Model(folder, (), folder.parent / f"{folder.name}.scratch")


@dataclass(frozen=True)
class Checkpoint:
    """A model that a run trained: its checkpoint, its canary, and its training's folder; the first is the backbone."""

    folder: Path
    canary: Canary
    model: Model


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """Three models of one layout and random weights, as merged cells of a run would be."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(BACKBONE)
    prompts = [
        tokenizer(text).input_ids for text in ("User: What is the capital of Zuna?\n\nAssistant: Reville", "a b c")
    ]
    made: list[Checkpoint] = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp(f"checkpoint-{seed}")
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BACKBONE)).eval()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (trained := folder / "trained").mkdir()
        shutil.copytree(folder, trained / ADAPTER, ignore=shutil.ignore_patterns("trained"))
        Merger(method="fft", hyperparameters={}).save(trained)
        served = Model(made[0].folder, (trained,), folder / "scratch") if made else untrained(folder)
        made.append(Checkpoint(folder, measure(model, prompts), served))
    return made


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    pytest.importorskip("vllm")
    engine = VllmEngine(tmp_path_factory.mktemp("server"), Settings(max_length=512))
    yield engine
    engine.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as state:
        yield state


@pytest.fixture
def judge(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeJudge:
    """Makes a judge that asks the server, quick to give up; its key is in the environment."""
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def make(account: str = "", **changes: Any) -> Judge:
        given = {"kind": "openai", "model": "the-judge", "key_env": "JUDGE_KEY", "base_url": server.url}
        quick = {"retries": 0, "backoff": 0.01, "poll": 0.02, "concurrency": 1, "cache": tmp_path / "j.sqlite"}
        return make_judge(JudgeSettings.model_validate(given | quick | changes), account)

    return make
