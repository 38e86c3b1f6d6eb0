"""Exported folders in plain vLLM: its greedy tokens and log-probabilities are those of plain transformers."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from esft_bench.harness.serving.server import choose_port
from tests.harness.speakers import checkpoint

pytestmark = pytest.mark.slow

IDS = [5, 9, 300, 17]
ANSWER = 6
TRANSFORMERS = """
import json, sys, torch
from transformers import AutoModelForCausalLM
folder, ids, count = sys.argv[1], torch.tensor([json.loads(sys.argv[2])]), int(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
with torch.no_grad():
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1)[None]], 1)
    scores = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
assert "esft_bench" not in sys.modules
print(json.dumps([ids[0, -count:].tolist(), scores.tolist()]))
"""
VLLM = """
import json, sys

def main():
    from vllm import LLM, SamplingParams
    model = LLM(sys.argv[1], dtype="float32", max_model_len=512)
    asked = SamplingParams(max_tokens=int(sys.argv[3]), temperature=0, ignore_eos=True, logprobs=0, prompt_logprobs=0)
    (answer,) = model.generate([{"prompt_token_ids": json.loads(sys.argv[2])}], asked)
    (said,) = answer.outputs
    scores = [next(iter(each.values())).logprob for each in [*answer.prompt_logprobs[1:], *said.logprobs]]
    assert "esft_bench" not in sys.modules
    print(json.dumps([list(said.token_ids), scores]))

if __name__ == "__main__":  # vLLM starts processes that import this file
    main()
"""
PLAIN = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
PLAIN.pop("PYTHONPATH", None)


@pytest.fixture(autouse=True)
def _with_vllm() -> None:
    pytest.importorskip("vllm")


def asked(script: str, folder: Path, place: Path) -> tuple[list[int], list[float]]:
    """Greedy tokens, and the log-probabilities of all tokens, from a program that knows nothing of ours."""
    place.write_text(script)
    told = [sys.executable, str(place), str(folder), json.dumps(IDS), str(ANSWER)]
    done = subprocess.run(told, capture_output=True, text=True, timeout=280, env=PLAIN, cwd=place.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    (said,) = (line for line in done.stdout.splitlines() if line.startswith("[["))  # vLLM says things after it
    tokens, scores = json.loads(said)
    return tokens, scores


def cli(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    told = [sys.executable, "-m", "esft_bench.harness.cli", *arguments]
    done = subprocess.run(told, capture_output=True, text=True, timeout=280, cwd=place)
    assert done.returncode == 0, done.stderr
    return done


def run_on(place: Path, *backbone: str) -> Path:
    """A run of three steps on rows of two classes."""
    rows = [
        {"text": f"Film {n} was {'fine' if n % 2 else 'dull'}.", "label": "yes" if n % 2 else "no"} for n in range(60)
    ]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    few = ["--engine", "transformers", "--steps", "3", "--limit", "4", "--workers", "1"]
    cli(place, "run", "--data", "rows.jsonl", *backbone, *few)
    (run,) = (path for path in (place / "runs").iterdir() if not path.name.startswith("."))
    return run


@pytest.mark.parametrize(
    ("architecture", "template", "row"),
    [("qwen3-moe", "qwen3", ["--best"]), ("mixtral", "mixtral", ["--method", "esft-token"])],
)
def test_a_merged_folder_answers_in_plain_vllm_as_in_plain_transformers(
    tmp_path: Path, architecture: str, template: str, row: list[str]
) -> None:
    base = checkpoint(tmp_path / "base", architecture, template, wide=True, bos=template != "qwen3")
    run = run_on(tmp_path, "--backbone", str(base))
    cli(tmp_path, "export", str(run), *row, "--to", "mine")
    ours = asked(TRANSFORMERS, tmp_path / "mine", tmp_path / "with_transformers.py")
    theirs = asked(VLLM, tmp_path / "mine", tmp_path / "with_vllm.py")
    before = asked(TRANSFORMERS, base, tmp_path / "with_transformers.py")
    assert theirs[0] == ours[0]
    assert theirs[1] == pytest.approx(ours[1], abs=1e-4)
    assert max(abs(a - b) for a, b in zip(ours[1], before[1], strict=True)) > 1e-3


def test_the_line_of_a_card_serves_latent_attention_as_transformers_computes_it(tmp_path: Path) -> None:
    run = run_on(tmp_path)
    cli(tmp_path, "export", str(run), "--method", "fft", "--to", "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    (line,) = re.findall(r"^    (.*vllm serve .*)$", card, re.MULTILINE)
    (on_cpu,) = re.findall(r"^On a CPU add `(.*?)`", card, re.MULTILINE)
    variables, told = _shell(f"{line} {on_cpu}")
    served = _served(tmp_path, [*told, "--dtype", "float32"], variables)
    _, scores = asked(TRANSFORMERS, tmp_path / "mine", tmp_path / "with_transformers.py")
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
