"""Expert scores: what says that an expert matters for some data, and how it is averaged.

For T tokens, top-K routing, g_it the gate weight of expert i for token t (0 where it is not chosen; without the
router's scaling factor) and E_i(x_t) the expert's output before that weight:

    gate          s_i = 1/T Σ_t g_it                                                                                (1)
    token         s_i = 1/(T K) Σ_t [g_it > 0]                                                                      (2)
    output_norm   s_i = N_i / Σ_j N_j,   N_i = mean of ‖E_i(x_t)‖₂ over the tokens sent to i                        (3)
    contribution  s_i = 1/T Σ_t g_it ‖E_i(x_t)‖₂ / Σ_j g_jt ‖E_j(x_t)‖₂                                             (4)
    score_norm    s_i = G_i N_i / Σ_j G_j N_j,   G_i by (1), N_i by (3)                                             (5)

Sources: (1), (2) ESFT paper, Equations 6 and 7; deepseek-ai/ESFT, results/expert_scores and
scripts/expert/get_expert_scores.py. (3) to (5) are named in the expert-concentration paper (Table 5), whose definitions
are not public in full: the equations are this project's reading. They are shares of a layer, so that thresholds and
differences mean the same for all; (4) splits each token among its experts by what they add to its state.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.profile import Profile, check_same_experts

Score = Literal["gate", "token", "output_norm", "contribution", "score_norm"]
ScoreRule = Literal["released", "paper", "upstream_script"]
"""How gate and token scores are averaged (the others are pooled over all tokens and not rounded):

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
    """Score every expert of a profile.

    Raises MethodError where the score needs experts' outputs and the profile has none.
    """
    values = _routing(profile, score, rule) if score in ("gate", "token") else _outputs(profile, score)
    return Scores(profile.layers, values)


def _routing(profile: Profile, score: Score, rule: ScoreRule) -> Tensor:
    """Equations 1 and 2 by one of the rules, [L, E]."""
    gate = score == "gate"
    pooled = profile.gate_sums / profile.tokens if gate else profile.token_counts / (profile.tokens * profile.top_k)
    match rule:
        case "released":
            return pooled.round(decimals=4)
        case "paper":
            return profile.gate_means if gate else profile.token_means
        case "upstream_script":
            return over_layers(pooled)


def _outputs(profile: Profile, score: Score) -> Tensor:
    """Equations 3 to 5, [L, E]."""
    if score == "contribution":
        return profile.measured("contribution_sums") / profile.tokens
    values = profile.measured("norm_sums") / profile.token_counts.clamp(min=1)
    if score == "score_norm":
        values = values * profile.gate_sums / profile.tokens
    return values / values.sum(1, keepdim=True)


def domain_advantage(domain: Profile, general: Profile, score: Score = "gate", rule: ScoreRule = "paper") -> Scores:
    """How much more a domain uses each expert than general data do.

        DAS_e = s_e(domain) − s_e(general),  s_e being an expert's score by `score` and `rule`      (domain advantage)

    Source: the expert-concentration paper's domain advantage score. Its definition is not public in full: taking the
    mean gate weight over each sample for s is this project's reading. Raises MethodError where the two profiles are of
    different models.
    """
    check_same_experts(domain, general)
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
