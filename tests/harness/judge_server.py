"""A chat-completion server on loopback that can misbehave in the ways servers do, and takes batches."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from esft_bench.harness.judge import Judge
from esft_bench.tasks.task import Rubric

KEY = "sk-very-secret"
RUBRIC = Rubric("Does it say the same?", best=10.0)
MakeJudge = Callable[..., Judge]
Response = tuple[int, dict[str, str], str | bytes]
CUT = "cut the connection in the middle"
DRIP = "send a byte now and then: of the body, or of the head as well"


@dataclass(frozen=True)
class Item:
    completion: str
    answer: str = "the reference"
    prompt: str = "the question"


def says(text: Any) -> Response:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return 200, {}, json.dumps({**body, "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}})


def gives(score: Any) -> Response:
    return says(json.dumps({"reason": "so it is", "score": score}))


def answer_in(body: dict[str, Any]) -> str:
    """The answer to be scored that a request holds."""
    return str(re.split(r"=== \w+ ===\n", body["messages"][1]["content"])[5]).rsplit("\n", 1)[0]


@dataclass
class Server:
    """What the server was asked, and how it answers: request number → (status, headers, body).

    `paid` counts how often each answer was judged and the verdict delivered. `files` and `batches` are what it holds
    for batches, `looks` is how often a batch is looked at before it has ended, and `broken` are the indexes of requests
    in a batch that come to nothing.
    """

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    respond: Callable[[int, dict[str, Any]], Response] = lambda number, body: gives(8)
    files: dict[str, str] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    looks: int = 1
    ends_as: str = "completed"
    broken: Callable[[int], bool] = lambda index: False
    paid: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, method: str, path: str, raw: bytes) -> Response:
        """Answer one request."""
        with self.lock:
            if path.startswith("/v1/chat/completions"):
                body = json.loads(raw)
                self.requests.append(body)
                self.times.append(time.monotonic())
                number = len(self.requests)
            elif path.startswith("/v1/files"):
                return self._file(method, path, raw)
            else:
                return self._batch(method, path, raw)
        status, headers, text = self.respond(number, body)
        if CUT not in headers:
            self._count(status, body, text)
        return status, headers, text

    def _count(self, status: int, asked: dict[str, Any], text: str | bytes) -> None:
        """Count a verdict that was delivered whole."""
        with suppress(ValueError, RecursionError):
            if status == 200 and json.loads(text):
                self.paid[answer_in(asked)] += 1

    def _file(self, method: str, path: str, raw: bytes) -> Response:
        if method == "GET":
            name = path.split("/")[3]
            return 200, {}, self.files[name]
        name = f"file-{len(self.files)}"
        self.files[name] = max(raw.decode().split("\r\n"), key=len)
        return (
            200,
            {},
            json.dumps(
                {"id": name, "object": "file", "bytes": 1, "created_at": 0, "filename": "x", "purpose": "batch"}
                | {"status": "processed"}
            ),
        )

    def _batch(self, method: str, path: str, raw: bytes) -> Response:
        if method == "POST":
            asked = json.loads(raw)
            name = f"batch-{len(self.batches)}"
            about = {"id": name, "object": "batch", "created_at": 0, "status": "in_progress", "left": self.looks}
            self.batches[name] = {**about, **asked}
            return 200, {}, json.dumps(self.batches[name])
        if path.split("?")[0].endswith("/batches"):
            return 200, {}, json.dumps({"object": "list", "data": list(self.batches.values())})
        found = self.batches.get(path.split("/")[3])
        if found is None:
            return 404, {}, json.dumps({"error": {"message": "no such batch"}})
        found["left"] -= 1
        if found["left"] <= 0 and found["status"] == "in_progress":
            self._run(found)
        return 200, {}, json.dumps(found)

    def _run(self, batch: dict[str, Any]) -> None:
        """Answer every request of a batch."""
        good: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        for index, line in enumerate(self.files[batch["input_file_id"]].splitlines()):
            asked = json.loads(line)
            self.requests.append(asked["body"])
            status, _, text = self.respond(len(self.requests), asked["body"])
            if self.broken(index) or self.ends_as != "completed":
                bad.append({"custom_id": asked["custom_id"], "response": None, "error": {"code": "oops"}})
                continue
            answer = {"custom_id": asked["custom_id"], "response": {"status_code": status, "body": json.loads(text)}}
            (good if status == 200 else bad).append(answer)
            self._count(status, asked["body"], text)
        batch["status"] = self.ends_as
        for kind, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines and self.ends_as == "completed":
                batch[kind] = f"{batch['id']}-{kind}"
                self.files[batch[kind]] = "".join(json.dumps(line) + "\n" for line in reversed(lines))


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's state says, one request a connection."""

    state: ClassVar[Server]

    def do_POST(self) -> None:
        self._answer("POST")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.keys.add(self.headers.get("Authorization", ""))
        status, headers, text = self.state.handle(method, self.path, raw)
        body = text if isinstance(text, bytes) else text.encode()
        self.send_response(status)
        usual = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in (usual | headers).items():
            if name not in (CUT, DRIP):
                self.send_header(name, value)
        if headers.get(DRIP) == "head":
            self._drip(b"X: " + b"x" * 5000)
        self.end_headers()
        if DRIP in headers:
            self._drip(body)
        else:
            self.wfile.write(body[: len(body) // 2] if CUT in headers else body)
        self.close_connection = True

    def _drip(self, text: bytes) -> None:
        self.flush_headers()
        for place in range(len(text)):
            self.wfile.write(text[place : place + 1])
            self.wfile.flush()
            time.sleep(0.05)

    def log_message(self, *args: object) -> None: ...

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the client gave up: that is what is tested
            super().handle()


class Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *args: object) -> None: ...


@contextmanager
def running() -> Iterator[Server]:
    """A server at work on a free port."""
    state = Server()
    with at_work(type("Handler", (Handler,), {"state": state})) as url:
        state.url = f"{url}/v1"
        yield state


@contextmanager
def at_work(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on a free port that answers by `handler`, while the block runs."""
    server = Quiet(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
