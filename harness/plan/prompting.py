"""The prompt format of a plan: which one a backbone is spoken to in, and which conversations it takes."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from esft_bench.harness.backbone.files import CONFIG
from esft_bench.harness.plan.rows import Refusal
from esft_bench.spec.errors import UserError
from esft_bench.spec.suite import Backbone
from esft_bench.tasks import prompt
from esft_bench.tasks.task import Message

BASE = re.compile(r"(?<![a-z])base(?![a-z])", re.IGNORECASE)
"""In the name of a model that nobody has taught to chat, whatever its tokenizer brings along."""
SETTINGS, TEMPLATE = "tokenizer_config.json", "chat_template*"


def with_prompt(backbone: Backbone, folder: Path) -> Backbone:
    """The backbone, whose checkpoint lies in a folder, with its prompt format settled.

    Raises UserError where a chat template is asked for and there is none.
    """
    there = has_template(folder)
    if backbone.prompt == "chat_template" and not there:
        raise UserError(f"backbone.prompt: the tokenizer in {folder} has no chat template: set it to release.")
    if backbone.prompt != "auto":
        return backbone
    chats = there and not any(BASE.search(name) for name in (Path(backbone.path).name, _own_name(folder)))
    return backbone.model_copy(update={"prompt": "chat_template" if chats else "release"})


def has_template(folder: Path) -> bool:
    """Whether the tokenizer in a folder has a chat template."""
    return any(folder.glob(TEMPLATE)) or bool(_read(folder / SETTINGS).get("chat_template"))


def _own_name(folder: Path) -> str:
    return str(_read(folder / CONFIG).get("_name_or_path", ""))


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


class Prompting:
    """What a backbone's prompt format, settled, says of conversations; `identity` is what makes it another one."""

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        self.backbone, self.folder = backbone, folder
        templates = [folder / SETTINGS, *sorted(folder.glob(TEMPLATE))]
        told = [path.read_text("utf-8") for path in templates if path.is_file()]
        self.identity = ["release"] if backbone.prompt == "release" else ["chat_template", *told]

    @property
    def refusal(self) -> Refusal:
        """Why it cannot take a conversation."""
        return prompt.refusal if self.backbone.prompt == "release" else self._refusal

    def _refusal(self, messages: Sequence[Message]) -> str:
        try:
            answered = messages[-1]["role"] == "assistant"
            self.form.turns(list(messages)) if answered else self.form.question(messages)
        except UserError as error:
            return str(error).removesuffix(".")
        return ""

    @cached_property
    def form(self) -> Any:
        """The format with the backbone's tokenizer."""
        from esft_bench.harness.backbone.model import load_tokenizer  # here: transformers takes seconds to import
        from esft_bench.harness.backbone.prompts import form_of

        return form_of(self.backbone.prompt, load_tokenizer(self.folder, self.backbone.trust_remote_code))
