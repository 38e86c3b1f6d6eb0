"""The step that unpacks a quantised backbone: what all others of a suite read in its place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from esft_bench.harness.backbone.packing import Packing
from esft_bench.harness.steps.step import Content, Job, Resources, Step
from esft_bench.harness.store.keys import Code
from esft_bench.harness.store.names import CHECKPOINT
from esft_bench.spec.files import made_folder


@dataclass(frozen=True, eq=False)
class UnpackStep(Step):
    """Write the backbone's weights as bfloat16.

    Attributes:
        backbone: the checkpoint as it ships.
        packing: how its weights are quantised.
    """

    kind: ClassVar[str] = "unpacked"
    backbone: Content
    packing: Packing

    @property
    def label(self) -> str:
        """The format it is unpacked from."""
        return f"backbone, from {self.packing.title}"

    @property
    def needs(self) -> Mapping[str, Step]:
        """Nothing."""
        return {}

    @property
    def contents(self) -> Mapping[str, Content]:
        """The checkpoint as it ships, its configuration with it."""
        return {"backbone": self.backbone}

    @property
    def settings(self) -> dict[str, Any]:
        """Nothing: the checkpoint says how it is to be read."""
        return {}

    @property
    def code(self) -> Code:
        """What reads and writes tensors; the arithmetic is exact or rounded once, so no library counts."""
        return Code(("esft_bench.harness.backbone.unpack",))

    @property
    def resources(self) -> Resources:
        """One file's tensors in memory."""
        return Resources("process", gpus=0)

    def run(self, job: Job) -> dict[str, Any]:
        """Unpack it; see harness/backbone/unpack.py for what is raised."""
        from esft_bench.harness.backbone.unpack import unpack  # here: they bring torch along
        from esft_bench.harness.meter import metered

        measured: dict[str, Any] = {}
        with metered(measured):
            folder = job.out / CHECKPOINT
            folder.mkdir()
            unpack(self.backbone.path, self.packing, made_folder(job.scratch), folder, job.progress)
        return measured
