"""A table of numbers as a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ON_LIGHT, ON_DARK = "#101010", "#fefefe"
"""Inks of numbers on greys, which stay what they are where a page turns a figure's ink and paper dark."""


def heatmap(
    axes: "Axes",
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    high: float | None = None,
    digits: int = 0,
) -> None:
    """Numbers on greys: dark is much. The same in colour and in print."""
    top = high or float(values.max()) or 1.0
    axes.imshow(values, cmap="Greys", vmin=0, vmax=top * 1.15, aspect="auto")
    for i, j in np.ndindex(values.shape):
        ink = ON_DARK if values[i, j] > 0.6 * top else ON_LIGHT
        axes.text(j, i, f"{values[i, j]:.{digits}f}", ha="center", va="center", color=ink, fontsize=10)
    axes.grid(visible=False)
    tilt = 40 if sum(map(len, columns)) > 30 else 0
    axes.set_xticks(
        range(len(columns)), columns, rotation=tilt, ha="right" if tilt else "center", rotation_mode="anchor"
    )
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
