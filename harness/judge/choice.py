"""Choosing the judge, before anything runs."""

import os

from harness.judge.base import Judge, JudgeSettings


def choose(settings: JudgeSettings) -> tuple[Judge, str]:
    """The judge to use, and a note for the user if it is not the one asked for (else an empty string)."""
    from harness.judge.reference import ReferenceJudge  # here, since the judges' libraries are slow to import

    if settings.kind == "reference":
        return ReferenceJudge(), ""
    key = os.environ.get(settings.key_env, "").strip()
    if not key:
        judge = ReferenceJudge()
        note = (
            f"No key in {settings.key_env}: answers are judged by {judge.name}, not by {settings.model}. "
            f"Set {settings.key_env} (to anything, if the endpoint asks for none) to have {settings.model} judge."
        )
        return judge, note
    from harness.judge.cache import ReplyCache, default_cache
    from harness.judge.remote import OpenAIJudge

    return OpenAIJudge(settings, key, ReplyCache(settings.cache or default_cache())), ""


def make_judge(settings: JudgeSettings) -> Judge:
    """The judge to use."""
    return choose(settings)[0]
