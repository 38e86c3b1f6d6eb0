"""Python's own reference, in bits a byte: text that every Python brings along, for want of other data offline.

It says how far a model has moved on technical English and code that nobody trains on; that is less than `general-text`
says. The text is that of the Python that runs, so values are compared within a run.
"""

from collections.abc import Iterator
from pydoc_data.topics import topics

from esft_bench.tasks.general_text import YAML, passages
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Item, Task

MOST = 24
"""So many passages, spread over the topics."""


def items(_source: Source) -> Iterator[Item]:
    """Yield passages from all over the reference, in the order of its topics."""
    found = list(passages(topics[name] for name in sorted(topics)))
    for number, passage in enumerate(found[:: max(1, len(found) // MOST)][:MOST]):
        yield {"id": f"python-text-{number:02d}", "prompt": "", "answer": passage}


TASKS = (Task("python-text", "Python's reference", "drift", YAML, "bits_per_byte", items=items),)
