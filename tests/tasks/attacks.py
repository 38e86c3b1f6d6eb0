"""Programs that do not solve their task (their tests fail) and try to pass, or to do harm, all the same."""
# ruff: noqa: E501 - a program is a line

from pathlib import Path

FAIL = "\nassert False, 'the tests'\n"

EARLY = {
    "sys.exit": "import sys; sys.exit(0)",
    "os._exit": "import os; os._exit(0)",
    "SystemExit": "raise SystemExit",
    "exec": "import os; os.execv('/bin/true', ['true'])",
    "abort": "import os; os.abort()",
    "own signal": "import signal, os; os.kill(os.getpid(), signal.SIGTERM)",
    "atexit": "import atexit, os; atexit.register(os._exit, 0)",
    "alarm": "import signal, os; signal.signal(14, lambda *a: os._exit(0)); signal.setitimer(0, .01)\nwhile 1: pass",
    "thread": "import threading, os; threading.Thread(target=os._exit, args=(0,)).start()\nwhile 1: pass",
    "fork": "import os\nif os.fork(): os._exit(0)",
    "closed pipe": "import os; os.close(3)",
    "unraisable": "import sys; sys.unraisablehook = sys.excepthook = lambda *a: None",
}
CHECKER = {
    "no AssertionError": "AssertionError = type(None)",
    "harmless AssertionError": "import builtins; builtins.AssertionError = Warning",
    "no exec": "import builtins; builtins.exec = builtins.compile = lambda *a: None",
    "no _exit": "import os; os._exit = lambda code: None",
    "no write": "import os; os.write = lambda *a: 0",
    "compare_digest": "import secrets, hmac; secrets.compare_digest = hmac.compare_digest = lambda *a: True",
    "callers' globals": "import sys; f = sys._getframe(1); f.f_globals['run_next'] = f.f_globals['watch'] = lambda *a: 1",
    "callers' locals": "import sys; l = sys._getframe(1).f_locals; l['write'] = l['execute'] = lambda *a: b''",
    "hidden failure": "class E(Exception):\n  def __str__(s): raise SystemExit\nraise E",
    "endless failure": "class E(Exception):\n  def __str__(s):\n    while 1: pass\nraise E",
    "failure that speaks": "class E(Exception):\n  def __str__(s): return '[true, \"\"]'\nraise E",
    "surrogates": "raise ValueError('\\ud800')",
    "null byte": "x = '\0'",
    "jump": "import sys\ndef t(f, e, a):\n  f.f_lineno = 9\n  return t\nsys.settrace(t); sys._getframe().f_trace = t",
}
FIND = "    if type(t) is bytes and len(t) == 16:\n      os.write(3, t); os._exit(0)"
TOKEN = {
    "guess": "import os; os.write(3, b'0' * 16); os._exit(0)",
    "verdict": 'import os\nfor f in range(64):\n  try: os.write(f, b\'["x", true, ""]\\n\')\n  except OSError: pass',
    "frames": f"import sys, os; f = sys._getframe()\nwhile f:\n  for t in f.f_locals.values():\n{FIND}\n  f = f.f_back",
    "globals": f"import sys, os; f = sys._getframe()\nwhile f:\n  for t in f.f_globals.values():\n{FIND}\n  f = f.f_back",
    "referents": f"import sys, os, gc; f = sys._getframe()\nwhile f:\n  for t in gc.get_referents(f):\n{FIND}\n  f = f.f_back",
    "objects": f"import os, gc\nfor o in gc.get_objects():\n  for t in gc.get_referents(o):\n{FIND}",
    "tracing": "import sys; sys.settrace(lambda *a: None)\ndef f(): pass\nf()",
    "profiling": "import sys; sys.setprofile(lambda *a: None)\ndef f(): pass\nf()",
    "ctypes": "import ctypes, sys; ctypes.string_at(id(sys._getframe(1)), 400)",
    "_ctypes": "import _ctypes",
    "ctypes of the caller": "import sys; sys._getframe(1).f_globals['confine'].__globals__['ctypes']",
    "ctypes by its file": "import importlib.machinery as m, _socket as s, os\n"
    "p = os.path.join(os.path.dirname(s.__file__), '_ctypes' + m.EXTENSION_SUFFIXES[0])\n"
    "m.ExtensionFileLoader('_ctypes', p).create_module(m.ModuleSpec('_ctypes', None, origin=p))",
}
PARENT = {
    "its stdout": "import os; open(f'/proc/{os.getppid()}/fd/1', 'wb', 0).write(b'[true, \"\"]\\n' * 2)",
    "its stdout, read-only": "import os; os.open(f'/proc/{os.getppid()}/fd/1', os.O_RDONLY)",
    "its stdin": "import os; assert open(f'/proc/{os.getppid()}/fd/0').read()",
    "any stdout": "import os\nfor p in range(2000):\n  try: open(f'/proc/{p}/fd/1', 'w').write('[true, \"\"]\\n')\n  except OSError: 0",
    "its memory": "import os; open(f'/proc/{os.getppid()}/mem', 'rb')",
    "its maps": "import os; open(f'/proc/{os.getppid()}/maps').read()",
    "its environment": "import os; assert open(f'/proc/{os.getppid()}/environ').read()",
    "kill it": "import os; os.kill(os.getppid(), 9)",
    "stop it": "import os, signal; os.kill(os.getppid(), signal.SIGSTOP)",
    "kill its group": "import os; os.killpg(os.getpgid(os.getppid()), 9)",
    "kill all": "import os; assert os.getpid() < 0 or os.kill(-1, 0)",
    "pidfd": "import os, signal; signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
    "its limits": "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
    "its cores": "import os; os.sched_setaffinity(os.getppid(), {0})",
    "its patience": "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
}
HARM = {
    "loop": "while 1: pass",
    "sleep that ignores signals": "import signal, time\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n"
    "  except (OSError, ValueError): pass\ntime.sleep(60)",
    "big power": "10 ** 10 ** 9",
    "recursion": "import sys; sys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()",
    "memory": "x = []\nwhile 1: x.append(bytearray(50_000_000))",
    "fork bomb": "import os\nwhile 1:\n  try: os.fork()\n  except OSError: pass",
    "daemon": "import os, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(60)",
    "threads": "import threading, time\nfor _ in range(99): threading.Thread(target=time.sleep, args=(9,)).start()",
    "flood of stdout": "while 1: print('x' * 100_000)",
    "flood of the pipe": "import os\nwhile 1: os.write(3, b'x' * 65536)",
    "memfd": "import os; os.memfd_create('x')",
    "more memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "shell": "import subprocess; subprocess.run(['/bin/sh', '-c', 'id'], check=True)",
    "pty": "import pty; pty.fork()",
    "namespace": "import os; os.unshare(0x10000000)",
    "new root": "import os; os.chroot('/tmp')",
    "root again": "import os; os.setuid(0); os.setgroups([0]); os.setresuid(0, 0, 0); os.chown('/', 0, 0)",
    "host name": "import socket; socket.sethostname('mine')",
    "packets": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "other's lock": "import fcntl; fcntl.flock(open('/etc/passwd'), fcntl.LOCK_EX)",
    "shared memory": "open('/dev/shm/esft-bench-attack', 'w').write('x')",
    "sysrq": "open('/proc/sysrq-trigger', 'w').write('h')",
    "datagram by a pair": "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', '/dev/log')",
}


def on_files(folder: Path) -> dict[str, str]:
    """What a program may try with a folder that everybody may write to and that holds a file `victim`."""
    file, new = str(folder / "victim"), str(folder / "new")
    return {
        "write": f"open({new!r}, 'w').write('x')",
        "create": f"open({new!r}, 'x')",
        "append": f"open({file!r}, 'a').write('x')",
        "empty": f"open({file!r}, 'w')",
        "truncate": f"import os; os.truncate({file!r}, 0)",
        "unlink": f"import os; os.unlink({file!r})",
        "rename": f"import os; os.rename({file!r}, {new!r})",
        "mkdir": f"import os; os.mkdir({new!r})",
        "symlink": f"import os; os.symlink({file!r}, {new!r})",
        "link": f"import os; os.link({file!r}, {new!r})",
        "fifo": f"import os; os.mkfifo({new!r})",
        "chmod": f"import os; os.chmod({file!r}, 0o4777)",
        "utime": f"import os; os.utime({file!r}, (0, 0))",
        "xattr": f"import os; os.setxattr({file!r}, 'user.x', b'x')",
        "tmpfile": f"import os; os.open({str(folder)!r}, os.O_TMPFILE | os.O_RDWR)",
        "rmtree": f"import shutil; shutil.rmtree({str(folder)!r})",
    }
