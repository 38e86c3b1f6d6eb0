"""Prompt formats: how a conversation becomes the text, and the ids, that a model sees, in training as in testing.

Both come from the same functions: a question at the server is the text, part by part, that training put before its
answer. `release` is the ESFT paper's format, `chat_template` the tokenizer's own.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any, ClassVar

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from esft_bench.spec.backbone import Prompt
from esft_bench.spec.errors import UserError
from esft_bench.tasks import prompt
from esft_bench.tasks.prompt import CLOSE, OPEN, SEAM, WHOLE, control
from esft_bench.tasks.task import Conversation, Message

Turn = tuple[str, str]
"""What is asked, all that was said before included, and the answer with its end."""
HIDDEN, ANSWER = "\ufdd4", "\ufdd5"
"""What keeps a text from being a control token, and what stands for an answer, while a template is at work."""
TODAY = datetime(2025, 1, 1, tzinfo=UTC)
"""The date that templates are told which ask for it: the ids of a row must not depend on the day of the run."""
NO_THINKING = {"enable_thinking": False, "thinking": False}
"""What templates are told that know how to leave thinking out."""


class Form(ABC):
    """A prompt format with a tokenizer."""

    name: ClassVar[Prompt]

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @abstractmethod
    def rendered(self, history: Sequence[Message], message: Message) -> Turn:
        """What stands before an assistant's message, and the message with its end. Raises UserError."""

    @property
    @abstractmethod
    def lead(self) -> str:
        """What stands between a question and an answer that is no message of a conversation."""

    def turns(self, conversation: Conversation) -> list[Turn]:
        """Each of the assistant's messages as a turn.

        Where a question goes on from the turn before it, the seams are marked, so that it has that one's ids.
        Raises UserError where the format cannot take the conversation.
        """
        found: list[Turn] = []
        plain = seamed = ""
        for place, message in enumerate(conversation):
            if message["role"] != "assistant":
                continue
            question, answer = self.rendered(conversation[:place], message)
            goes_on = bool(found) and question.startswith(plain)
            text = seamed + question[len(plain) :] if goes_on else question
            found.append((text, answer))
            plain, seamed = question + answer, text + SEAM + answer + SEAM
        return found

    def question(self, messages: Sequence[Message]) -> str:
        """What a model is asked: the messages, and the beginning of the answer."""
        return self.turns([*messages, {"role": "assistant", "content": "x"}])[-1][0]


class Release(Form):
    """The ESFT paper's format, for models without a format of their own."""

    name = "release"
    lead = " "

    def rendered(self, history: Sequence[Message], message: Message) -> Turn:
        """See `Form.rendered`."""
        if refused := prompt.refusal([*history, message]):
            raise UserError(f"{refused}: leave them out, or set backbone.prompt to chat_template.")
        begin, end = control(self.tokenizer.bos_token), control(self.tokenizer.eos_token)
        texts = [
            (begin if place else "") + prompt.question(each["content"])
            if each["role"] == "user"
            else prompt.answer(each["content"]) + end
            for place, each in enumerate(history)
        ]
        return "".join(texts), prompt.answer(message["content"]) + end


class ChatTemplate(Form):
    """The tokenizer's own chat template, without thinking where it can be left out."""

    name = "chat_template"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        if not tokenizer.chat_template:
            raise UserError("The tokenizer has no chat template: set backbone.prompt to release.")

    def rendered(self, history: Sequence[Message], message: Message) -> Turn:
        """See `Form.rendered`: an answer begins where the template would put an answer of plain text."""
        before, found, after = self._render([*history, {"role": "assistant", "content": ANSWER}]).partition(ANSWER)
        if not found:
            raise UserError("the chat template leaves answers out: set backbone.prompt to release.")
        whole = self._render([*history, message])
        if not (whole.startswith(before) and whole.endswith(after)):
            raise UserError("the chat template begins or ends this answer otherwise than answers of plain text.")
        asked = before.rstrip(" ")  # a space before an answer is its first token's, as it is in answers of models
        content = whole[len(asked) : len(whole) - len(after)]
        return WHOLE + asked, content + _end(after, self.tokenizer)

    @cached_property
    def lead(self) -> str:
        """See `Form.lead`: the space, if any, that the template puts before answers."""
        _, answer = self.rendered([{"role": "user", "content": "x"}], {"role": "assistant", "content": "x"})
        return answer[: len(answer) - len(answer.lstrip(" "))]

    def _render(self, messages: Sequence[Message]) -> str:
        """The messages as the template has them, its control tokens marked. Raises UserError with what it says."""
        hidden = [_hide(each, self.special) for each in messages]
        shown = [{key: value for key, value in each.items() if key != "tools"} for each in hidden]
        tools = next((each["tools"] for each in messages if each.get("tools")), None)
        date = {"strftime_now": TODAY.strftime, "date_string": TODAY.strftime("%d %b %Y")}
        try:
            text = self.tokenizer.apply_chat_template(shown, tools=tools, tokenize=False, **NO_THINKING, **date)
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"the chat template cannot take it ({' '.join(str(error).split())[:160]}).") from error
        return self.special.sub(lambda found: control(found[0]), str(text)).replace(HIDDEN, "")

    @cached_property
    def special(self) -> re.Pattern[str]:
        """The texts that the tokenizer takes for control tokens."""
        return special_tokens(self.tokenizer)


@lru_cache(8)
def special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """A pattern of the texts that a tokenizer takes for control tokens, the longest first."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    texts = sorted({*tokenizer.all_special_tokens, *added}, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


def _hide(value: Any, special: re.Pattern[str]) -> Any:
    """A value with no control token in any of its texts."""
    if isinstance(value, str):
        return special.sub(lambda found: found[0][0] + HIDDEN + found[0][1:], value)
    if isinstance(value, dict):
        return {key: _hide(each, special) for key, each in value.items()}
    return [_hide(each, special) for each in value] if isinstance(value, list) else value


def _end(after: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """How an answer ends, of what a template puts after it: up to its first control token, or EOS."""
    text, mark, rest = after.partition(CLOSE)
    return text + mark if rest or mark else control(tokenizer.eos_token)


def form_of(name: Prompt, tokenizer: PreTrainedTokenizerBase) -> Form:
    """The prompt format of that name; `auto` is the tokenizer's own where it has one."""
    own = name == "chat_template" or (name == "auto" and bool(tokenizer.chat_template))
    return ChatTemplate(tokenizer) if own else Release(tokenizer)


def ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: EOS, and the one that ends a turn in the tokenizer's own format."""
    found = [tokenizer.eos_token_id]
    if tokenizer.chat_template:
        try:
            form = ChatTemplate(tokenizer)
            _, answer = form.rendered([{"role": "user", "content": "x"}], {"role": "assistant", "content": "x"})
            found.append(text_ids(tokenizer, answer)[-1])
        except UserError:  # a template that cannot do that is in no use here
            pass
    return list(dict.fromkeys(found))


def question_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a question: what stands before it, the text, and nothing after it."""
    return [*beginning(tokenizer, text), *text_ids(tokenizer, text)]


def beginning(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """What stands before a question: BOS, if there is one and the text is not whole already."""
    return [] if tokenizer.bos_token_id is None or text.startswith(WHOLE) else [tokenizer.bos_token_id]


def parted(context: str, continuation: str) -> tuple[str, str]:
    """A question and what may follow it, as they are encoded: spaces between them belong to the latter.

    Where the question was written by a template, they are the template's.
    """
    kept = context if context.startswith(WHOLE) else context.rstrip()
    return kept, context[len(kept) :] + continuation


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text that goes on from another one, whatever the tokenizer likes to put around texts.

    Control tokens are those that are marked as such, and no others.
    """
    return [token for part in text.removeprefix(WHOLE).split(SEAM) for token in _part_ids(tokenizer, part)]


def ids_of_texts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> dict[str, list[int]]:
    """`text_ids` of many texts: what it encodes as a whole is encoded in one go, which is many times faster."""
    parts = {text: text.removeprefix(WHOLE).split(SEAM) for text in texts}
    whole = {part: _as_whole(tokenizer, part) for each in parts.values() for part in each}
    known: dict[str, list[int]] = {}
    for split in (True, False):
        found = {part: told[0] for part, told in whole.items() if told is not None and told[1] == split}
        if found:
            told = tokenizer(list(found.values()), add_special_tokens=False, **_splitting(split))
            known |= dict(zip(found, told["input_ids"], strict=True))
    alone = {part: _part_ids(tokenizer, part) for part in whole if part not in known}
    known |= alone
    return {text: [token for part in each for token in known[part]] for text, each in parts.items()}


def _as_whole(tokenizer: PreTrainedTokenizerBase, part: str) -> tuple[str, bool] | None:
    """The text as which the tokenizer encodes a part, and whether what looks like control tokens is text there.

    None where control tokens have to be told from such texts, and for nothing.
    """
    pieces = _pieces(part)
    if len(pieces) == 1:
        return (part, True) if part else None
    if any(special_tokens(tokenizer).search(each) for each in pieces[::2] if each):
        return None
    return prompt.unmarked(part), False  # as the tokenizer itself reads what its template writes


def _pieces(part: str) -> list[str]:
    """Texts, and between them control tokens."""
    return re.split(f"{OPEN}(.*?){CLOSE}", part, flags=re.DOTALL)


def _splitting(split: bool) -> dict[str, bool]:
    return {"split_special_tokens": True} if split else {}


def _part_ids(tokenizer: PreTrainedTokenizerBase, part: str) -> list[int]:
    if (whole := _as_whole(tokenizer, part)) is not None:
        return list(tokenizer.encode(whole[0], add_special_tokens=False, **_splitting(whole[1])))
    ids: list[int] = []
    for place, piece in enumerate(_pieces(part)):
        if place % 2:
            ids.append(tokenizer.convert_tokens_to_ids(piece))
        elif piece:
            ids += tokenizer.encode(piece, add_special_tokens=False, **_splitting(True))
    return ids
