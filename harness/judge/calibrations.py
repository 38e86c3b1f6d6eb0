"""Where calibrations of judges are kept, and how a run takes those of its judge along."""

from collections.abc import Mapping
from pathlib import Path

from esft_bench.harness.judge.base import Judge
from esft_bench.harness.judge.cache import default_cache
from esft_bench.harness.judge.question import rubric_key
from esft_bench.reports import calibration
from esft_bench.spec.files import canonical, digest_of_text
from esft_bench.tasks.task import Rubric


def default_file() -> Path:
    """Where calibrations are kept, beside the replies."""
    return default_cache().with_name(calibration.NAME)


def identity(judge: Judge) -> str:
    """A digest of what makes a judge another one."""
    return digest_of_text(canonical(judge.identity))


def carry(rubrics: Mapping[str, Rubric], judge: Judge, folder: Path) -> None:
    """Copy what is known of a run's judge on the rubrics of its benchmarks, by name, into the run's folder."""
    wanted: dict[str, list[str]] = {}
    for benchmark, rubric in rubrics.items():
        wanted.setdefault(rubric_key(rubric), []).append(benchmark)
    try:
        entries = calibration.read(default_file())
    except ValueError:  # no reason to stop a run; `judge calibrate` says what is wrong with it
        entries = []
    known = [
        entry.model_copy(update={"benchmarks": wanted[entry.rubric]})
        for entry in entries
        if entry.identity == identity(judge) and entry.rubric in wanted
    ]
    if known:
        calibration.write(folder / calibration.NAME, known)
    else:
        (folder / calibration.NAME).unlink(missing_ok=True)
