"""Notes: what takes time to find out, kept for the next time, and sealed, so that a damaged one is never believed.

    store/FOLDER/NAME.json      what was found out, and the seal of name and contents

Whoever writes a note can do without it: one that is damaged counts as not there.
"""

import json
import os
from pathlib import Path
from typing import Any

from esft_bench.spec.files import canonical, digest_of_text, made_folder, remove, write_json

SEAL = "seal"


class Notes:
    """The notes in a folder, which is made with the first. `news` takes a sentence for each that is damaged."""

    def __init__(self, folder: Path, news: list[str] | None = None) -> None:
        self.folder = folder
        self.news = [] if news is None else news

    def read(self, name: str) -> dict[str, Any] | None:
        """What was noted under a name; None where nothing was, or it is damaged."""
        path = self._path(name)
        if not os.path.lexists(path):
            return None
        try:
            said = dict(json.loads(path.read_text("utf-8")))
            if said.pop(SEAL, None) == _seal(name, said):
                return said
        except (OSError, ValueError, TypeError, RecursionError):
            pass
        self.news.append(f"Damaged: {path} is not what was written; it is made again.")
        return None

    def write(self, name: str, said: dict[str, Any]) -> None:
        """Note something under a name, in place of what was there."""
        path = self._path(name)
        made_folder(self.folder)
        if path.is_symlink() or not path.is_file():
            remove(path)
        write_json(path, {**said, SEAL: _seal(name, said)})

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def _seal(name: str, said: dict[str, Any]) -> str:
    return digest_of_text(canonical([name, said]))
