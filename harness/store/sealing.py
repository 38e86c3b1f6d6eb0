"""Closing what was built: its files are forced to the disk and described, and its manifest is written among them, last.

It is done where the step ran, so that who only puts folders in their places has little to do for each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from esft_bench.harness.store.manifest import MANIFEST, Manifest
from esft_bench.harness.store.soundness import Found, files_in, settled
from esft_bench.spec.files import digest_of_digests, sync


@dataclass(frozen=True)
class Sealed:
    """What was closed: the sizes of all its files, its manifest's too, by name, and the digest and seal in that."""

    sizes: Mapping[str, int]
    digest: str
    seal: str

    def fits(self, found: Found) -> bool:
        """Whether files may be those: they have the names and the sizes."""
        return {name: stat.st_size for name, stat in found.items()} == self.sizes


def seal(built: Path, manifest: Manifest, measured: Mapping[str, Any]) -> Sealed:
    """Write the manifest of what lies in a folder, with what making it measured; the folder is as it stays then."""
    (built / MANIFEST).unlink(missing_ok=True)  # of somebody who closed it before more was written
    files = settled(built)
    digest = digest_of_digests({name: file.sha256 for name, file in files.items()})
    made = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"files": files, "digest": digest, "measured": dict(measured), "made": made}
    whole = manifest.model_copy(update=told).sealed
    (built / MANIFEST).write_text(whole.text, encoding="utf-8")
    sync(built / MANIFEST)
    built.chmod(0o755)
    sync(built)
    return Sealed({name: stat.st_size for name, stat in files_in(built).items()}, digest, whole.seal)
