"""Writing files so that nothing half-written is ever read: beside, fsync, rename."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from esft_bench.spec.errors import NoSpaceError, UserError
from esft_bench.spec.results import write_text as replace_text

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return _CANONICAL.encode(value)


def digest_of_text(text: str) -> str:
    """SHA-256 of a text, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's contents, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_files(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 over the names (relative to `root`) and the contents of files, in the order of their names."""
    return digest_of_digests({path.relative_to(root).as_posix(): digest_of_file(path) for path in sorted(paths)})


def digest_of_digests(contents: Mapping[str, str]) -> str:
    """SHA-256 over names and the digests of what is under them, in their order."""
    return digest_of_text("".join(f"{name}\0{content}\0" for name, content in contents.items()))


def remove(path: Path) -> None:
    """Remove whatever lies under a path: a file, a link, a folder with all in it, also one without permissions."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for folder in (path, *(each for each in path.rglob("*") if each.is_dir() and not each.is_symlink())):
        with suppress(OSError):
            folder.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


def made_folder(path: Path) -> Path:
    """A folder, made with those above it; what lies there and is none is removed."""
    if os.path.lexists(path) and not path.is_dir():
        remove(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def sync(path: Path) -> None:
    """Force a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a file's text atomically; a full disk is one sentence."""
    with full_disk_is_a_sentence(path):
        replace_text(path, text)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Replace a JSONL file atomically, one row a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[Any]:
    """All rows of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@cache
def lines_in(path: Path) -> int:
    """How many lines a file has, as long as this process lives: for files that are named by their contents."""
    with path.open("rb") as lines:
        return sum(1 for _ in lines)


@contextmanager
def full_disk_is_a_sentence(path: Path) -> Iterator[None]:
    """Turn "no space left" and "not permitted" into one sentence that says where; what was finished stays."""
    try:
        yield
    except Exception as error:  # safetensors wraps the system's error in one of its own
        code = error.errno if isinstance(error, OSError) else None
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            raise NoSpaceError(
                f"No disk space left at {path.parent}: free some and run the same command again; finished steps stay."
            ) from error
        if code in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"{path.parent} cannot be written ({error}): choose another --run-dir.") from error
        raise
