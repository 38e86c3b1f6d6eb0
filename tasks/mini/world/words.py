"""Words that several subjects share."""

import re
from random import Random

CATEGORIES: dict[str, list[str]] = {
    "fruit": ["apple", "pear", "plum", "grape", "melon", "lemon", "peach", "fig"],
    "animal": ["dog", "cat", "horse", "sheep", "tiger", "rabbit", "fox", "bear"],
    "tool": ["hammer", "saw", "drill", "wrench", "knife", "axe", "file", "rake"],
    "color": ["red", "blue", "green", "yellow", "black", "white", "pink", "brown"],
    "vehicle": ["car", "bus", "train", "plane", "boat", "truck", "bike", "ship"],
    "metal": ["iron", "gold", "silver", "copper", "tin", "zinc", "lead", "steel"],
    "plant": ["oak", "rose", "tulip", "fern", "moss", "ivy", "palm", "pine"],
    "body": ["arm", "leg", "nose", "ear", "hand", "foot", "knee", "chin"],
}
WORDS = [word for words in CATEGORIES.values() for word in words]
NAMES = re.findall("[A-Z][a-z]+", "TomAnnBobEveSamLilyMaxZoeJackMiaBenKateLeoRuthPaulNina")
FOODS = ["rice", "bread", "fish", "corn", "beans", "soup", "cheese", "noodles"]


def syllables(rng: Random, count: int) -> str:
    """An invented word of `count` open syllables."""
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(count))


def invented(seed: str, count: int, length: int, ending: str = "") -> list[str]:
    """`count` different invented words of `length` syllables and an ending; the same for the same seed."""
    rng = Random(seed)
    words: dict[str, None] = {}
    while len(words) < count:
        words[syllables(rng, length) + ending] = None
    return list(words)


CITIES = [
    city.capitalize()
    for pair in zip(invented("city", 24, 1, "ton"), invented("city", 24, 1, "ville"), strict=True)
    for city in pair
]
