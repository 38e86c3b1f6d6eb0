"""Calls in a child that has imported what they need."""

import os
from multiprocessing import get_context

import pytest

from esft_bench.harness.backbone import aside as calls
from esft_bench.harness.backbone.aside import aside
from esft_bench.spec.errors import UserError


def refuse(what: str) -> None:
    raise UserError(f"{what} is odd: mend it.")


def test_a_call_is_made_here_where_nothing_was_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_contexts", [])
    assert aside(os.getpid) == os.getpid()


def test_a_call_is_made_in_a_child_where_something_was_and_its_error_is_raised_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "_contexts", [get_context("fork")])
    assert aside(os.getpid) != os.getpid()
    with pytest.raises(UserError, match="the file is odd"):
        aside(refuse, "the file")
    with pytest.raises(UserError, match="has died"):
        aside(os._exit, 1)
