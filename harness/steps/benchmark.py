"""A benchmark as steps know it: what is asked, how it is scored, and what makes it another one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esft_bench.harness.steps.step import Content


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as a step knows it that has a model answer it.

    Attributes:
        name, title, version, metric: as the task has them.
        lm_eval: its lm-eval configuration.
        files: digest of that, of those it includes and of what else lies beside them.
        modules: the modules that score, the sandbox among them where code is run.
        otherwise: what of the configuration is otherwise than in the file.
    """

    name: str
    title: str
    version: int
    metric: str
    lm_eval: Path
    files: str
    modules: tuple[str, ...] = ()
    otherwise: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def settings(self) -> dict[str, Any]:
        """What makes it another one."""
        told = {"name": self.name, "version": self.version, "metric": self.metric, "files": self.files}
        return told | ({"otherwise": dict(self.otherwise)} if self.otherwise else {})


@dataclass(frozen=True)
class Looks:
    """What a model is scored on while it trains: benchmarks with their items, and the most tokens of an answer's text.

    `longest` counts question and answer together.
    """

    benchmarks: tuple[tuple[Benchmark, Content], ...] = ()
    longest: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """What makes it another one, besides the items."""
        return {"scored": [benchmark.settings for benchmark, _ in self.benchmarks], "longest": self.longest}

    @property
    def contents(self) -> dict[str, Content]:
        """The items, by role."""
        return {f"scored {number}": items for number, (_, items) in enumerate(self.benchmarks)}

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that ask and score."""
        scoring = [name for benchmark, _ in self.benchmarks for name in benchmark.modules]
        return ("esft_bench.harness.training.scoring", *dict.fromkeys(scoring)) if self.benchmarks else ()

    @property
    def told(self) -> list[dict[str, Any]]:
        """As `training.scoring.Scored` has it."""
        return [
            {
                "name": each.name,
                "metric": each.metric,
                "lm_eval": each.lm_eval,
                "otherwise": dict(each.otherwise),
                "items": items.path,
            }
            for each, items in self.benchmarks
        ]


UNSCORED = Looks()
