"""Sections of a suite that stand by themselves: its slice, its testing, further tables, addresses of data."""

from typing import Annotated, Literal

from pydantic import Field

from esft_bench.spec.names import Count, Names, Title
from esft_bench.spec.strict import Strict


class Quick(Strict):
    """What `--quick` keeps: a slice to see the whole path work."""

    tasks: Names = Field(min_length=1)
    methods: Names = Field(min_length=1)


class Repeats(Strict):
    """Which cells are asked more than once: the first trained `cells`, `times` times in all.

    Greedy answers change with how requests are batched; what that does to scores is told apart from all else.
    """

    cells: Count = 1
    times: Annotated[int, Field(ge=2, le=100)] = 3


class Evaluation(Strict):
    """How answers are generated: by a vLLM server, or in-process by transformers where vLLM cannot run.

    `batch_size` and `port` are transport: they do not change results. `limit` keeps the first items of each benchmark.
    With `repeats` some cells are asked again, to see how much decoding alone changes.
    """

    engine: Literal["vllm", "transformers"] = "vllm"
    max_length: Count = 4096
    limit: Count | None = None
    port: int | None = Field(None, ge=1, le=65535)
    batch_size: Count = 64
    repeats: Repeats | None = None


class TableOf(Strict):
    """A further table in the report: some rows, compared among themselves, on the tasks or the general benchmarks."""

    title: Title
    rows: Names = Field(min_length=1)
    role: Literal["ability", "general"] = "ability"


class DataAddress(Strict):
    """Where on the hub a data set lies, if not where its task has it. A new `hub` name needs a `revision`."""

    hub: str = ""
    revision: str = ""
    config: str = ""
