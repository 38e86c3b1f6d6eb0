"""Learning rates and rows for a backbone that nobody tuned for: what is known of its size, and what fits the memory."""

import math

import pytest

from esft_bench.harness.plan.price import fit as fitting
from esft_bench.harness.plan.price.fit import fit, fitting_rows
from esft_bench.harness.plan.price.hardware import Accelerator
from esft_bench.spec.errors import UserError
from esft_bench.spec.learning_rates import known, learning_rate
from tests.harness.plans import graph_of, prepared

SUITE = """\
name: fits
tasks: [mini-law]
methods:
  base: {title: Base}
  fft: {title: FFT}
  esft-token: {title: ESFT-Token}
training: {batch_size: 8, sequence_length: 128}
evaluation: {engine: transformers, limit: 2}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    return prepared(tmp_path_factory.mktemp("fits"), SUITE)


@pytest.mark.parametrize("method", known())
def test_rates_between_two_sizes_lie_on_a_line_of_logarithms_and_stay_beyond_the_last(method: str) -> None:
    rows = known()[method]
    low, high = rows[0], rows[-1]
    assert learning_rate(method, 1) == (low.rate, low.source)
    assert learning_rate(method, 10**6) == (high.rate, high.source)
    middle = math.isqrt(low.hidden * high.hidden)
    found = learning_rate(method, middle)
    assert found
    assert found[0] == pytest.approx(math.sqrt(low.rate * high.rate), rel=0.05)
    assert all(row.source for row in rows)


def test_a_method_of_which_nothing_is_known_has_no_rate() -> None:
    assert learning_rate("nobody", 2048) is None


def test_rows_that_do_not_fit_are_left_out_by_name_and_the_others_take_fewer_sequences(made) -> None:
    graph = graph_of(made)
    least = fitting._peaks(made.plan, graph, Accelerator("x", 0.0, 1.0, 1.0), 1)
    whole = fitting._peaks(made.plan, graph, Accelerator("x", 0.0, 1.0, 1.0), 8)
    assert least["esft-token"] < least["fft"] < whole["fft"]
    roomy = fit(made.plan, graph, Accelerator("roomy", 2 * max(whole.values()), 1.0, 1.0))
    assert (dict(roomy.left_out), roomy.micro_batch) == ({}, None)
    tight = fit(made.plan, graph, Accelerator("tight", (least["fft"] - 1) / 0.9, 1.0, 1.0))
    assert list(tight.left_out) == ["fft"]
    assert "FFT is left out: it needs" in tight.left_out["fft"]
    assert tight.micro_batch is None or whole["esft-token"] > 0.9 * (least["fft"] - 1) / 0.9


def test_a_machine_on_which_nothing_can_be_trained_is_one_sentence(made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "this_machine", lambda: Accelerator("a thimble", 1000.0, 1.0, 1.0))
    with pytest.raises(UserError, match="No row can be trained here: FFT is left out"):
        fitting_rows(made.plan, made.store)
