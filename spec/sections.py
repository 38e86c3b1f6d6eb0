"""Sections of a suite that stand by themselves: its slice, its testing, further tables, addresses of data."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from esft_bench.spec.names import Count, Names, Title
from esft_bench.spec.strict import Strict


class Quick(Strict):
    """What `--quick` keeps: a slice to see the whole path work. `limit`: the first items of each benchmark."""

    tasks: Names = Field(min_length=1)
    methods: Names = Field(min_length=1)
    limit: Count | None = None


class Repeats(Strict):
    """Which cells are asked more than once: the first trained `cells`, `times` times in all.

    Greedy answers change with how requests are batched; what that does to scores is told apart from all else.
    """

    cells: Count = 1
    times: Annotated[int, Field(ge=2, le=100)] = 3


def _address(value: str) -> str:
    """An address of a server without what follows it, and without a key."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("a server's address is http://HOST:PORT")
    if parts.username or parts.password:
        raise ValueError("leave out the key: it is read from the variable that key_env names")
    return value.rstrip("/").removesuffix("/v1").rstrip("/")


Address = Annotated[str, AfterValidator(_address)]
"""Where a server is, as http://HOST:PORT."""


class Evaluation(Strict):
    """How answers are generated: by a vLLM server, or in-process by transformers where vLLM cannot run.

    `batch_size` and `port` are transport: they do not change results. `limit` keeps the first items of each benchmark.
    With `repeats` some cells are asked again, to see how much decoding alone changes. `endpoints` are vLLM servers that
    others run, asked in place of our own, with the key that the environment has under the name `key_env`, if any.
    `tensor_parallel` is how many GPUs share a served model, in place of as many as the estimate says it needs.
    """

    engine: Literal["vllm", "transformers"] = "vllm"
    max_length: Count = 4096
    limit: Count | None = None
    port: int | None = Field(None, ge=1, le=65535)
    batch_size: Count = 64
    repeats: Repeats | None = None
    endpoints: tuple[Address, ...] = ()
    key_env: str = "VLLM_API_KEY"
    tensor_parallel: Count | None = None

    @model_validator(mode="after")
    def _fits_the_engine(self) -> Self:
        if self.engine != "vllm" and (self.endpoints or self.tensor_parallel):
            raise ValueError("endpoints and tensor_parallel are for the engine vllm")
        if self.endpoints and (self.tensor_parallel or self.port):
            raise ValueError("endpoints are started by others: leave out tensor_parallel and port")
        if len(set(self.endpoints)) < len(self.endpoints):
            raise ValueError("endpoints: an address stands there twice")
        return self


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
