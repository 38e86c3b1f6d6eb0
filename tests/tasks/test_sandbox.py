"""Each test is named after an attack; it runs at every level that this machine offers and that defends against it."""

import socket
import subprocess
import time
from pathlib import Path

import pytest

from esft_bench.tasks import sandbox
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.sandbox import MIB, Outcome, isolation, run_many, run_python
from esft_bench.tasks.sandbox_walls import LEVELS, Isolation

WALLED: tuple[Isolation, ...] = ("bubblewrap", "namespaces")


def attack(program: str, level: Isolation, seconds: float = 5.0) -> Outcome:
    if not sandbox.works(level):
        pytest.skip(f"no {level} on this machine")
    return run_many([program], seconds=seconds, memory_bytes=256 * MIB, level=level)[0]


every_level = pytest.mark.parametrize("level", LEVELS)
walled_levels = pytest.mark.parametrize("level", WALLED)


@every_level
def test_an_honest_program_is_ok(level: Isolation) -> None:
    assert attack("import math\nassert math.gcd(12, 18) == 6\nprint('done')", level) == Outcome(True, "")


@every_level
def test_a_failed_assertion_is_not_ok_and_says_why(level: Isolation) -> None:
    assert attack("assert 1 == 2, 'one is not two'", level) == Outcome(False, "AssertionError: one is not two")


@every_level
def test_code_that_does_not_compile_is_not_ok(level: Isolation) -> None:
    assert attack("def f(:", level).detail.startswith("SyntaxError")


@every_level
def test_infinite_loop(level: Isolation) -> None:
    assert attack("while True: pass", level, seconds=0.5) == Outcome(False, "timed out after 0.5 s")


@every_level
def test_infinite_sleep_that_ignores_every_signal_it_can(level: Isolation) -> None:
    program = (
        "import signal, time\n"
        "for s in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(s, signal.SIG_IGN)\n"
        "time.sleep(60)"
    )
    assert attack(program, level, seconds=0.5).detail == "timed out after 0.5 s"


@every_level
def test_memory_hog(level: Isolation) -> None:
    assert attack("hog = bytearray(1 << 30)", level) == Outcome(False, "MemoryError")


@every_level
def test_endless_recursion(level: Isolation) -> None:
    program = "import sys\nsys.setrecursionlimit(1 << 30)\ndef f(): f()\nf()"
    assert not attack(program, level, seconds=0.5).ok


@walled_levels
def test_fork_bomb(level: Isolation) -> None:
    assert not attack("import os\nwhile True: os.fork()", level, seconds=2.0).ok


@walled_levels
def test_a_process_left_behind_does_not_outlive_its_program(level: Isolation) -> None:
    program = "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(12.345)\n"
    attack(program, level)
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "12.345" not in running


@walled_levels
def test_network_call_to_this_machine(level: Isolation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # who connects waits in its queue
        outcome = attack(f"import socket\nsocket.create_connection({server.getsockname()!r}, 2)", level)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not outcome.ok


@every_level
def test_the_environments_keys(level: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    assert attack("import os\nassert 'OPENAI_API_KEY' not in os.environ", level).ok


@walled_levels
def test_the_environments_keys_of_other_processes(level: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    program = (
        "import glob\n"
        "for name in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: text = open(name, 'rb').read()\n"
        "    except OSError: continue\n"
        "    assert b'a-secret' not in text, name\n"
    )
    assert attack(program, level).ok


@every_level
def test_writing_outside(level: Isolation, tmp_path: Path) -> None:
    target = tmp_path / "written"
    program = f"with open({str(target)!r}, 'w') as f: f.write('was here')"
    assert not attack(program, level).ok
    assert not target.exists() or target.read_text() == ""


def test_deleting_outside(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("years of work")
    assert not attack(f"import os\nos.remove({str(precious)!r})", "bubblewrap").ok
    assert precious.read_text() == "years of work"


def test_reading_the_home_folder() -> None:
    if not any(Path.home().iterdir()):
        pytest.skip("an empty home")
    home = str(Path.home())  # below /tmp it is not even there
    program = f"import os\nassert not os.path.isdir({home!r}) or len(os.listdir({home!r})) <= 1, os.listdir({home!r})"
    assert attack(program, "bubblewrap").ok


@every_level
def test_killing_its_parent(level: Isolation) -> None:
    if not sandbox.works(level):
        pytest.skip(f"no {level} on this machine")
    programs = ["pass", "import os\nos.kill(os.getppid(), 9)\nos._exit(0)", "pass", "assert False"]
    outcomes = run_many(programs, level=level, workers=1)
    assert [outcome.ok for outcome in outcomes] == [True, False, True, False]


@walled_levels
def test_killing_everything(level: Isolation) -> None:
    if not sandbox.works(level):
        pytest.skip(f"no {level} on this machine")
    bystander = subprocess.Popen(["sleep", "30"])
    try:
        # The low pid is the proof of a namespace: outside one this program must not do what it says.
        programs = ["import os\nassert os.getpid() < 20\nos.kill(-1, 9)\nos._exit(0)", "pass"]
        assert [outcome.ok for outcome in run_many(programs, level=level, workers=1)] == [False, True]
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@every_level
@pytest.mark.parametrize(
    "program",
    [
        "import sys\nsys.exit(0)",
        "raise SystemExit",
        "import os\nos._exit(0)",
        "import os\nos.execv('/bin/true', ['true'])",
        "import signal, os\nos.kill(os.getpid(), signal.SIGTERM)",
        "import atexit, os\natexit.register(os._exit, 0)\nassert False",
        "import threading, os\nthreading.Thread(target=os._exit, args=(0,)).start()\nwhile True: pass",
    ],
)
def test_early_exit_claims_success(level: Isolation, program: str) -> None:
    assert not attack(program, level, seconds=1.0).ok


@every_level
@pytest.mark.parametrize(
    "program",
    [
        "AssertionError = type(None)\nassert False",
        "import builtins\nbuiltins.AssertionError = Warning\nassert False",
        "import sys\nsys.excepthook = lambda *a: None\nassert False",
        "import builtins, os\nbuiltins.print = lambda *a: None\nos._exit = lambda code: None\nassert False",
        "import os\nos.write(3, b'0' * 16)\nassert False",
        'import os\n[os.write(fd, b"[true, \\"\\"]\\n") for fd in range(4)]\nassert False',
        "import os, contextlib\nos.write = lambda *a: 0\ncontextlib.suppress = None\nassert False",
    ],
)
def test_redefining_the_checker(level: Isolation, program: str) -> None:
    assert not attack(program, level).ok


@every_level
def test_looking_for_the_token_in_the_callers_frames(level: Isolation) -> None:
    program = (
        "import gc, os, sys\n"
        "found, frame = [], sys._getframe()\n"
        "while frame:\n"
        "    found += frame.f_locals.values()\n"
        "    found += frame.f_globals.values()\n"
        "    frame = frame.f_back\n"
        "for thing in gc.get_objects():\n"
        "    found += gc.get_referents(thing)\n"
        "for token in found:\n"
        "    if type(token) is bytes and len(token) == 16:\n"
        "        os.write(3, token)\n"
        "        os._exit(0)\n"
        "assert False"
    )
    assert not attack(program, level).ok


def test_outcomes_come_in_the_order_of_the_programs() -> None:
    programs = [f"assert {number} % 3" for number in range(11)]
    assert [outcome.ok for outcome in run_many(programs, workers=3)] == [bool(n % 3) for n in range(11)]
    assert run_many([]) == []


def test_one_program_cannot_leave_anything_for_the_next() -> None:
    programs = [
        "import math\nmath.pi = 3\nimport builtins\nbuiltins.len = None",
        "import math\nassert math.pi > 3.1 and len('a')",
    ]
    assert [outcome.ok for outcome in run_many(programs, workers=1)] == [True, True]


def test_a_sandbox_that_cannot_start_is_an_error_and_no_programs_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys._base_executable", "/bin/false")
    with pytest.raises(TaskError, match="did not start"):
        run_many(["pass"], level="limits only")


def test_two_hundred_small_programs_do_not_take_long() -> None:
    started = time.monotonic()
    assert all(outcome.ok for outcome in run_many([f"assert {n} + 1 == {n + 1}" for n in range(200)]))
    assert time.monotonic() - started < 15  # 0.6 s alone on two cores; this only notices a process start per program


@pytest.fixture
def no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which neither bubblewrap nor user namespaces work."""
    monkeypatch.setattr(sandbox, "isolation", lambda: "limits only")
    monkeypatch.delenv(sandbox.UNSAFE, raising=False)


@pytest.mark.usefixtures("no_sandbox")
def test_without_a_sandbox_generated_code_is_refused_and_the_flag_named() -> None:
    with pytest.raises(TaskError, match=r"install bubblewrap, .* --unsafe-code \(ESFT_BENCH_UNSAFE_CODE=1\)"):
        run_python("pass")


@pytest.mark.usefixtures("no_sandbox")
def test_without_a_sandbox_generated_code_runs_if_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sandbox.UNSAFE, "1")
    assert run_python("pass").ok
    assert not run_python("assert False").ok


def test_works_is_false_where_the_tools_are_missing_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bwrap", "unshare"):
        (tmp_path / name).write_text("#!/bin/sh\necho no permissions >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not any(sandbox.works(level) for level in WALLED)


def test_the_level_in_force_is_one_that_works() -> None:
    assert isolation() in LEVELS
    assert sandbox.works(isolation())
    assert run_python("pass").ok
