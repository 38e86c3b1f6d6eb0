"""Texts with marks, and the prompt format of the ESFT release.

Whatever a user wrote is text, also where it looks like a control token; what is one stands between two marks. The marks
are noncharacters of Unicode, which no text may hold.

The release: `User: {input}\\n\\nAssistant:` + ` {answer}` + EOS, BOS first (facts of the official training code,
deepseek-ai/ESFT, utils.py); loss on the answers only. It knows no system messages and no tools.
"""

from collections.abc import Sequence

from esft_bench.tasks.task import Conversation, Message

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Around a control token."""
WHOLE = "\ufdd2"
"""First in a text to which nothing may be added, BOS for one."""
SEAM = "\ufdd3"
"""Between parts that become ids each by itself."""
MARKS = OPEN + CLOSE + WHOLE + SEAM + "\ufdd4\ufdd5"
"""All noncharacters that are in use; the last two hide texts from chat templates."""


def control(token: str | None) -> str:
    """A control token as it stands in a text; nothing for none."""
    return f"{OPEN}{token}{CLOSE}" if token else ""


def unmarked(text: str) -> str:
    """A text as people read it."""
    return text.translate(dict.fromkeys(map(ord, MARKS)))


def question(prompt: str) -> str:
    """The text a model is given for a user's prompt; the answer follows after one space."""
    return f"User: {prompt}\n\nAssistant:"


def answer(content: str) -> str:
    """The text of an answer, without its end."""
    return " " + content


def segments(conversation: Conversation) -> list[tuple[str, bool]]:
    """Split a conversation into texts with whether the loss counts there: (question, False), (answer, True), …

    BOS goes before each question and EOS after each answer.
    """
    return [
        (question(message["content"]), False) if message["role"] == "user" else (answer(message["content"]), True)
        for message in conversation
    ]


def refusal(messages: Sequence[Message]) -> str:
    """Why the release's format cannot take a conversation, or its beginning; empty where it can."""
    other = next((message for message in messages if message["role"] not in ("user", "assistant")), None)
    if other is not None or any(message.get("tool_calls") or message.get("tools") for message in messages):
        what = f"messages of the role '{other['role']}'" if other else "tools"
        return f"the prompt format `release` has no place for {what}"
    roles = [message["role"] for message in messages]
    if roles != [("user", "assistant")[place % 2] for place in range(len(roles))]:
        return f"its messages must take turns, user first and assistant last, and are {', '.join(roles[:8])}"
    return ""
