"""An invented language whose three dialects share a grammar: the lexicon is what a schema changes."""

from collections.abc import Sequence
from random import Random

from esft_bench.tasks.mini.world.sample import Sample, Schema, derangement
from esft_bench.tasks.mini.world.words import CATEGORIES

_SYLLABLES = ["qu", "xi", "zh", "wa", "ky", "ho", "ne", "ul", "ox", "ji", "tla", "ngo", "shu", "pe"]
_ENGLISH = {
    "noun": CATEGORIES["animal"] + CATEGORIES["vehicle"] + CATEGORIES["fruit"],
    "adjective": CATEGORIES["color"] + ["big", "small", "old", "new"],
    "verb": ["sees", "likes", "has", "buys", "sells", "paints", "hides", "finds"],
}


def _source_words() -> dict[str, list[str]]:
    rng = Random("source words")
    total = sum(map(len, _ENGLISH.values()))
    words = rng.sample([a + b for a in _SYLLABLES for b in _SYLLABLES], total)
    return {part: [words.pop() for _ in english] for part, english in _ENGLISH.items()}


WORDS = _source_words()


def _dialect(rng: Random, share: float) -> dict[str, str]:
    """A lexicon in which `share` of the words of each part of speech have swapped meanings, against schema A."""
    lexicon: dict[str, str] = {}
    for part, english in _ENGLISH.items():
        meanings = dict(zip(WORDS[part], english, strict=True))
        changed: Sequence[str] = rng.sample(WORDS[part], int(share * len(english)))
        lexicon |= meanings | dict(zip(changed, derangement(rng, [meanings[word] for word in changed]), strict=True))
    return lexicon


LEXICON: dict[Schema, dict[str, str]] = {
    "A": _dialect(Random("dialect A"), 0.0),
    "B": _dialect(Random("dialect B"), 0.5),
    "N": _dialect(Random("dialect N"), 0.7),
}


def translation(rng: Random, schema: Schema) -> Sample:
    """A sentence, object first and verb last in the invented language, and its English."""
    nouns, verb = rng.sample(WORDS["noun"], 2), rng.choice(WORDS["verb"])
    adjectives = [rng.choice(WORDS["adjective"]) for _ in nouns]
    words = [nouns[0], adjectives[0], nouns[1], adjectives[1], verb]
    subject, first, object_, second, does = (LEXICON[schema][word] for word in words)
    return Sample("Translate: " + " ".join(words), f"the {first} {subject} {does} the {second} {object_}")
