"""The profile step: the expert statistics of a model on a task's training data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from esft_bench.harness.steps.step import Content, Job, Resources, Step
from esft_bench.harness.store.keys import Code
from esft_bench.spec.files import made_folder
from esft_bench.spec.suite import Backbone, Profiling

CODE = Code(("esft_bench.harness.training.profiling",), ("torch", "transformers", "tokenizers", "safetensors"))


@dataclass(frozen=True, eq=False)
class ProfileStep(Step):
    """Profile a model's experts on a task's conversations.

    Attributes:
        task, data: the task's name, and its conversations.
        backbone, loading: the checkpoint that the model comes from, and how it is loaded.
        profiling: how much of the data is looked at.
        model: the trainings that made the model from the backbone, in order; none for the backbone itself.
        apart: among how many processes its experts are shared out, where a suite has that.
    """

    kind: ClassVar[str] = "profile"
    task: str
    data: Content
    backbone: Content
    loading: Backbone
    profiling: Profiling
    model: tuple[Step, ...] = ()
    apart: int | None = None

    @property
    def label(self) -> str:
        """The task, and the training whose model it is."""
        return f"profile · {self.task}" if not self.model else f"{self.model[-1].label}, profile · {self.task}"

    @property
    def needs(self) -> Mapping[str, Step]:
        """The trainings that made the model."""
        return {f"training {number}": step for number, step in enumerate(self.model)}

    @property
    def contents(self) -> Mapping[str, Content]:
        """Backbone and conversations."""
        return {"backbone": self.backbone, "data": self.data}

    @property
    def settings(self) -> dict[str, Any]:
        """How much is looked at, and how the model is loaded."""
        return {"profiling": self.profiling.model_dump(exclude={"after_training"}), **loading(self.loading)}

    @property
    def code(self) -> Code:
        """Profiling, and the libraries that run the model."""
        return CODE

    @property
    def resources(self) -> Resources:
        """The model in memory, of one process or several."""
        return Resources("process", gpus=self.apart or 1)

    def run(self, job: Job) -> dict[str, Any]:
        """Profile."""
        from esft_bench.harness.training.profiling import Start, profile_task  # here: torch takes seconds to import

        start = Start(self.backbone.path, self.loading, list(job.inputs.values()))
        told = (start, self.data.path, self.profiling, job.out, made_folder(job.scratch))
        if self.apart is None:
            return profile_task(*told)
        from esft_bench.harness.training.profiling_apart import profile_apart
        from esft_bench.harness.training.together.machines import Crew

        return profile_apart(*told, Crew(self.apart, job.parallelism.machines))


def loading(backbone: Backbone) -> dict[str, Any]:
    """How a backbone is loaded, as far as it changes a result."""
    return backbone.model_dump(include={"precision", "trust_remote_code", "prompt"})
