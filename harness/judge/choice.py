"""Choosing the judge, before anything runs."""

import os

from esft_bench.harness.judge.base import Judge
from esft_bench.spec.errors import UserError
from esft_bench.spec.judge import JudgeSettings


def choose(settings: JudgeSettings, account: str = "") -> tuple[Judge, str]:
    """The judge to use, and a note for the user if it is not the one asked for (else an empty string).

    `account` names the run whose budget pays. Raises UserError where a budget is set and no price is
    known, or where the key cannot be one.
    """
    if settings.kind == "reference":
        return _reference(), ""
    if settings.budget is not None and settings.rate is None:
        raise UserError(
            f"judge.budget: what {settings.model} costs is not known here, so no budget can be kept: give "
            "`judge.price` in dollars per million tokens, e.g. `price: {input: 1.0, output: 5.0}`."
        )
    key = os.environ.get(settings.key_env, "").strip()
    if not key:
        judge = _reference()
        note = (
            f"No key in {settings.key_env}: answers are judged by {judge.name}, not by {settings.model}. "
            f"Set {settings.key_env} (to anything, if the endpoint asks for none) to have {settings.model} judge."
        )
        return judge, note
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"The key in {settings.key_env} holds characters that no request can carry: set it anew.")
    from esft_bench.harness.judge.cache import ReplyCache, default_cache
    from esft_bench.harness.judge.remote import OpenAIJudge

    return OpenAIJudge(settings, key, ReplyCache(settings.cache or default_cache()), account), ""


def _reference() -> Judge:
    from esft_bench.harness.judge.reference import (
        ReferenceJudge,  # here, since the judges' libraries are slow to import
    )

    return ReferenceJudge()


def make_judge(settings: JudgeSettings, account: str = "") -> Judge:
    """The judge to use."""
    return choose(settings, account)[0]
