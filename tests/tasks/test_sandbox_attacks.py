"""Eighty and more programs at every level: none passes wrongly, none leaves a trace, none spoils what comes after."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esft_bench.tasks import sandbox, sandbox_walls
from esft_bench.tasks.sandbox import run_many
from esft_bench.tasks.sandbox_walls import LEVELS, Isolation
from tests.tasks.attacks import CHECKER, EARLY, FAIL, HARM, PARENT, TOKEN, on_files

SOURCES = Path(sandbox.__file__).resolve().parents[1] / "src"
KINDS = {"early": EARLY, "checker": CHECKER, "token": TOKEN, "parent": PARENT, "harm": HARM}
every_level = pytest.mark.parametrize("level", LEVELS)


def outcomes(programs: dict[str, str], level: Isolation) -> dict[str, str]:
    """What passed and should not, or spoiled the honest program after it, by name; nothing if all is well."""
    if not sandbox.works(level):
        pytest.skip(f"no {level} on this machine")
    between = [text for program in programs.values() for text in (program + FAIL, "assert True")]
    found = run_many(between, seconds=0.4, memory_bytes=256 << 20, level=level)
    wrong = {name: "passed" for name, outcome in zip(programs, found[::2], strict=True) if outcome.ok}
    spoiled = {name: after.detail for name, after in zip(programs, found[1::2], strict=True) if not after.ok}
    return wrong | spoiled


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may read and write, with a file and a socket in it."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o777)
    (place / "victim").write_text("years of work")
    (place / "victim").chmod(0o666)
    yield place
    shutil.rmtree(place)


@every_level
@pytest.mark.parametrize("kind", KINDS)
def test_no_program_passes_wrongly_or_spoils_the_next(level: Isolation, kind: str) -> None:
    assert outcomes(KINDS[kind], level) == {}


@every_level
def test_no_program_changes_a_file_or_a_folder(level: Isolation, folder: Path) -> None:
    assert outcomes(on_files(folder), level) == {}
    [left] = folder.iterdir()
    assert (left.name, left.read_text(), left.stat().st_mode & 0o7777) == ("victim", "years of work", 0o666)
    assert left.stat().st_mtime > 1e9


@every_level
def test_no_program_reaches_a_socket_of_this_machine(level: Isolation, folder: Path) -> None:
    heard: list[str] = []
    kinds: dict[str, Any] = {
        "file": str(folder / "socket"),
        "abstract": f"\0{folder.name}",
        "network": ("127.0.0.1", 0),
    }
    listening = []
    for kind, address in kinds.items():
        server = socket.socket(socket.AF_INET if kind == "network" else socket.AF_UNIX)
        server.bind(address)
        server.listen()
        server.settimeout(0.05)
        listening.append((kind, server))
    (folder / "socket").chmod(0o777)
    stop = threading.Event()

    def listen() -> None:
        while not stop.is_set():
            for kind, server in listening:
                try:
                    server.accept()[0].close()
                    heard.append(kind)
                except TimeoutError:
                    continue

    listener = threading.Thread(target=listen)
    listener.start()
    port = listening[-1][1].getsockname()
    programs = {
        "file": f"import socket; socket.socket(socket.AF_UNIX).connect({kinds['file']!r})",
        "abstract": f"import socket; socket.socket(socket.AF_UNIX).connect({kinds['abstract']!r})",
        "network": f"import socket; socket.create_connection({port!r}, 1)",
    }
    try:
        assert outcomes(programs, level) == {}
        assert not any(outcome.ok for outcome in run_many(list(programs.values()), level=level))
    finally:
        stop.set()
        listener.join()
        for _, server in listening:
            server.close()
    assert heard == []


@pytest.mark.parametrize("level", ["bubblewrap", "namespaces"])
def test_a_walled_program_sees_no_home_no_temporary_file_and_no_process(level: Isolation, folder: Path) -> None:
    see = (
        f"import os\nassert not os.path.exists({str(folder)!r})\nassert os.listdir('/proc') == os.listdir('/run') == []"
    )
    if not sandbox.works(level):
        pytest.skip(f"no {level} on this machine")
    [outcome] = run_many([see], level=level)
    assert outcome.detail == ""


FORGERS = {
    "a guess": "lambda secret: print(json.dumps(['guess', True, '']))",
    "the old form": "lambda secret: print(json.dumps([True, '']))",
    "one too many": "lambda secret: print(json.dumps([secret, True, '']) + '\\n' + json.dumps([secret, True, '']))",
    "no JSON": "lambda secret: print('passed')",
    "deep": "lambda secret: print('[' * 60000)",
    "a flood": "lambda secret: print('x' * 10_000_000)",
}


FORGER = """
import json, sys
sys.stdin.readline()
print('"ready"', flush=True)
for number, line in enumerate(sys.stdin):
    secret = json.loads(line)[0]
    if number < 2:
        print(json.dumps([secret, True, '']), flush=True)
    else:
        (SAY)(secret)
        sys.stdout.flush()
"""


@pytest.mark.parametrize("say", FORGERS.values(), ids=FORGERS)
def test_a_sandbox_that_says_what_was_not_asked_is_believed_in_nothing(
    say: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_walls, "_text", lambda: FORGER.replace("SAY", say))
    found = run_many(["pass"] * 3, workers=1, level="limits only", seconds=0.1)
    assert [outcome.ok for outcome in found] == [False] * 3
    assert "forged" in found[0].detail


ORDINARY = """
from esft_bench.tasks.sandbox import LEVELS, run_many, works
forge = "import os; open(f'/proc/{os.getppid()}/fd/1', 'wb', 0).write(b'[true, \\"\\"]\\\\n' * 2)"
kill = "import os; os.kill(os.getppid(), 9)"
for level in LEVELS:
    if works(level):
        found = run_many([forge, "assert True", kill, "assert False"], level=level, workers=1)
        assert [outcome.ok for outcome in found] == [False, True, False, False], (level, found)
print("all is well")
"""


def test_the_same_holds_for_an_ordinary_user() -> None:
    python = shutil.which("python3", path="/usr/bin:/bin")
    if os.geteuid() != 0 or python is None or not SOURCES.is_dir():
        pytest.skip("needs root, and a Python that everybody may run")
    where = {"PYTHONPATH": str(SOURCES), "PATH": os.environ["PATH"]}
    ran = subprocess.run(
        [python, "-c", ORDINARY], user=12345, group=12345, env=where, capture_output=True, text=True, cwd="/"
    )
    assert ran.stdout == "all is well\n", ran.stderr


# What is not contained, as the sandbox's own page says. Where one of these fails, the page can promise more.


@every_level
def test_not_contained_a_result_that_equals_everything(level: Isolation) -> None:
    program = "class X:\n  def __eq__(self, other): return True\nassert X() == 3"
    assert sandbox.works(level) is run_many([program], level=level)[0].ok


@every_level
def test_not_contained_reading_what_everybody_may_read(level: Isolation) -> None:
    if not sandbox.works(level):
        pytest.skip(f"no {level} on this machine")
    assert run_many(["assert open('/etc/passwd').read()"], level=level)[0].ok


def test_not_contained_by_limits_only_reading_the_users_files_and_seeing_other_processes(folder: Path) -> None:
    seen = "sum(name.isdigit() for name in os.listdir('/proc')) > 2"
    see = f"import os\nassert open({str(folder / 'victim')!r}).read() and {seen}"
    assert run_many([see], level="limits only")[0].ok


RAW = """
def kinds(kind):
    yield kind
    for below in type.__subclasses__(kind):
        yield from kinds(below)
pointer = next(k for k in kinds(object) if k.__name__ == "_Pointer")
simple = next(k for k in kinds(object) if k.__name__ == "_SimpleCData")
Byte = type("Byte", (simple,), {"_type_": "B"})
Bytes = type("Bytes", (pointer,), {"_type_": Byte})
byte = Byte(7)
raw = Bytes(byte)
here = next(n for n in range(0, 256, 8) if bytes(raw[i - n] for i in range(8, 16)) == id(Byte).to_bytes(8, "little"))
secret = b"only in memory"
assert bytes(raw[id(secret) + 32 - id(byte) - here + i] for i in range(len(secret))) == secret
"""


@every_level
def test_not_contained_reading_the_interpreters_own_memory_by_what_ctypes_left(level: Isolation) -> None:
    if sys.platform != "linux" or not sandbox.works(level):
        pytest.skip(f"no {level} on this machine")
    assert run_many([RAW], level=level)[0].ok
