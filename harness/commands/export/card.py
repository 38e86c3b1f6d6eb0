"""The model card of an exported folder, in the hub's format, its results as a `model-index` too."""

import importlib.metadata
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from esft_bench.harness.commands.export.choice import Chosen
from esft_bench.harness.commands.export.weights import Form, community, named, on_hub
from esft_bench.harness.serving.needs import Needs, model_config, needs
from esft_bench.reports.formatting import bounds, interval, number, quantity
from esft_bench.reports.markdown.text import bullets, code, escaped, pipe_table
from esft_bench.reports.statistics.paired import mean_interval
from esft_bench.spec.files import write_text
from esft_bench.spec.record import Record
from esft_bench.spec.results import read_items

COSTS = {
    "train_seconds": "{} of training",
    "peak_memory_bytes": "{} at the peak",
    "stored_bytes": "an adapter of {}",
    "trainable_parameters": "{} trained",
}
"""How a card says what a training took."""
LOADING = {
    "merged": """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")""",
    "peft": """\
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{folder}")""",
    "esft": """\
from pathlib import Path
from safetensors.torch import load_file

# deepseek-ai/ESFT reads this layout; without it, put each tensor in place of the backbone's of the same name:
tensors = load_file(Path("{folder}") / "adapter_model.safetensors")""",
}


def write_card(chosen: Chosen, form: Form, folder: Path, name: str) -> None:
    """Write README.md into a folder that will be called `name`."""
    data = ModelCardData(
        base_model=named(chosen) if on_hub(chosen) else None,
        library_name="peft" if form == "adapter" and community(chosen) == "peft" else "transformers",
        pipeline_tag="text-generation",
        tags=["mixture-of-experts", "esft-bench", chosen.about.method],
        model_name=name,
        eval_results=list(_results(chosen)),
    )
    text = "\n\n".join(_paragraphs(chosen, form, name))
    write_text(folder / "README.md", str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")))


def _results(chosen: Chosen) -> Iterator[EvalResult]:
    """The cell's values for the hub's index."""
    for record in chosen.records:
        if record.value is None or not record.benchmark:
            continue
        yield EvalResult(
            task_type="text-generation",
            dataset_type=record.benchmark,
            dataset_name=record.benchmark_title,
            metric_type=record.metric,
            metric_name=f"{record.metric}, judged by {record.judge}" if record.judge else record.metric,
            metric_value=round(record.value, 2),
        )


def _paragraphs(chosen: Chosen, form: Form, name: str) -> Iterator[str]:
    """The card's text, after what the hub reads."""
    about, suite = chosen.about, chosen.content.manifest.suite
    yield f"# {escaped(name)}"
    yield (
        f"{code(suite.backbone.path)}, fine-tuned on {escaped(about.task)} by {escaped(about.method_title)}, seed "
        f"{about.seed}. Measured by esft-bench {importlib.metadata.version('esft-bench')}. {escaped(chosen.why)}"
    )
    yield "## What it scores"
    yield _scores(chosen)
    yield (
        "Means in points of 100. Brackets are 95% intervals over items, of this one training; the difference is paired "
        "with the backbone's answers to the same items. How the method compares with others, and over seeds, is in the "
        "report of the run."
    )
    yield "## How to load it"
    kinds = {"merged": ["merged"], "adapter": [community(chosen)], "both": ["merged", community(chosen)]}[form]
    for kind in kinds:
        folder = f"{name}/adapter" if form == "both" and kind != "merged" else name
        yield f"```python\n{LOADING[kind].format(folder=folder, base=named(chosen))}\n```"
    if form != "adapter":
        yield from _serving(needs(model_config(chosen.backbone)), name)
    yield "## How it was trained"
    yield bullets(_training(chosen))
    yield "## Data"
    digests = chosen.content.manifest.raw.get("digests", {})
    rows = [(part, digest) for part, digest in digests.items() if part.split(",")[0] in (*about.tasks, suite.alignment)]
    yield bullets(f"{escaped(part)}: SHA-256 of the rows {code(str(digest))}" for part, digest in rows)
    yield "## To repeat it"
    yield f"    {chosen.content.manifest.command}"


def _serving(needed: Needs, name: str) -> Iterator[str]:
    """The line that serves it, and what a machine without a GPU needs besides."""

    def options(told: dict[str, str]) -> list[str]:
        return [f"{option} {shlex.quote(value)}" for option, value in told.items()]

    variables = [f"{variable}={value}" for variable, value in needed.environment.items()]
    yield f"    {' '.join([*variables, 'vllm serve', shlex.quote(name), *options(needed.options)])}"
    if needed.on_cpu:
        yield f"On a CPU add {code(' '.join(options(needed.on_cpu)))}, without which vLLM's answers are wrong there."


def _scores(chosen: Chosen) -> str:
    """A table: each benchmark with its interval, and against the backbone."""
    rows = []
    for record in chosen.records:
        ours = _points(chosen, record)
        if record.value is None or not ours:
            continue
        own = mean_interval(list(ours.values()))
        base = _points(chosen, _base(chosen, record))
        paired = [score - base[item] for item, score in ours.items() if item in base]
        gain = mean_interval(paired) if paired else None
        rows.append(
            [
                escaped(record.benchmark_title),
                {"ability": "trained for", "general": "general", "retained": "trained for earlier"}[record.role],
                escaped(f"{record.metric}, {record.judge}" if record.judge else record.metric),
                f"{number(own.estimate)} {bounds(own.low, own.high)}" if len(ours) > 1 else number(own.estimate),
                "–" if gain is None else interval(gain.estimate, gain.low, gain.high),
                str(len(ours)),
            ]
        )
    return pipe_table(["Benchmark", "Role", "Metric", "Score", "Against the backbone", "Items"], rows)


def _base(chosen: Chosen, record: Record) -> Record | None:
    """The untrained backbone's record of the same benchmark, where the run has one."""
    same = (one for one in chosen.content.records if one.benchmark == record.benchmark and not one.task)
    return next((one for one in same if one.metric == record.metric and one.judge == record.judge), None)


def _points(chosen: Chosen, record: Record | None) -> dict[str, float]:
    """Scores 0–100 by item."""
    items = read_items(chosen.content.folder, record) if record else []
    return {item.id: 100 * item.score for item in items if item.score is not None}


def _training(chosen: Chosen) -> Sequence[str]:
    """Method, hyperparameters, training settings and costs."""
    settings, about = chosen.settings, chosen.about
    costs = {
        one.metric: one.value
        for one in chosen.content.of_rows
        if one.role == "cost" and (one.method, one.task, one.seed) == (about.method, about.task, about.seed)
    }
    told = {key: value for key, value in settings["training"].items() if value is not None}
    shown = [said.format(quantity(name, costs[name] or 0.0)) for name, said in COSTS.items() if costs.get(name)]
    return [
        f"method: {code(settings['method'])} {code(json.dumps(settings['hyperparameters'], ensure_ascii=False))}",
        f"training: {code(json.dumps(told, ensure_ascii=False))}",
        f"cost: {escaped(', '.join(shown))}",
        *([f"trained before on {escaped(', '.join(about.earlier))}"] if about.earlier else []),
    ]
