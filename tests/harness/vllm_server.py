"""A server that speaks as vLLM does, on a model in memory, and can be made to misbehave."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from esft_bench.harness.serving.engines import TransformersEngine
from esft_bench.harness.serving.server import Settings
from tests.harness.judge_server import at_work

KEY = "sk-a-key-of-others"


@dataclass
class Vllm:
    """The server's state; what is not as vLLM would have it stands first.

    `off` is added to log-probabilities, `loses_swaps` leaves weights as they are and says otherwise, `says` is what it
    answers at a path in place of all else (status and text).
    """

    root: Path
    off: float = 0.0
    loses_swaps: bool = False
    says: dict[str, tuple[int, str]] = field(default_factory=dict)
    key: str = ""
    version: str = "0.32.0+cpu"
    dtype: str = "float32"
    max_length: int = 256
    generation_config: str = "vllm"
    extension: bool = True
    takes_adapters: bool = False
    adapters: dict[str, Path] = field(default_factory=dict)
    differs: list[str] | None = field(default_factory=list)
    mark: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start anew, on what lies in the folder."""
        self.engine = TransformersEngine(Settings(max_length=self.max_length))
        self.engine._open(self.root)
        self.differs, self.mark = [], ""

    def swapped(self, told: dict[str, Any]) -> dict[str, Any]:
        before, self.mark = self.mark, told["mark"]
        folders = [Path(folder) for folder in told["changed"]]
        if not self.loses_swaps:
            self.engine.replace(Path(told["base"]), folders, set(told["names"]))
        changes = {name for folder in folders for name in _names(folder)}
        self.differs = sorted((set(self.differs or ()) - set(told["names"])) | (changes & set(told["names"])))
        return {"left": [], "before": before, "seconds": 0.0, "packed_alone": 0}

    def served(self, token: str) -> dict[str, Any]:
        sees = Path(token).read_text() if token and Path(token).is_file() else ""
        told = {"base": str(self.root), "dtype": self.dtype, "generation_config": self.generation_config}
        return told | {"differs": self.differs, "mark": self.mark, "sees": sees}

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and answer of a request."""
        if path == "/version":
            return 200, {"version": self.version}
        if path == "/v1/models":
            card = {"id": "their-name", "root": str(self.root), "max_model_len": self.max_length}
            adapters = [{"id": name, "root": str(at), "parent": "their-name"} for name, at in self.adapters.items()]
            return 200, {"data": [*adapters, card]}
        if path == "/collective_rpc" and self.extension:
            told = body["kwargs"]
            done = self.swapped(told) if body["method"] == "swap_weights" else self.served(told["token"])
            return 200, {"results": [done]}
        if path == "/reset_prefix_cache":
            return 200, {"success": True}
        if path == "/v1/load_lora_adapter" and self.takes_adapters:
            if method == "GET":
                return 405, {}
            self.adapters[body["lora_name"]] = Path(body["lora_path"])
            return 200, "Success"
        if path == "/v1/unload_lora_adapter":
            return 200 if self.adapters.pop(body["lora_name"], None) else 404, ""
        if path == "/v1/completions" and body["model"] in ("their-name", *self.adapters):
            return 200, self.completions(body["prompt"])
        return 404, {"error": {"message": "Not Found"}}

    def completions(self, prompts: list[list[int]]) -> dict[str, Any]:
        rows = self.engine._measure(prompts).logprobs
        told = [[None, *(value + self.off for value in row), 0.0] for row in rows]
        return {"choices": [{"index": n, "logprobs": {"token_logprobs": row}} for n, row in enumerate(told)]}


def _names(folder: Path) -> list[str]:
    from safetensors import safe_open

    return [name for file in folder.glob("*.safetensors") for name in safe_open(file, "pt").keys()]  # noqa: SIM118


class Handler(BaseHTTPRequestHandler):
    state: Vllm

    def _respond(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or "{}")
        path, state = self.path.partition("?")[0], self.state
        state.asked.append(path)
        if path in state.says:
            status, text = state.says[path]
        elif state.key and self.headers.get("Authorization") != f"Bearer {state.key}":
            status, text = 401, json.dumps({"error": "Unauthorized"})
        else:
            status, said = state.answer(self.command, path, body)
            text = said if isinstance(said, str) else json.dumps(said)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.replace("ECHO", str(self.headers.get("Authorization"))).encode())

    do_GET = do_POST = _respond  # noqa: N815

    def log_message(self, *args: object) -> None: ...


@contextmanager
def serving(state: Vllm) -> Iterator[Vllm]:
    """A server at work on a free port."""
    with at_work(type("Own", (Handler,), {"state": state})) as state.url:
        yield state
