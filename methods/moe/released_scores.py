"""Score files of the ESFT release: its `summary.json` and the raw logs it was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.scores import Score, Scores, scores_of

if TYPE_CHECKING:
    from torch import Tensor

    from esft_bench.methods.moe.profile import Profile


def read_rows(path: Path, score: Score) -> dict[int, list[float]]:
    """Read the official `summary.json`, {"token_scores" | "gate_scores": {layer: {expert: score}}}, as rows by layer.

    Raises MethodError, with the file and the place in it, where it is malformed.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))[f"{score}_scores"]
        rows = {int(layer): {int(expert): float(v) for expert, v in row.items()} for layer, row in table.items()}
        layers = sorted(rows)
        experts = range(len(rows[layers[0]]))
        if uneven := [layer for layer in layers if len(rows[layer]) != len(experts)]:
            raise ValueError(f"layer {uneven[0]} has {len(rows[uneven[0]])} experts, layer {layers[0]} {len(experts)}")
        return {layer: [rows[layer][expert] for expert in experts] for layer in layers}
    except FileNotFoundError as error:
        raise MethodError(f"there is no score file {path}") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise MethodError(f"{path}: `{score}_scores` must map layers to experts to numbers ({error!r})") from error


def read_summary(path: Path, score: Score) -> Scores:
    """The same as scores."""
    return scores_of(read_rows(path, score))


def read_logs(folder: Path, num_experts: int, top_k: int) -> Profile:
    """Rebuild a profile from the official raw logs `expert_weights_{layer}.txt`.

    A line is a sequence: the expert ids of its tokens (top_k a token), two tabs, their gate weights. Raises MethodError
    with file and line where one is malformed.
    """
    import torch

    from esft_bench.methods.moe.profile import Profile

    files = {int(path.stem.rpartition("_")[2]): path for path in folder.glob("expert_weights_*.txt")}
    if not files:
        raise MethodError(f"{folder} holds no expert_weights_LAYER.txt")
    paths = [path for _, path in sorted(files.items())]
    rows = [_read_log(path, num_experts, top_k) for path in paths]
    for path, (counts, _) in zip(paths, rows, strict=True):
        if not torch.equal(counts.sum(1), rows[0][0].sum(1)):
            raise MethodError(f"{path} is not about the same sequences as {paths[0].name}: lines or tokens are missing")
    counts, gates = (torch.stack([row[i] for row in rows]) for i in (0, 1))  # [L, samples, E]
    lengths = counts[0].sum(1, keepdim=True) / top_k  # tokens of each sample
    return Profile(
        layers=tuple(sorted(files)),
        top_k=top_k,
        tokens=int(lengths.sum()),
        samples=len(lengths),
        token_counts=counts.sum(1),
        gate_sums=gates.sum(1),
        token_means=(counts / (lengths * top_k)).mean(1),
        gate_means=(gates / lengths).mean(1),
    )


def _read_log(path: Path, num_experts: int, top_k: int) -> tuple[Tensor, Tensor]:
    """Counts and gate sums of one layer's log, each [samples, E]."""
    import torch

    counts, gates = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            ids, weights = (part.split("\t") for part in line.strip().split("\t\t"))
            index = torch.tensor([int(i) for i in ids])
            weight = torch.tensor([float(w) for w in weights], dtype=torch.float64)
            if (
                len(index) != len(weight)
                or len(index) % top_k
                or not 0 <= int(index.min()) <= int(index.max()) < num_experts
            ):
                raise ValueError(f"{len(index)} ids, {len(weight)} weights, ids up to {int(index.max())}")
        except ValueError as error:
            raise MethodError(
                f"{path}, line {number}: not expert ids, two tabs and as many weights ({error})"
            ) from error
        counts.append(torch.bincount(index, minlength=num_experts).double())
        gates.append(torch.bincount(index, weight, minlength=num_experts))
    if not counts:
        raise MethodError(f"{path} is empty; it should hold a line for each sequence")
    return torch.stack(counts), torch.stack(gates)
