"""General text, in bits a byte: WikiText-2 unless the suite or --data-dir names another text.

Rows have a `text`; WikiText's are lines, a paragraph or a heading each. Lines one after another are put together to
passages of some 2,000 characters, which are the items: of like length, so that each counts about the same.
"""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.source import Dataset, Fields, Source
from esft_bench.tasks.task import Item, Task

DATASET = Dataset(
    "Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3", "general_text", config="wikitext-2-raw-v1"
)
FIELDS: Fields = {"text": str}
LONG = 2000
"""Characters from which on a passage is an item."""


def items(source: Source) -> Iterator[Item]:
    """Yield the passages of the test split; what is left at the end is one if it is half as long."""
    for number, passage in enumerate(passages(row["text"] for row in source.rows(DATASET, "test", FIELDS))):
        yield {"id": f"general-text-{number:05d}", "prompt": "", "answer": passage}


def passages(texts: Iterator[str]) -> Iterator[str]:
    """Put lines together, and long texts apart at their line ends, to passages of some LONG characters."""
    lines: list[str] = []
    length = 0
    for line in (line for text in texts for line in text.splitlines() if line.strip()):
        lines.append(line.strip())
        length += len(line)
        if length >= LONG:
            yield "\n".join(lines)
            lines, length = [], 0
    if length >= LONG / 2:
        yield "\n".join(lines)


YAML = Path(__file__).with_name("general_text.yaml")

TASKS = (Task("general-text", "General text", "drift", YAML, "bits_per_byte", items=items),)
