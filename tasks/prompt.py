"""The prompt format of the ESFT release: `User: {input}\\n\\nAssistant:` + ` {answer}` + EOS, BOS first.

Source: facts of the official training code (deepseek-ai/ESFT, utils.py); loss on the answers only.
"""

from esft_bench.tasks.task import Conversation


def question(prompt: str) -> str:
    """The text a model is given for a user's prompt; the answer follows after one space."""
    return f"User: {prompt}\n\nAssistant:"


def segments(conversation: Conversation) -> list[tuple[str, bool]]:
    """Split a conversation into texts with whether the loss counts there: (question, False), (answer, True), …

    BOS goes before each question and EOS after each answer; the caller adds them as token ids.
    """
    parts: list[tuple[str, bool]] = []
    for message in conversation:
        if message["role"] == "user":
            parts.append((question(message["content"]), False))
        else:
            parts.append((" " + message["content"], True))
    return parts
