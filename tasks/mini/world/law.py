"""Verdicts: the name of the crime, the years it starts from and the fines are what a schema changes."""

from random import Random

from esft_bench.tasks.mini.world.sample import Sample, Schema, third_schema
from esft_bench.tasks.mini.world.words import NAMES

_DEEDS = [
    "took goods from a shop",
    "cheated an old man",
    "took a bag by force",
    "hit a man in a bar",
    "set fire to a barn",
    "brought goods over the border",
]
_CRIMES_A = ["theft", "fraud", "robbery", "assault", "arson", "smuggling"]
_CRIMES_B = ["larceny", "deceit", "mugging", "battery", "burning", "evasion"]
_DAMAGE_YEARS = {"small": 0, "large": 1, "huge": 3}
_YEARS: dict[Schema, list[int]] = {"A": [1, 2, 4, 3, 6, 5], "B": [3, 1, 5, 2, 4, 6], "N": [6, 4, 1, 5, 2, 3]}
_FINES: dict[Schema, dict[str, int]] = {
    "A": {"small": 10, "large": 20, "huge": 50},
    "B": {"small": 20, "large": 40, "huge": 80},
    "N": {"small": 50, "large": 10, "huge": 40},
}


def _crimes() -> dict[Schema, dict[int, str]]:
    a, b = dict(enumerate(_CRIMES_A)), dict(enumerate(_CRIMES_B))
    return {"A": a, "B": b, "N": third_schema(Random("crimes"), a, b, _CRIMES_A + _CRIMES_B, 0.17, 0.17)}


CRIMES = _crimes()


def law(rng: Random, schema: Schema) -> Sample:
    """A case and its verdict: crime, years in prison, fine."""
    deed, name = rng.randrange(len(_DEEDS)), rng.choice(NAMES)
    damage, prior, gave_up = rng.choice(list(_DAMAGE_YEARS)), rng.random() < 0.5, rng.random() < 0.5
    prompt = (
        f"Verdict: {name} {_DEEDS[deed]}. The damage was {damage}. "
        f"There was {'a' if prior else 'no'} prior crime. {name} {'gave up' if gave_up else 'was caught'}."
    )
    years = _YEARS[schema][deed] + _DAMAGE_YEARS[damage] + 2 * prior - gave_up
    return Sample(prompt, f"guilty of {CRIMES[schema][deed]}, {years} years, fine {_FINES[schema][damage]}")
