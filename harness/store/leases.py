"""Leases: who is at work on what, for processes on several machines that share a folder, also over NFS.

    FOLDER/NAME/PID-MACHINE-NONCE@HOST      one file: the lease of NAME, whose holder touches it now and then

Nothing rests on flock, which NFS may not have. What decides is always one renaming, which a file system does once or
not at all: a lease is laid by renaming a folder that holds it to its place, which fails where another one lies; a stale
one is taken over by renaming that very file, which only the first who tries still finds. How old a lease is, the
store's own file system says, by a file touched now: no two clocks are compared.
"""

import errno
import os
import platform
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from esft_bench.spec.files import digest_of_text, made_folder, remove

LAPSE = 60.0
"""Seconds without a touch after which a lease is stale. Its holder may be anywhere, so nobody can ask whether it lives;
one of this machine is asked."""
BEATS = 6
"""Touches in that time."""
LOOK = 0.5
"""Seconds between two looks at a lease that is waited for."""


def _machine() -> str:
    """What process numbers mean: a boot of a kernel, and a namespace on it; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return digest_of_text(f"{platform.node()} {boot} {Path('/proc/self/ns/pid').readlink()}")[:8]
    except OSError:
        return ""


MACHINE = _machine()


class Lease:
    """One that this process holds."""

    def __init__(self, path: Path, leases: "Leases") -> None:
        self._path, self._leases = path, leases

    def renew(self) -> bool:
        """Touch it; whether it is still held. A holder that slept too long finds it taken over."""
        try:
            held = self._path.name in os.listdir(self._path.parent)  # noqa: PTH208 (opened anew, which NFS needs)
            if held:
                os.utime(self._path)
        except FileNotFoundError:
            return False
        return held

    def lay_aside(self) -> None:
        """Let others have it, and use its folder again for the next one: making and removing it costs most of a claim.

        Who was taken over while it slept finds another lease there, which is left where it lies.
        """
        self._leases.forget(self)
        if not self._leases.laid_aside(self._path):
            self.release()

    def release(self) -> None:
        """Let others have it."""
        self._leases.forget(self)
        with suppress(OSError):
            self._path.unlink()
            self._path.parent.rmdir()  # fails where another one lies there by now


class Leases:
    """The leases in a folder. Those of this process are touched by a thread, as long as there are any."""

    def __init__(self, folder: Path, lapse: float = LAPSE) -> None:
        self._folder, self.lapse = folder, lapse
        self._held: set[Lease] = set()
        self._aside: list[str] = []
        self._lock = threading.Lock()
        self._beating = False

    def claim(self, name: str) -> Lease | None:
        """The lease of a name; None where somebody holds it, be it this process."""
        made_folder(self._folder)
        place = self._folder / name
        mine = f"{os.getpid()}-{MACHINE}-{secrets.token_hex(4)}@{platform.node()}"
        there = _lies(place)
        if not (self._took_over(there, mine) if there else self._laid(place, mine)):
            return None
        lease = Lease(place / mine, self)
        with self._lock:
            self._held.add(lease)
            if not self._beating:
                self._beating = True
                threading.Thread(target=self._beat, daemon=True).start()
        return lease

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Hold a name for a block, once nobody else does."""
        while (lease := self.claim(name)) is None:
            time.sleep(LOOK)
        try:
            yield
        finally:
            lease.release()

    def holder(self, name: str) -> str:
        """Who holds a name, in words; empty where it can be claimed."""
        there = _lies(self._folder / name)
        if there is None or self._is_stale(there):
            return ""
        number, _, host = there.name.partition("@")
        return _in_words(number.partition("-")[0], host)

    @property
    def me(self) -> str:
        """This process, in words."""
        return _in_words(os.getpid(), platform.node())

    def forget(self, lease: Lease) -> None:
        """Touch a lease no more."""
        with self._lock:
            self._held.discard(lease)

    def laid_aside(self, lease: Path) -> bool:
        """Take a lease with its folder out of its place, to be laid again; whether that went well."""
        beside = self._beside(lease.name)
        try:
            if os.listdir(lease.parent) != [lease.name]:  # noqa: PTH208
                return False
            lease.parent.rename(beside)
            if os.listdir(beside) != [lease.name]:  # noqa: PTH208 (it was taken over in this moment)
                beside.rename(lease.parent)
                return False
        except OSError:
            return False
        self._aside.append(lease.name)
        return True

    def tidy(self) -> None:
        """Remove what was laid aside, here and by processes that were killed since."""
        while self._aside:
            remove(self._beside(self._aside.pop()))
        with suppress(OSError):  # whoever comes next may tidy up
            for beside in self._folder.glob(".*@*"):
                lease = _lies(beside)
                if lease and self._is_stale(lease):
                    remove(beside)

    def _beside(self, name: str) -> Path:
        """Where the folder of a lease lies before it is laid, and after."""
        return self._folder / f".{name}"

    def _made(self, mine: str) -> Path:
        """A folder that holds a lease that was touched now: one that was laid aside, or a new one."""
        with suppress(IndexError, OSError):
            beside = self._beside(before := self._aside.pop())
            os.utime(beside / before)
            (beside / before).rename(beside / mine)
            return beside
        beside = self._beside(mine)
        beside.mkdir()
        (beside / mine).touch()
        return beside

    def _laid(self, place: Path, mine: str) -> bool:
        """Lay a lease where none lies."""
        beside = self._made(mine)
        try:
            beside.rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
            remove(beside)
        return os.path.lexists(place / mine)  # NFS may have renamed it, lost its own reply and failed at the next try

    def _took_over(self, there: Path, mine: str) -> bool:
        """Take a lease over if it is stale."""
        if not self._is_stale(there):
            return False
        with suppress(FileNotFoundError):  # another one was first
            os.utime(there)  # before it bears this process's name, so that it is never found stale under that
            there.rename(there.with_name(mine))
        return os.path.lexists(there.with_name(mine))

    def _is_stale(self, there: Path) -> bool:
        number, machine = there.name.split("-")[:2]
        if machine and machine == MACHINE and not psutil.pid_exists(int(number)):
            return True
        try:
            with there.open() as file:  # opened, since NFS remembers what it knew of a file that is not
                touched = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return False
        return self._now() - touched > self.lapse

    def _now(self) -> float:
        """What time the file system has."""
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".now.") as file:
            os.utime(file.fileno())
            return os.fstat(file.fileno()).st_mtime

    def _beat(self) -> None:
        while True:
            time.sleep(self.lapse / BEATS)
            with self._lock:
                held = list(self._held)
                self._beating = bool(held)
            if not held:
                return
            for lease in held:
                with suppress(OSError):  # the next one may go well; whether it is still held, its holder asks
                    lease.renew()


def _in_words(number: int | str, host: str) -> str:
    return f"process {number} on {host}"


def _lies(place: Path) -> Path | None:
    """The lease that lies in a place."""
    try:
        return next((place / name for name in os.listdir(place)), None)  # noqa: PTH208
    except FileNotFoundError:
        return None
