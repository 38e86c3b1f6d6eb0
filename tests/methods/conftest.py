"""Each method trained once on each architecture; the tests look at what came of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import build
from tests.methods.helpers import TRAINING, Outcome

Outcomes = Callable[[str, str], Outcome]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """`outcomes(architecture, method)`: the method of that name in TRAINING, trained on a tiny checkpoint, merged."""
    bases: dict[str, Path] = {}
    made: dict[tuple[str, str], Outcome] = {}

    def outcome(architecture: str, method: str) -> Outcome:
        if architecture not in bases:
            bases[architecture] = tmp_path_factory.mktemp(architecture) / "base"
            build(architecture).save_pretrained(bases[architecture])
        if (architecture, method) not in made:
            folder = tmp_path_factory.mktemp(f"{architecture}-{method}")
            made[architecture, method] = Outcome(TRAINING[method], bases[architecture], folder)
        return made[architecture, method]

    return outcome
