"""What this machine has, and what a run would miss."""

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from esft_bench.harness.manifest import hardware, versions
from esft_bench.harness.serving.settings import vllm_version
from esft_bench.spec.errors import UserError
from esft_bench.spec.suite import Suite


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis. `good` is None for a plain fact."""

    what: str
    found: str
    good: bool | None = None
    advice: str = ""


def diagnose(suite: Suite, run_dir: Path) -> Iterator[Finding]:
    """Look at the machine as this suite would use it."""
    from esft_bench.tasks.sandbox import isolation

    machine = hardware()
    yield Finding("processor", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB memory")
    accelerators = ", ".join(machine["accelerators"])
    yield Finding("accelerator", accelerators or "none: everything runs on the processor")
    for name, version in versions().items():
        if name in ("python", "torch", "transformers", "lm_eval", "accelerate", "peft"):
            yield Finding(name, version)
    vllm = vllm_version()
    if suite.evaluation.endpoints:
        yield from _endpoints(suite)
    elif vllm or suite.evaluation.engine == "transformers":
        yield Finding("vllm", vllm or "not installed, not needed: the suite's engine is transformers", True)
    else:
        yield Finding("vllm", "not installed", False, "run `make env`, or choose --engine transformers")
    level = isolation()
    contained = level != "limits only"
    yield Finding(
        "sandbox for code", level, contained, "" if contained else "install bubblewrap, or generated code is not run"
    )
    where = run_dir if run_dir.exists() else Path.cwd()
    free = shutil.disk_usage(where).free / 2**30
    yield Finding("free disk", f"{free:.0f} GiB at {where}", free > 5, "" if free > 5 else "free some space")
    if suite.judge.kind == "reference":
        yield Finding("judge", "reference (chrF): no key needed")
    else:
        name = suite.judge.key_env
        there = bool(os.environ.get(name))
        advice = f"set {name}, or answers are judged by reference (chrF)"
        yield Finding("judge key", f"{name} is {'set' if there else 'not set'}", there, "" if there else advice)


def _endpoints(suite: Suite) -> Iterator[Finding]:
    """The servers that the suite asks in place of our own, as far as they can be told without its backbone."""
    from esft_bench.harness.serving.endpoint import LOOKS_WITHIN, check_settings, endpoints_of

    dtype = "float32" if suite.backbone.precision == "float32" else "bfloat16"
    for endpoint in endpoints_of(suite.evaluation, LOOKS_WITHIN):
        try:
            seen = endpoint.look()
            check_settings([seen], dtype, min(suite.evaluation.max_length, seen.max_length))
        except UserError as error:
            yield Finding("endpoint", str(error), False, "a run would be refused")
        else:
            way = "swaps models in" if seen.swaps else "takes LoRA adapters" if seen.adapters else "serves that alone"
            yield Finding("endpoint", f"{seen.url}: vLLM {seen.version} on {seen.root}, {way}", True)


def as_table(findings: Iterable[Finding]) -> Table:
    """Findings for the terminal, a line each."""
    marks = {None: Text(" "), True: Text("✓", "green"), False: Text("✗", "red")}
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        advice = f"  → {finding.advice}" if finding.advice else ""
        table.add_row(marks[finding.good], finding.what, finding.found + advice)
    return table
