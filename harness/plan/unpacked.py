"""A quantised backbone in a plan: where it is unpacked to, and what that takes.

The unpacked checkpoint is an artifact, which all runs of a store share. Its digest is that of the same files anywhere
else, so that what was computed on them is found again.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from esft_bench.harness.backbone import files as backbones
from esft_bench.harness.backbone.packing import packing
from esft_bench.harness.steps.step import Content
from esft_bench.harness.steps.unpack import UnpackStep
from esft_bench.harness.store.artifacts import Artifact, DamagedError, Store
from esft_bench.harness.store.names import CHECKPOINT
from esft_bench.spec.files import digest_of_digests

GIB = 2**30


@dataclass(frozen=True)
class Unpacking:
    """A quantised backbone, and what it is unpacked to.

    Attributes:
        step: what unpacks it.
        store: where that is kept.
        artifact: the unpacked one, where it is there.
    """

    step: UnpackStep
    store: Store
    artifact: Artifact | None

    @property
    def content(self) -> Content:
        """What steps read: the unpacked checkpoint; until it is there the quantised one, for its configuration."""
        if self.artifact is None:
            return replace(self.step.backbone, digest=f"not unpacked yet: {self.step.key({})}")
        return Content(self.artifact.folder / CHECKPOINT, _digest(self.artifact))

    @property
    def sentence(self) -> str:
        """What is to be said of it, in a plan and in the report."""
        ships = f"The backbone ships in {self.step.packing.title}"
        if self.artifact is not None:
            return f"{ships} and was unpacked to bfloat16, from which every row starts."
        from esft_bench.harness.backbone.unpack import size_of  # here: it brings torch along

        size, free = size_of(self.step.backbone.path, self.step.packing), shutil.disk_usage(self.store.root).free
        takes = "a size that is known when its weights are here"
        if size:
            takes = f"{'' if size[1] else 'at most '}{size[0] / GIB:.1f} GiB"
        return (
            f"{ships}: a run first unpacks it to bfloat16, once for all runs, into {self.store.root / self.step.kind} "
            f"({takes}; {free / GIB:.1f} GiB are free)."
        )


def unpacking_of(folder: Path, digest: str, store: Store, *, whole: bool) -> Unpacking | None:
    """The unpacking of a checkpoint; None where that is not quantised.

    With `whole` the unpacked one counts as there only if all of it is what was written; it is read for that once, and
    again where its files were touched. Raises UserError for another quantisation.
    """
    packed = packing(folder)
    if packed is None:
        return None
    step = UnpackStep(Content(folder, digest), packed)
    artifact = store.find(step.kind, step.key({}))
    if artifact and whole and not _is_sound(artifact, store):
        artifact = None
    return Unpacking(step, store, artifact)


def _digest(artifact: Artifact) -> str:
    """The digest of the unpacked checkpoint, as it is that of any other (see backbones.digest), by the manifest."""
    files = {Path(name): file.sha256 for name, file in artifact.manifest.files.items()}
    return digest_of_digests({path.name: files[path] for path in sorted(files)})


def _is_sound(artifact: Artifact, store: Store) -> bool:
    """Whether it is what was written; the store says so where it is not, and makes it again."""
    if backbones.digest(artifact.folder / CHECKPOINT, store.notes(backbones.NOTES)) == _digest(artifact):
        return True
    try:
        store.check(artifact, again=True)
    except DamagedError:
        return False
    return True
