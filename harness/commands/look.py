"""`look`: what will be trained on and tested on, before anything is."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from rich.text import Text

from esft_bench.harness.backbone import files as backbones
from esft_bench.harness.commands.options import LookOptions
from esft_bench.harness.plan import rows
from esft_bench.harness.plan.known import known_tasks
from esft_bench.harness.plan.own import OwnFiles, own_suite
from esft_bench.harness.plan.prompting import Prompting, with_prompt
from esft_bench.harness.terminal import Terminal
from esft_bench.spec.suite import Suite
from esft_bench.spec.suite_file import load
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Conversation, Task

if TYPE_CHECKING:
    from esft_bench.harness.training.survey import Survey, Token

ROWS = 3
LEFT_OUT = 10
"""So many rows are shown token by token, and so many of those that are left out are named."""
MOST_TOKENS = 400
"""Tokens of a sample that are shown, half of them from its end."""
OPEN, CLOSE, BETWEEN = "⟦", "⟧", "·"
"""Around what the loss counts, and between two tokens: so that it is seen without colours too."""
COUNTED, ASKED = "bold green", "dim"


def look(options: LookOptions, console: Terminal) -> None:
    """Print what there is to see. Raises UserError or TaskError where a run would end before it began."""
    files = OwnFiles(options.data, options.columns, options.metric, options.test)
    name, changes = own_suite(files, "mini", options.backbone)
    suite = load(name, [*changes, *(options.set or [])])
    folder = backbones.locate(suite.backbone, weights=False)
    suite = suite.model_copy(update={"backbone": with_prompt(suite.backbone, folder)})
    prompting = Prompting(suite.backbone, folder)
    known, mixed_in = known_tasks(suite), suite.own_alignment
    for task in (known[each] for each in (*suite.tasks, *([mixed_in] if mixed_in else []))):
        left_out: list[str] = []
        assert task.training is not None
        training = list(rows.conversations(task.training(Source()), prompting.refusal, left_out))
        _print(console, suite, task, training, prompting)
        _print_left_out(console, left_out)


def _print(console: Terminal, suite: Suite, task: Task, training: list[Conversation], prompting: Prompting) -> None:
    from esft_bench.harness.training.survey import survey, tokens  # here: torch takes seconds to import

    form, length = prompting.form, suite.training.sequence_length
    console.print(task.note)
    console.print(f"Prompt format: {suite.backbone.prompt}. Between {OPEN} and {CLOSE}: what the loss counts.")
    for number, conversation in enumerate(islice(training, ROWS), start=1):
        for sample in tokens(form, conversation):
            console.print()
            console.print(Text.assemble((f"row {number}, {len(sample)} tokens  ", "bold"), *_marked(sample)))
    found = survey(form, training, length)
    median, most, longest = found.typical
    console.print()
    console.print(
        f"{found.rows} rows, {found.samples} samples, {sum(found.lengths)} tokens, {found.supervised} of them count; a "
        f"sample has {median} tokens (median), {most} (95 in 100 have no more), {longest} (the longest)."
    )
    for said in _doubts(found, length):
        console.print(said)


def _marked(sample: list["Token"]) -> Iterator[tuple[str, str]]:
    """A sample's tokens with their marks, and how each is printed; a long one without its middle."""
    half = MOST_TOKENS // 2
    inside = False
    for place, token in enumerate(sample):
        if half <= place < len(sample) - half:
            if place == half:
                yield f" … {len(sample) - MOST_TOKENS} tokens … ", ASKED
            inside = token.counts
            continue
        if token.counts != inside:
            yield OPEN if token.counts else CLOSE, COUNTED
            inside = token.counts
        elif place:
            yield BETWEEN, ASKED
        yield token.text.replace("\n", "↵"), COUNTED if token.counts else ""
    if inside:
        yield CLOSE, COUNTED


def _doubts(found: "Survey", length: int) -> Iterator[str]:
    """What one should know before one trains on it."""
    if found.cut:
        yield f"{found.cut} samples are longer than a sequence of {length} tokens and lose their end."
    if found.unseen:
        yield f"{found.unseen} questions fill a whole sequence: they lose their beginning, so that an answer is seen."
    count, text = found.controls
    if count:
        yield f"{count} rows hold a text that looks like a control token ({text}): it is read as text."
    for script, share in sorted(found.broken.items()):
        yield f"{script}: of {share:.0%} of these characters the tokenizer makes several tokens each (bytes)."


def _print_left_out(console: Terminal, left_out: list[str]) -> None:
    """The rows that cannot be used."""
    if left_out:
        console.print(f"{len(left_out)} rows are left out:")
        for sentence in left_out[:LEFT_OUT]:
            console.print(f"  {sentence}")
        if len(left_out) > LEFT_OUT:
            console.print(f"  and {len(left_out) - LEFT_OUT} more.")
