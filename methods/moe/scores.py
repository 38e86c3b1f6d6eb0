"""Expert scores and the three rules for them: what the release computes, what the paper says, what the script does.

Source: ESFT paper, Equations 6 (gate) and 7 (token); deepseek-ai/ESFT, results/expert_scores and
scripts/expert/get_expert_scores.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.moe.profile import Profile

Score = Literal["gate", "token"]
ScoreRule = Literal["released", "paper", "upstream_script"]
"""How a score is averaged:

`released`: pooled over all tokens, rounded to 4 decimals, as the published scores are. Token scores sum to 1 in a
    layer, gate scores to less (the mean top-k gate weight is not normalised).
`paper`: averaged in each sample first, then over samples (Equations 6 and 7).
`upstream_script`: pooled, then divided by the sum over layers instead of over experts, as the published script does; it
    selects about half as many experts. Only for reproducing others' numbers.
"""


@dataclass(frozen=True)
class Scores:
    """Relevance of each expert to a data set.

    Attributes:
        layers: numbers of the MoE layers, in order.
        values: [L, E] float64, a row for each of `layers`.
        signed: whether values may be below 0, as differences may; such scores have an order, but no threshold.
    """

    layers: tuple[int, ...]
    values: Tensor
    signed: bool = False


def expert_scores(profile: Profile, score: Score, rule: ScoreRule = "released") -> Scores:
    """Score every expert of a profile."""
    pooled = {
        "gate": profile.gate_sums / profile.tokens,
        "token": profile.token_counts / (profile.tokens * profile.top_k),
    }
    match rule:
        case "released":
            values = pooled[score].round(decimals=4)
        case "paper":
            values = {"gate": profile.gate_means, "token": profile.token_means}[score]
        case "upstream_script":
            values = over_layers(pooled[score])
    return Scores(profile.layers, values)


def domain_advantage(domain: Profile, general: Profile, score: Score = "gate", rule: ScoreRule = "paper") -> Scores:
    """How much more a domain uses each expert than general data do.

        DAS_e = s_e(domain) − s_e(general),  s_e being an expert's score by `score` and `rule`      (domain advantage)

    Source: the expert-concentration paper's domain advantage score. Its definition is not public in full: taking the
    mean gate weight over each sample for s is this project's reading. Raises MethodError where the two profiles are of
    different models.
    """
    if domain.layers != general.layers or domain.token_counts.shape != general.token_counts.shape:
        raise MethodError(
            f"the domain's profile has {domain.num_experts} experts in layers {list(domain.layers)}, the general one "
            f"{general.num_experts} in layers {list(general.layers)}; profile both with one model"
        )
    values = expert_scores(domain, score, rule).values - expert_scores(general, score, rule).values
    return Scores(domain.layers, values, signed=True)


def over_layers(values: Tensor) -> Tensor:
    """Divide scores [L, E] by their sum over layers (the published script's axis); an unused expert scores 0."""
    return torch.nan_to_num(values / values.sum(dim=0, keepdim=True), nan=0.0)


def read_summary(path: Path, score: Score) -> Scores:
    """Read the official `summary.json`: {"token_scores" | "gate_scores": {layer: {expert: score}}}.

    Raises MethodError, with the file and the place in it, where it is malformed.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))[f"{score}_scores"]
        rows = {int(layer): {int(expert): float(v) for expert, v in row.items()} for layer, row in table.items()}
        layers = tuple(sorted(rows))
        experts = range(len(rows[layers[0]]))
        if uneven := [layer for layer in layers if len(rows[layer]) != len(experts)]:
            raise ValueError(f"layer {uneven[0]} has {len(rows[uneven[0]])} experts, layer {layers[0]} {len(experts)}")
        values = torch.tensor([[rows[layer][expert] for expert in experts] for layer in layers], dtype=torch.float64)
    except FileNotFoundError as error:
        raise MethodError(f"there is no score file {path}") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise MethodError(f"{path}: `{score}_scores` must map layers to experts to numbers ({error!r})") from error
    return Scores(layers, values)


def read_logs(folder: Path, num_experts: int, top_k: int) -> Profile:
    """Rebuild a profile from the official raw logs `expert_weights_{layer}.txt`.

    A line is a sequence: the expert ids of its tokens (top_k a token), two tabs, their gate weights. Raises MethodError
    with file and line where one is malformed.
    """
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
