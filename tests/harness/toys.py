"""Toy steps, each of which does one thing; as a program, a parent whose one child sleeps."""

import itertools
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from esft_bench.harness.execute.local import LocalExecutor
from esft_bench.harness.judge import make_judge
from esft_bench.harness.judge.panel import Panel
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.step import Content, Job, Parallelism, Resources, Step
from esft_bench.harness.store.keys import Code
from esft_bench.spec.errors import UserError
from esft_bench.spec.judge import JudgeSettings
from esft_bench.spec.progress import Progress
from esft_bench.spec.sections import Evaluation


@dataclass(frozen=True, eq=False)
class Toy(Step):
    """A step that does what its name says, on what other toys left."""

    kind: ClassVar[str] = "toy"
    does: str
    after: tuple[Step, ...] = ()
    told: str = ""
    holds: str = "process"
    model: str = ""

    @property
    def label(self) -> str:
        return self.does

    @property
    def needs(self) -> Mapping[str, Step]:
        return {str(number): step for number, step in enumerate(self.after)}

    @property
    def contents(self) -> Mapping[str, Content]:
        return {}

    @property
    def settings(self) -> dict[str, Any]:
        return {"does": self.does, "told": self.told}

    @property
    def code(self) -> Code:
        return Code(("esft_bench.spec.errors",))

    @property
    def resources(self) -> Resources:
        engine = EngineSettings("none", "float32", 128, Evaluation()) if self.holds == "engine" else None
        return Resources(self.holds, engine, self.model)  # type: ignore[arg-type]

    def run(self, job: Job) -> dict[str, Any]:
        earlier = [(folder / "text").read_text() for folder in job.inputs.values()]
        (job.out / "text").write_text("".join([*earlier, self.does[0]]))
        return dict(getattr(self, f"_{self.does}")(job) or {})

    def _works(self, job: Job) -> dict[str, Any]:
        for step in range(3):
            job.progress(step + 1, 3)
        print("a line for the log")
        return {"pid": os.getpid(), "said": self.told}

    def _is_refused(self, job: Job) -> None:
        raise UserError("the data are odd: mend them.")

    def _breaks(self, job: Job) -> None:
        raise RuntimeError("boom")

    def _fills_the_disk(self, job: Job) -> None:
        with open("/dev/full", "w") as file:  # noqa: PTH123
            file.write("x" * 100_000)

    def _dies(self, job: Job) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _sleeps(self, job: Job) -> None:
        Path(self.told).write_text(str(os.getpid()))
        time.sleep(120)


class Sociable(Toy):
    """A toy that notes how many were run with it, and does not run with those that break."""

    together: ClassVar[bool] = True

    @classmethod
    def run_together(cls, work: Sequence[tuple[Self, Job]]) -> list[dict[str, Any]]:
        if any(step.does == "breaks" for step, _ in work):
            raise RuntimeError("one of us breaks")
        return [step.run(job) | {"together": len(work)} for step, job in work]


def executor(folder: Path, workers: int = 1) -> LocalExecutor:
    """An executor of this machine whose log lies in a folder."""
    return LocalExecutor(Parallelism(workers), folder, Panel([make_judge(JudgeSettings())]), batches=False)


def job(folder: Path) -> Job:
    """A job with folders of its own."""
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    return Job({}, out, scratch)


def refuses_its_share(arguments: dict[str, Any], progress: object) -> None:
    raise UserError(f"{arguments['what']} cannot be had.")


def ends_in_its_share(told: dict[str, Any], progress: object) -> None:
    """Say which of how many this process is; then the second one ends, as by a killer, while the first waits for it."""
    from accelerate import PartialState  # here: the other toys start without it

    state = PartialState()
    (Path(told["folder"]) / f"{state.process_index} of {state.num_processes}").touch()
    state.wait_for_everyone()
    if state.process_index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    state.wait_for_everyone()


def ends_while_it_reads(told: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """A share of a training, in which the process `ends[0]` ends as by a killer when it has read `ends[1]` tensors."""
    from accelerate import PartialState

    from esft_bench.harness.training.cell import share_of_training
    from esft_bench.methods.moe import places

    read, count = places._read_into, itertools.count(1)

    def reads(*arguments: Any) -> None:
        read(*arguments)
        if [PartialState().process_index, next(count)] == told["ends"]:
            os.kill(os.getpid(), signal.SIGKILL)

    places.__dict__["_read_into"] = reads
    return share_of_training(told, progress)


def sleeps_over_its_share(arguments: dict[str, Any], progress: object) -> None:
    Path(arguments["folder"], f"{os.getpid()}.pid").touch()
    time.sleep(600)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    parent = executor(place)
    parent.start(Toy("sleeps", told=sys.argv[2]), job(place))
    while True:
        parent.wait()
