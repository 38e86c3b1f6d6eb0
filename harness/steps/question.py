"""The question step: a benchmark's requests, built and tokenised once for all models of a backbone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from esft_bench.harness.steps.benchmark import Benchmark
from esft_bench.harness.steps.step import Content, Job, Resources, Step
from esft_bench.harness.store.keys import Code
from esft_bench.spec.files import read_jsonl
from esft_bench.spec.suite import Backbone

HOW = ("esft_bench.harness.serving.questions", "esft_bench.harness.backbone.prompts")
LIBRARIES = ("lm_eval", "jinja2", "datasets", "transformers", "tokenizers")


@dataclass(frozen=True, eq=False)
class QuestionStep(Step):
    """Build a benchmark's requests: items through its prompt, and texts through the backbone's tokenizer."""

    kind: ClassVar[str] = "questions"
    benchmark: Benchmark
    items: Content
    backbone: Content
    loading: Backbone

    @property
    def label(self) -> str:
        """The benchmark."""
        return f"questions · {self.benchmark.title}"

    @property
    def needs(self) -> Mapping[str, Step]:
        """Nothing."""
        return {}

    @property
    def contents(self) -> Mapping[str, Content]:
        """The checkpoint, for its tokenizer, and items."""
        return {"backbone": self.backbone, "items": self.items}

    @property
    def settings(self) -> dict[str, Any]:
        """The benchmark with its prompt, and how the tokenizer is loaded."""
        loading = {"trust_remote_code": self.loading.trust_remote_code, "prompt": self.loading.prompt}
        return {"benchmark": self.benchmark.settings, **loading}

    @property
    def code(self) -> Code:
        """What builds and encodes requests."""
        return Code((*HOW, *self.benchmark.modules), LIBRARIES)

    @property
    def resources(self) -> Resources:
        """A process, and no accelerator."""
        return Resources("process", gpus=0)

    def run(self, job: Job) -> dict[str, Any]:
        """Build and encode."""
        from esft_bench.harness.backbone.model import load_tokenizer  # here: it takes seconds to import
        from esft_bench.harness.backbone.prompts import form_of
        from esft_bench.harness.serving.questions import write_questions

        tokenizer = load_tokenizer(self.backbone.path, self.loading.trust_remote_code)
        items = list(read_jsonl(self.items.path))
        form = form_of(self.loading.prompt, tokenizer)
        return {"requests": write_questions(self.benchmark, items, form, job.out)}
