"""Lists in sentences."""

import pytest

from esft_bench.reports.formatting import listing


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ([], ""),
        (["FFT"], "FFT"),
        (["FFT, 4 bit"], "FFT, 4 bit"),
        (["FFT", "LoRA"], "FFT and LoRA"),
        (["FFT −1.3 [−4.7, 2.1]", "LoRA (r 2, a 4)", "Gate"], "FFT −1.3 [−4.7, 2.1], LoRA (r 2, a 4) and Gate"),
        (["FFT, 4 bit", "LoRA", "Gate"], "FFT, 4 bit; LoRA; and Gate"),
        (["FFT", "LoRA, r 2"], "FFT; and LoRA, r 2"),
    ],
)
def test_what_has_a_comma_itself_is_parted_by_semicolons(words: list[str], read: str) -> None:
    assert listing(words) == read
