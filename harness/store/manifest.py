"""What an artifact says of itself: its `manifest.json`, sealed."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from esft_bench.harness.store.soundness import File
from esft_bench.spec.files import canonical, digest_of_digests, digest_of_text

MANIFEST = "manifest.json"


class Input(BaseModel):
    """What a step read: another artifact by its kind and key, or files by their path; with the contents' digest."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    digest: str
    kind: str = ""
    key: str = ""
    path: str = ""


class Manifest(BaseModel):
    """What an artifact is and what it came from.

    Attributes:
        kind, key: where it lies.
        label: the cell, and the benchmark if there is one, that it was made for first.
        digest: of the files' names and contents, without this manifest and without what was measured.
        files: each of them as it was written.
        inputs: what was read, by its role.
        settings: what the step was told.
        sources, versions: digests of the source it ran, by module, and versions of the libraries that computed.
        measured: seconds, bytes and the like.
        made: when, UTC.
        seal: digest of all the others, by which a manifest that some other hand changed is known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")
    kind: str
    key: str
    label: str = ""
    digest: str
    files: dict[str, File] = {}
    inputs: dict[str, Input] = {}
    settings: dict[str, Any] = {}
    sources: dict[str, str] = {}
    versions: dict[str, str] = {}
    measured: dict[str, Any] = {}
    made: str = ""
    seal: str = ""

    @property
    def sealed(self) -> "Manifest":
        """The same with its seal."""
        return self.model_copy(update={"seal": self._seal})

    @property
    def is_sound(self) -> bool:
        """Whether it is what was written."""
        files = {name: file.sha256 for name, file in self.files.items()}
        return self.seal == self._seal and self.digest == digest_of_digests(files)

    @property
    def text(self) -> str:
        """As it lies in its file."""
        return f"{self.model_dump_json(indent=2)}\n"

    @property
    def _seal(self) -> str:
        return digest_of_text(canonical(self.model_dump(mode="json", exclude={"seal"})))


def read_manifest(folder: Path) -> Manifest | None:
    """What the manifest in a folder says; None without a sound one."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None
    return manifest if manifest.is_sound else None


def measured_in(folder: Path, seal: str) -> dict[str, Any] | None:
    """What the manifest in a folder, known by its seal, says of what was measured; None where it is another one.

    That of thousands is asked for, and reading a manifest as a model takes four times as long.
    """
    try:
        told = json.loads((folder / MANIFEST).read_bytes())
        if told.pop("seal") == seal == digest_of_text(canonical(told)):
            return dict(told["measured"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass
    return None
