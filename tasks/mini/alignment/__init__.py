"""Training data that keeps general abilities awake: every general kind, about the half that no benchmark asks for."""

from collections.abc import Iterable

from esft_bench.tasks.mini.build import conversation
from esft_bench.tasks.mini.world.splits import alignment
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Conversation, Task


def _training(_source: Source) -> Iterable[Conversation]:
    return map(conversation, alignment())


TASKS = (Task(name="mini-alignment", title="Alignment", role="alignment", training=_training),)
