"""Whether a folder's files are those that were written.

Measured on two busy cores: SHA-256 reads 0.7 GB a second (2 GB in 2.7 to 3.3 s), while a file's size is known in 15
microseconds. A full fine-tuning's adapter of a 16-billion model is 32 GB and would take three quarters of a minute at
every start, each cell's again. So files up to `SMALL` are read at every look, of larger ones a look compares the size,
and they are read when they are used for the first time in a process.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from stat import S_ISREG

from pydantic import BaseModel, ConfigDict

from esft_bench.spec.files import digest_of_file, sync

SMALL = 32 * 2**20
"""Bytes of a file that a look still reads (45 ms). Records are made of no larger ones."""

Found = Mapping[str, os.stat_result]
"""All that lies in a folder, in all its depths, and is no folder, by its name from there."""


class File(BaseModel):
    """A file as it was written: its bytes, and their SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int
    sha256: str


def files_in(folder: Path | str) -> dict[str, os.stat_result]:
    """What lies in a folder, in the order of the names; links are looked at themselves, not followed.

    Asked of the system itself: a run looks into thousands of folders, and paths as objects took most of that time.
    """
    return dict(sorted(_below(str(folder), "")))


def _below(folder: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry.stat(follow_symlinks=False)


def described(folder: Path, found: Found) -> dict[str, File]:
    """Files as they are."""
    return {name: File(size=stat.st_size, sha256=digest_of_file(folder / name)) for name, stat in found.items()}


def settled(folder: Path) -> dict[str, File]:
    """Force what lies in a folder to the disk, and describe it."""
    found = files_in(folder)
    for name in found:
        sync(folder / name)
    return described(folder, found)


def fault(folder: Path, found: Found, written: Mapping[str, File], *, whole: bool) -> str:
    """What is wrong with files, given those that were written; empty where nothing is. `whole` reads large ones too."""
    for name in sorted(written.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in written:
            return f"{name} does not belong there"
        try:
            if not _same(f"{folder}/{name}", found[name], written[name], whole):
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return ""


def _same(path: str, stat: os.stat_result, file: File, whole: bool) -> bool:
    if not S_ISREG(stat.st_mode) or stat.st_size != file.size:
        return False
    if file.size > SMALL:
        return not whole or digest_of_file(Path(path)) == file.sha256
    with open(path, "rb") as small:  # noqa: PTH123 (a path as an object costs as much as reading it)
        return hashlib.sha256(small.read()).hexdigest() == file.sha256


def are_small(found: Found) -> bool:
    """Whether a look reads all of these files."""
    return all(stat.st_size <= SMALL for stat in found.values())


def stamp(found: Found) -> str:
    """What changes where somebody touches a folder's files: a digest of names, sizes, inodes and times.

    Of what a look reads that is, too, when it was last changed in any way, a time that no program can set; not of large
    files, which a further name (a hard link) would have read again.
    """
    told = [
        (name, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns if stat.st_size <= SMALL else 0)
        for name, stat in found.items()
    ]
    return hashlib.blake2b(repr(told).encode(), digest_size=16).hexdigest()
