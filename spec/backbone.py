"""The backbone of a suite: which model, in which precision, and how it is spoken to."""

from typing import Literal

from pydantic import Field

from esft_bench.spec.strict import Strict

Prompt = Literal["auto", "release", "chat_template"]


class Backbone(Strict):
    """The model every cell starts from.

    `path` is `mini` (the one that ships), a folder, or a name on the hub (then with a `revision`). `precision` is
    that of weights and products: `float32`; `bf16-mixed`, float32 weights with bf16 products; `bf16`, the same for
    weights that are trained, while those that are frozen are bf16, as the adapters are that come out.

    `prompt` is the format that conversations are put in: `release`, the ESFT paper's, or `chat_template`, the
    tokenizer's own; `auto` takes the latter for a chat model, which has a template and is not called a base model.
    """

    path: str = Field("mini", min_length=1)
    revision: str | None = None
    precision: Literal["float32", "bf16-mixed", "bf16"] = "float32"
    trust_remote_code: bool = False
    prompt: Prompt = "auto"
