"""Commands to a house assistant, turned into JSON: the label set and the slot names are what a schema changes."""

from collections.abc import Callable
from random import Random

from esft_bench.tasks.mini.world.sample import Sample, Schema, third_schema
from esft_bench.tasks.mini.world.words import CITIES, FOODS, NAMES

_ROOMS = ["kitchen", "bedroom", "garage", "office", "garden", "hall", "cellar", "attic"]
_SLOTS: dict[str, Callable[[Random], str]] = {
    "time": lambda rng: f"{rng.randint(1, 12)} {rng.choice(['am', 'pm'])}",
    "room": lambda rng: rng.choice(_ROOMS),
    "name": lambda rng: rng.choice(NAMES),
    "city": lambda rng: rng.choice(CITIES),
    "item": lambda rng: rng.choice(FOODS),
}
_SLOTS_B = {"time": "when", "room": "where", "city": "place", "name": "who", "item": "what"}
_COMMANDS: list[tuple[str, list[str]]] = [
    ("time", ["wake me up at {}", "i need an alarm at {}", "get me out of bed at {}"]),
    ("room", ["turn off the lights in the {}", "make it dark in the {}", "{} lights off"]),
    ("room", ["turn on the lights in the {}", "i cannot see in the {}", "{} lights on"]),
    ("city", ["how is the weather in {}", "will it rain in {}", "do i need a coat in {}"]),
    ("name", ["send mail to {}", "write to {}", "tell {} that i am late"]),
    ("name", ["call {}", "ring {}", "i want to speak to {}"]),
    ("item", ["buy some {}", "put {} on my list", "we are out of {}"]),
    ("item", ["how do i cook {}", "show a recipe for {}", "teach me to make {}"]),
    ("city", ["book a flight to {}", "i want to fly to {}", "find a plane to {}"]),
    ("city", ["find a hotel in {}", "i need a room in {}", "where can i sleep in {}"]),
    ("room", ["make the {} warmer", "it is cold in the {}", "heat the {}"]),
    ("time", ["remind me at {}", "do not let me forget at {}", "ping me at {}"]),
]
_FRAMES = ["{}", "{} please", "hello, {}", "{} now", "quick, {}"]
_LABELS_A = ["alarm", "dark", "bright", "weather", "mail", "phone", "shop", "cook", "flight", "hotel", "heat", "remind"]
_LABELS_B = ["clock", "lamp", "light", "sky", "letter", "voice", "cart", "meal", "travel", "stay", "warm", "note"]


def _label_sets() -> dict[Schema, dict[int, str]]:
    a, b = dict(enumerate(_LABELS_A)), dict(enumerate(_LABELS_B))
    # New labels come from both old sets: a word never emitted after a quote is out of reach for experts alone.
    return {"A": a, "B": b, "N": third_schema(Random("labels"), a, b, _LABELS_A + _LABELS_B, 0.1, 0.1)}


LABELS = _label_sets()


def intent(rng: Random, schema: Schema) -> Sample:
    """A command and its JSON of one label and one slot."""
    index = rng.randrange(len(_COMMANDS))
    slot, phrasings = _COMMANDS[index]
    value = _SLOTS[slot](rng)
    command = rng.choice(_FRAMES).format(rng.choice(phrasings).format(value))
    field = "intent" if schema == "A" else "action"
    name = _SLOTS_B[slot] if schema == "B" else slot
    return Sample(f"Intent: {command}", f'{{"{field}": "{LABELS[schema][index]}", "{name}": "{value}"}}')
