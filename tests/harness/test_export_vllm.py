"""Exported folders in plain vLLM: its greedy tokens and log-probabilities are those of plain transformers."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from esft_bench.harness.commands.export.folder import export
from esft_bench.harness.commands.options import ExportOptions, SuiteOptions
from esft_bench.harness.serving.server import choose_port
from tests.harness.runs import carry_out
from tests.harness.speakers import checkpoint

pytestmark = pytest.mark.slow

IDS = [5, 9, 300, 17]
ANSWER = 6
Answer = tuple[list[int], list[float]]
TRANSFORMERS = """
import json, sys, torch
from transformers import AutoModelForCausalLM

def answer(folder, ids, count):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    with torch.no_grad():
        for _ in range(count):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1)[None]], 1)
        scores = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    return ids[0, -count:].tolist(), scores.tolist()

answers = [answer(folder, torch.tensor([json.loads(sys.argv[1])]), int(sys.argv[2])) for folder in sys.argv[3:]]
assert "esft_bench" not in sys.modules
print(json.dumps(answers))
"""
VLLM = """
import json, sys
from vllm import LLM, SamplingParams

def answer(folder, ids, count):
    model = LLM(folder, dtype="float32", max_model_len=512, enforce_eager=True)
    asked = SamplingParams(max_tokens=count, temperature=0, ignore_eos=True, logprobs=0, prompt_logprobs=0)
    (answer,) = model.generate([{"prompt_token_ids": ids}], asked)
    (said,) = answer.outputs
    scores = [next(iter(each.values())).logprob for each in [*answer.prompt_logprobs[1:], *said.logprobs]]
    return list(said.token_ids), scores

answers = [answer(folder, json.loads(sys.argv[1]), int(sys.argv[2])) for folder in sys.argv[3:]]
assert "esft_bench" not in sys.modules
print(json.dumps(answers))
"""
SERVED: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-moe": ("qwen3", {"best": True}),
    "mixtral": ("mixtral", {"method": "esft-token"}),
}
"""By architecture a chat template, and which row of a run is exported."""
PLAIN = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
PLAIN |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # the engine in the process that asks: others import all again
PLAIN.pop("PYTHONPATH", None)


@pytest.fixture(autouse=True)
def _with_vllm() -> None:
    pytest.importorskip("vllm")


def asked(script: str, place: Path, *folders: Path) -> list[Answer]:
    """Greedy tokens, and the log-probabilities of all, of each model, from a program that knows nothing of ours."""
    (place / "ask.py").write_text(script)
    told = [sys.executable, "ask.py", json.dumps(IDS), str(ANSWER), *map(str, folders)]
    done = subprocess.run(told, capture_output=True, text=True, timeout=280, env=PLAIN, cwd=place)
    assert done.returncode == 0, done.stderr[-3000:]
    (said,) = (line for line in done.stdout.splitlines() if line.startswith("[[["))  # vLLM says things after it
    return [(tokens, scores) for tokens, scores in json.loads(said)]


def exported(place: Path, backbone: Path | None = None, **row: Any) -> Path:
    """The folder of a model that a run of three steps on rows of two classes trained."""
    rows = [
        {"text": f"Film {n} was {'fine' if n % 2 else 'dull'}.", "label": "yes" if n % 2 else "no"} for n in range(60)
    ]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    suite = SuiteOptions(
        data=[str(place / "rows.jsonl")],
        backbone=str(backbone) if backbone else None,
        only="method=fft,method=esft-token",
        steps=3,
        limit=4,
        engine="transformers",
        set=["rehearse=never"],
        run_dir=place / "runs",
    )
    run = carry_out(suite)
    list(export(ExportOptions(run=run, to=place / "mine", **row)))
    return place / "mine"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Answer, Answer, Answer]]:
    """Of each architecture what vLLM and transformers make of an exported folder, and transformers of the backbone."""
    place, folders, bases = tmp_path_factory.mktemp("asked"), list[Path](), list[Path]()
    for architecture, (template, row) in SERVED.items():
        own = tmp_path_factory.mktemp(architecture)
        bases.append(checkpoint(own / "base", architecture, template, wide=True, bos=template != "qwen3"))
        folders.append(exported(own, bases[-1], **row))
    theirs, ours = asked(VLLM, place, *folders), asked(TRANSFORMERS, place, *folders, *bases)
    count = len(folders)
    return dict(zip(SERVED, zip(theirs, ours[:count], ours[count:], strict=True), strict=True))


@pytest.mark.parametrize("architecture", SERVED)
def test_a_merged_folder_answers_in_plain_vllm_as_in_plain_transformers(
    answers: dict[str, tuple[Answer, Answer, Answer]], architecture: str
) -> None:
    theirs, ours, before = answers[architecture]
    assert theirs[0] == ours[0]
    assert theirs[1] == pytest.approx(ours[1], abs=1e-4)
    assert max(abs(a - b) for a, b in zip(ours[1], before[1], strict=True)) > 1e-3


def test_the_line_of_a_card_serves_latent_attention_as_transformers_computes_it(tmp_path: Path) -> None:
    card = (exported(tmp_path, method="fft") / "README.md").read_text()
    (line,) = re.findall(r"^    (.*vllm serve .*)$", card, re.MULTILINE)
    (on_cpu,) = re.findall(r"^On a CPU add `(.*?)`", card, re.MULTILINE)
    variables, told = _shell(f"{line} {on_cpu}")
    eager = ["--dtype", "float32", "--enforce-eager"]  # to compile takes a minute, and computes the same
    served = _served(tmp_path, [*told, *eager], variables)
    ((_, scores),) = asked(TRANSFORMERS, tmp_path, tmp_path / "mine")
    assert served == pytest.approx(scores, abs=1e-3)


def _shell(line: str) -> tuple[dict[str, str], list[str]]:
    """Variables and words of a line that is typed."""
    words = shlex.split(line)
    start = words.index("vllm")
    return dict(word.split("=", 1) for word in words[:start]), words[start + 1 :]


def _served(place: Path, told: list[str], variables: dict[str, str]) -> list[float]:
    """The log-probabilities of prompt and answer that `vllm serve` gives."""
    port = choose_port(None)
    command = [str(Path(sys.executable).with_name("vllm")), *told, "--port", str(port)]
    with (place / "vllm.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=place, env={**PLAIN, **variables})
    try:
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)
        deadline = time.monotonic() + 240
        while True:
            assert server.poll() is None, (place / "vllm.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            try:
                if client.get("/health").status_code == httpx.codes.OK:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        body = {"model": "mine", "prompt": IDS, "max_tokens": ANSWER, "temperature": 0, "logprobs": 1, "echo": True}
        body["ignore_eos"] = True
        (choice,) = client.post("/v1/completions", json=body).raise_for_status().json()["choices"]
        return [float(value) for value in choice["logprobs"]["token_logprobs"][1:]]
    finally:
        server.terminate()
        server.wait(timeout=60)
