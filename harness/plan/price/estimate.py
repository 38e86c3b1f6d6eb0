"""The price of a plan, cell by cell: training from the backbone's configuration, testing from the tasks' items.

What is not known before a run is assumed, and `ASSUMPTIONS` says what.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from esft_bench.harness.backbone.model import empty_model, load_config, load_tokenizer
from esft_bench.harness.judge.prices import OUTPUT_TOKENS
from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.plan.price.hardware import UTILISATION, Accelerator
from esft_bench.harness.plan.price.looks import longest_answer, looks_at
from esft_bench.harness.plan.price.step import Batch, Execution, SimulatedStep, simulate
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.profile import ProfileStep
from esft_bench.harness.steps.step import Content
from esft_bench.harness.steps.train import TrainStep
from esft_bench.harness.store.artifacts import Artifact
from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.assumed import GATE_MASS, assumed_profiles
from esft_bench.methods.moe.profile import Profile
from esft_bench.methods.moe.view import moe_layers
from esft_bench.spec.cell import Cell
from esft_bench.spec.files import canonical, read_jsonl
from esft_bench.spec.judge import JudgeSettings

SUPERVISED = 0.5
SAMPLED = 100
"""So many conversations of a task tell how long they are, where each is a sequence."""
ASSUMPTIONS = (
    f"{UTILISATION:.0%} of the device's stated bf16 rate; half of the tokens supervised; where a task has not been "
    "profiled yet, the share of the tokens that an expert gets falls with the square root of its rank and a layer's "
    f"gate weights sum to {GATE_MASS} (the released profiles: 0.26 to 0.53). Memory is that of tensors: leave 10% for "
    "the allocator. What a method trains now and then counts as trained throughout (esft-dynamic: a quarter more than "
    "p for experts that come and go). Answers are counted as long as they may become, and those asked for in training "
    "read all weights for each token of a batch"
)


@dataclass(frozen=True)
class TrainingPrice:
    """What one cell of a row costs to train, on average over its tasks, of which some may take more steps.

    `operations` floating-point operations, `seconds` on the device, of which `looks` are for looking at the training
    while it goes on, `peak_bytes` of the device's memory, `adapter_bytes` kept, `batches` that it is shown, full ones.
    `why_not`: why there is no estimate.
    """

    row: str
    cells: int
    operations: float = 0.0
    seconds: float = 0.0
    peak_bytes: float = 0.0
    adapter_bytes: float = 0.0
    looks: float = 0.0
    batches: float = 0.0
    why_not: str = ""


@dataclass(frozen=True)
class TuningPrice:
    """What the searches for a row's values cost: at most, since a trial that diverges ends sooner.

    `searches` counts rows times tasks, each of `trials` that take `steps` in all; `operations` and `seconds` are those
    of all of them, None where there is no estimate of the row's training.
    """

    row: str
    searches: int
    trials: int
    steps: int
    operations: float | None
    seconds: float | None


@dataclass(frozen=True)
class EvaluationPrice:
    """What one benchmark costs in one cell: at most `generated` tokens, and a judge's calls and dollars.

    `cells` are tested on it. `dollars` is None where the judge's price is not known.
    """

    benchmark: str
    cells: int
    items: int
    generated: int
    judge_calls: int = 0
    dollars: float | None = 0.0


def training_prices(plan: Plan, graph: Graph, device: Accelerator, micro_batch: int | None) -> list[TrainingPrice]:
    """The price of training each row, from the configuration and profiles that are there: no weights are loaded."""
    tokenizer = load_tokenizer(plan.backbone.path, plan.suite.backbone.trust_remote_code)
    tokens = (micro_batch or plan.suite.training.batch_size) * plan.suite.training.sequence_length
    prices = []
    for row, method in plan.methods.items():
        cells = [cell for cell in plan.cells if cell.method == row]
        if not method.trains or not cells:
            continue
        try:
            whole = plan.paths[cells[0]].training.whole
            steps = [(stage, step_of(plan, graph, stage, micro_batch)) for stage in whole]
        except (MethodError, RuntimeError) as error:
            prices.append(TrainingPrice(plan.suite.title(row), len(cells), why_not=str(error)))
            continue
        chunks, shown = _micro_batches(plan, micro_batch), _shown(plan, cells, tokenizer)
        looks = [(looks_at(stage, tokenizer), step) for stage, step in steps]
        trained = sum(step.operations * each * chunks for (_, step), each in zip(steps, shown, strict=True))
        largest = max((step for _, step in steps), key=lambda step: step.peak_bytes)
        looking = sum(look.seconds(step, tokens, device) for look, step in looks)
        prices.append(
            TrainingPrice(
                plan.suite.title(row),
                len(cells),
                trained + sum(look.operations(step, tokens) for look, step in looks),
                trained / (device.rate * UTILISATION) + looking,
                largest.peak_bytes,
                sum(step.trainable_parameters for _, step in steps) * _stored_width(plan),
                looking,
                sum(shown),
            )
        )
    return prices


def _shown(plan: Plan, cells: Sequence[Cell], tokenizer: PreTrainedTokenizerBase) -> list[float]:
    """For each stage of a row the full batches it is shown, mean over its cells: a sequence may be one short sample."""
    trainings = [plan.paths[cell].training.whole for cell in cells]
    batches = [
        [stage.training.steps * (1.0 if stage.training.packing else _fill(stage, tokenizer)) for stage in whole]
        for whole in trainings
    ]
    return [sum(stage) / len(batches) for stage in zip(*batches, strict=True)]


def _fill(stage: TrainStep, tokenizer: PreTrainedTokenizerBase) -> float:
    """The share of a sequence that a sample fills, by the first ones of a training's tasks."""
    length = stage.training.sequence_length
    lengths = [size for task in stage.tasks.values() for size in _lengths(task.path, tokenizer)]
    return sum(min(size, length) for size in lengths) / (len(lengths) * length)


@cache
def _lengths(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of the first conversations of a file."""
    rows = [json.loads(line) for line in islice(path.open(encoding="utf-8"), SAMPLED)]
    return [_tokens(tokenizer, *(message["content"] for message in row)) for row in rows]


def tuning_prices(plan: Plan, trainings: Sequence[TrainingPrice]) -> list[TuningPrice]:
    """The price of tuning each row that is tuned, given what a cell of each row costs to train."""
    known = {price.row: price for price in trainings if not price.why_not}
    prices = []
    for row in dict.fromkeys(row for row, _ in plan.searches):
        searches = [search for (name, _), search in plan.searches.items() if name == row]
        count, first = sum(len(search.tried) for search in searches), searches[0]
        budget, price = first.search.tune.budget(first.steps), known.get(plan.suite.title(row))
        cells = count * budget / first.steps
        operations = cells * price.operations if price else None
        seconds = cells * price.seconds if price else None
        prices.append(TuningPrice(plan.suite.title(row), count, first.search.tune.trials, budget, operations, seconds))
    return prices


def step_of(
    plan: Plan, graph: Graph, stage: TrainStep, micro: int | None = None, shared: bool = False, apart: int = 1
) -> SimulatedStep:
    """One step of a training on a micro-batch; `shared` and `apart` as where processes share the model.

    Raises MethodError or RuntimeError where there is no estimate.
    """
    training, loading = plan.suite.training, plan.suite.backbone
    read = {role: _artifact(graph, stage.profiles.get(role)) for role in ("profile 0", "general profile")}
    batch = Batch(micro or training.batch_size, training.sequence_length, SUPERVISED)
    how = Execution(loading.precision, training, shared=shared, apart=apart)
    method = stage.method.at_most
    told = [
        [str(plan.backbone.path), plan.backbone.digest, loading.trust_remote_code],
        [type(method).__qualname__, method.model_dump(mode="json"), stage.seed],
        [made.name if made else "" for made in read.values()],
        [repr(batch), repr(how)],
    ]
    return _simulated(
        _Asked(canonical(told), plan.backbone, loading.trust_remote_code, method, stage.seed, read, batch, how)
    )


@dataclass(frozen=True)
class _Asked:
    """A step that is asked for, known by what is `told` of it; a plan asks for the same several times."""

    told: str
    backbone: Content = field(compare=False)
    trust_remote_code: bool = field(compare=False)
    method: Method = field(compare=False)
    seed: int = field(compare=False)
    read: Mapping[str, Artifact | None] = field(compare=False)
    batch: Batch = field(compare=False)
    how: Execution = field(compare=False)


@cache
def _simulated(asked: _Asked) -> SimulatedStep:
    config = load_config(asked.backbone.path, asked.trust_remote_code)
    assumed = _assumed(asked.backbone, asked.trust_remote_code) or (None, None)
    found = [
        Profile.load(made.folder) if made else other for made, other in zip(asked.read.values(), assumed, strict=True)
    ]
    domain, general = found
    # A coarse model's routing is taken to be that of the fine one it is made of.
    context = Context(
        seed=asked.seed, profile=domain, general=general, reprofile=(lambda _: domain) if domain else None
    )
    return simulate(config, asked.method, context, asked.batch, asked.how)


@cache
def _assumed(backbone: Content, trust_remote_code: bool) -> tuple[Profile, Profile] | None:
    """Assumed profiles of a task and of general data; None for a model without routed experts."""
    try:
        layers = moe_layers(empty_model(backbone.path, trust_remote_code))
    except MethodError:
        return None
    return assumed_profiles(layers)


def _artifact(graph: Graph, step: ProfileStep | None) -> Artifact | None:
    """The profile itself, where it has been made already."""
    return graph.artifacts.get(step) if step is not None else None


def _micro_batches(plan: Plan, micro_batch: int | None) -> float:
    return plan.suite.training.batch_size / (micro_batch or plan.suite.training.batch_size)


def _stored_width(plan: Plan) -> int:
    """Bytes of a stored number: adapters are in the backbone's own precision."""
    return 2 if plan.suite.backbone.precision == "bf16" else 4


def evaluation_prices(plan: Plan) -> list[EvaluationPrice]:
    """The price of testing, benchmark by benchmark, from the items and lm-eval's configuration."""
    tokenizer = load_tokenizer(plan.backbone.path)
    names = dict.fromkeys(name for cell in plan.cells for name in plan.matrix.benchmarks(cell))
    return [_evaluation_price(plan, name, tokenizer) for name in names]


def _evaluation_price(plan: Plan, name: str, tokenizer: PreTrainedTokenizerBase) -> EvaluationPrice:
    task, data = plan.tasks[name], plan.data[name]
    assert data.items is not None
    cells = sum(name in plan.matrix.benchmarks(cell) for cell in plan.cells)
    if task.lm_eval is None:  # a divergence: only likelihoods are asked for
        return EvaluationPrice(task.title, cells, data.count, 0)
    price = EvaluationPrice(task.title, cells, data.count, longest_answer(task.lm_eval) * data.count)
    if task.rubric is None or plan.suite.judge.kind == "reference":
        return price
    read = sum(
        _tokens(tokenizer, task.rubric.instructions, item["prompt"], item["answer"]) for item in _items(plan, name)
    )
    return EvaluationPrice(
        *(price.benchmark, price.cells, price.items, price.generated),
        *_judging(plan.suite.judge, data.count, read + price.generated),
    )


def _items(plan: Plan, name: str) -> Iterator[dict[str, str]]:
    items = plan.data[name].items
    assert items is not None
    yield from read_jsonl(items.path)


def _tokens(tokenizer: PreTrainedTokenizerBase, *texts: str) -> int:
    return sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)


def _judging(judge: JudgeSettings, items: int, read: int) -> tuple[int, float | None]:
    """Calls and dollars for so many answers: of the judge, its two probes, and the second one; `read` in tokens."""
    calls = [(judge, items + 2 * min(judge.probes, items))] + ([(judge.second, items)] if judge.second else [])
    dollars = [_dollars(one, read * count // max(items, 1), OUTPUT_TOKENS * count) for one, count in calls]
    known = [each for each in dollars if each is not None]
    return sum(count for _, count in calls), sum(known) if len(known) == len(dollars) else None


def _dollars(judge: JudgeSettings, read: int, written: int) -> float | None:
    if judge.kind == "reference":
        return 0.0
    rate = judge.rate
    return None if rate is None else rate.of(read, written, batch=judge.batch)
