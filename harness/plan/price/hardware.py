"""Accelerators by name: memory and the dense bf16 rate their makers state. Estimates rest on these and nothing else."""

import difflib
import math
from dataclasses import dataclass

from esft_bench.spec.errors import UserError

GIB = 2**30
UTILISATION = 0.25
"""Share of the stated rate that training is assumed to reach: on an H200, at OLMoE's and DeepSeek-V2-Lite's shapes, one
sequence of 4096 tokens at a time, it was 0.17 to 0.35 (docs/benchmarks/2026-11-26-h200.md). Small models reach less."""

MARGIN = 0.9
"""Share of a device's memory that tensors may take; the rest is the allocator's and the driver's."""

NETWORK = 25e9
"""Bytes a second that a device is taken to send to other nodes: 200 Gb/s, as NVIDIA states of the DGX A100; the DGX
H100 has twice that, other machines often less."""


@dataclass(frozen=True)
class Accelerator:
    """One device: `memory` in bytes, `rate` in floating-point operations a second, dense, bf16.

    `bandwidth` is how many bytes of memory it reads a second, `link` how many it sends a second to others of its node
    while it gets as many.
    """

    name: str
    memory: float
    rate: float
    bandwidth: float
    link: float = math.inf


ACCELERATORS = {
    device.name: device
    for device in (
        # NVIDIA's data sheets: tensor cores, bf16, without sparsity; SXM where there are several forms. Links: half of
        # what they state for both directions together, of NVLink (600 and 900 GB/s) or else of PCIe 4.0 (64 GB/s).
        Accelerator("A100-40GB", 40 * GIB, 312e12, 1.555e12, 300e9),
        Accelerator("A100-80GB", 80 * GIB, 312e12, 2.039e12, 300e9),
        Accelerator("H100-80GB", 80 * GIB, 989e12, 3.35e12, 450e9),
        Accelerator("H200-141GB", 141 * GIB, 989e12, 4.8e12, 450e9),
        Accelerator("L40S-48GB", 48 * GIB, 362e12, 0.864e12, 32e9),
        Accelerator("RTX4090-24GB", 24 * GIB, 165e12, 1.008e12, 32e9),
    )
}
DEFAULT = "A100-80GB"
"""The ESFT paper's device."""


def accelerator(name: str) -> Accelerator:
    """The device of a name. Raises UserError where there is none."""
    if name in ACCELERATORS:
        return ACCELERATORS[name]
    near = difflib.get_close_matches(name.upper(), ACCELERATORS, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]}?" if near else ""
    raise UserError(f"--gpu {name}: there are {', '.join(ACCELERATORS)}; {hint}".rstrip("; ") + ("" if hint else "."))
