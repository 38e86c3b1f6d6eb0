"""A server's temporary folder: sockets and files that vLLM leaves behind when it is killed go with it.

Its processes hold a lock of it as long as one of them lives. Who makes such a folder removes those that nobody holds.
"""

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from esft_bench.spec.files import remove

PREFIX = "esft-server-"
"""Short, since the path of a socket is 107 bytes at most."""
LOCK = "lock"
FOLDER = "ESFT_BENCH_SERVER_TMPDIR"
"""Environment variable: the folder that a server's launcher removes when its starter has ended."""
INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"


class Temporary:
    """One such folder; `handle` is to be inherited by who uses it."""

    def __init__(self) -> None:
        _sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        made = self.path / f".{LOCK}"
        self.handle = os.open(made, os.O_CREAT | os.O_RDWR)
        fcntl.flock(self.handle, fcntl.LOCK_EX)
        made.rename(self.path / LOCK)  # it is never seen without its lock held

    def environment(self) -> dict[str, str]:
        """What a server's environment says of it. Torch's compiled code stays where it is found again."""
        compiled = os.environ.get(INDUCTOR, f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}")
        own = str(self.path)
        return {"TMPDIR": own, "VLLM_RPC_BASE_PATH": own, FOLDER: own, INDUCTOR: compiled}

    def close(self) -> None:
        """Remove it; closing twice is fine."""
        remove(self.path)
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


def _sweep() -> None:
    """Remove what servers left whose launchers were killed, too."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), lock.open() as file:  # another user's, held, or removed a moment ago
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(lock.parent)
