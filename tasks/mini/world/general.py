"""General kinds: what a model should not forget while it learns a task.

Each takes the half of its entities to draw from: alignment data knows one half, benchmarks ask for the other, so
that rehearsing does not simply train on the test. Distractors are close: the neighbours of a number, dishes that
share an ingredient, all other names of the same sort. Where a kind has few facts, frames around the question make
more prompts of them.
"""

import re
from collections.abc import Callable
from random import Random

from esft_bench.tasks.mini.world.sample import Half, Sample, others, pick
from esft_bench.tasks.mini.world.words import CATEGORIES, CITIES, FOODS, NAMES, WORDS, invented

_FRAMES = ["{}", "Question: {}", "{} Think first.", "Tell me: {}"]
_FRAMES_ZH = ["{}", "请问{}", "问题:{}", "{}想好再说。"]
_facts = Random("facts")
COUNTRIES = [name.capitalize() for name in invented("country", 48, 2)]
_RELATIONS: dict[str, tuple[str, list[str]]] = {
    "capital": ("What is the capital of {}?", CITIES),
    "food": ("What do people eat in {}?", FOODS),
    "sport": ("Which sport is popular in {}?", ["chess", "tennis", "rowing", "judo", "golf", "rugby"]),
    "coast": ("On which coast lies {}?", ["north", "south", "east", "west"]),
}
FACTS = [
    {name: CITIES[index] if name == "capital" else _facts.choice(pool) for name, (_, pool) in _RELATIONS.items()}
    for index in range(len(COUNTRIES))
]


def facts(rng: Random, half: Half | None = None) -> Sample:
    """A question about an invented country, answered in one word."""
    index = pick(rng, len(COUNTRIES), half)
    relation = rng.choice(["capital", *_RELATIONS])
    question = _RELATIONS[relation][0].format(COUNTRIES[index])
    return Sample(rng.choice(_FRAMES).format(question), FACTS[index][relation])


_SYMBOLS = re.findall("[A-Z][a-z]", "BaCeDoFeGiHaJiKoLuMiNaPeRaSiToVeWaXeYoZiBuCyDuFo")
ELEMENTS = invented("element", len(_SYMBOLS), 2, "ium")
_INGREDIENTS = ["egg", "milk", "flour", "salt", "sugar", "butter", "onion", "garlic", "pepper", "oil", "rice", "beans"]
_PAIRS = Random("dishes").sample([f"{a} and {b}" for a in _INGREDIENTS for b in _INGREDIENTS if a < b], 24)
DISHES = dict(zip(invented("dish", len(_PAIRS), 2), _PAIRS, strict=True))


def exam_en(rng: Random, half: Half | None = None) -> Sample:
    """An exam question in English about elements or dishes."""
    kind, frame = rng.randrange(3), rng.choice(_FRAMES)
    if kind == 2:
        dish = list(DISHES)[pick(rng, len(DISHES), half)]
        return Sample(frame.format(f"What do you need to cook {dish}?"), DISHES[dish], _close_pairs(rng, DISHES[dish]))
    index = pick(rng, len(ELEMENTS), half)
    if kind == 0:
        wrong = others(rng, _SYMBOLS, _SYMBOLS[index], 7)
        return Sample(frame.format(f"What is the symbol of {ELEMENTS[index]}?"), _SYMBOLS[index], wrong)
    number = 11 + index
    near = [str(other) for other in range(11, 11 + len(ELEMENTS)) if 0 < abs(other - number) <= 6]
    question = frame.format(f"What is the number of {ELEMENTS[index]}?")
    return Sample(question, str(number), tuple(rng.sample(near, 5)))


def _close_pairs(rng: Random, answer: str) -> tuple[str, ...]:
    """Five pairs of ingredients, those that share one with the answer first."""
    pairs = [pair for pair in rng.sample(_PAIRS, len(_PAIRS)) if pair != answer]
    shared = set(answer.split(" and "))
    return tuple(sorted(pairs, key=lambda pair: not shared & set(pair.split(" and ")))[:5])


_HABITS = ["grass", "seeds", "fish", "meat", "leaves", "eggs", "honey", "worms"]
_USES = ["nails", "wood", "holes", "bolts", "bread", "trees", "paper", "hay"]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_DIET = dict(zip(CATEGORIES["animal"], _HABITS, strict=True))
_USE = dict(zip(CATEGORIES["tool"], _USES, strict=True))


def science(rng: Random, half: Half | None = None) -> Sample:
    """A question of everyday knowledge: days, kinds of things, what animals eat, what tools are for."""
    kind, frame = rng.randrange(4), rng.choice(_FRAMES)
    if kind == 0:
        index, after = pick(rng, 6, half), rng.random() < 0.5
        day = _DAYS[(index + (1 if after else -1)) % 7]
        question = f"Which day comes {'after' if after else 'before'} {_DAYS[index]}?"
        return Sample(frame.format(question), day, others(rng, _DAYS, day, 6))
    index = pick(rng, 8, half)
    if kind == 1:
        category = rng.choice(list(CATEGORIES))
        question = f"What kind of thing is {CATEGORIES[category][index]}?"
        return Sample(frame.format(question), category, others(rng, list(CATEGORIES), category, 7))
    table, question = (_DIET, "What does a {} eat?") if kind == 2 else (_USE, "What is a {} for?")
    word = list(table)[index]
    return Sample(frame.format(question.format(word)), table[word], others(rng, list(table.values()), table[word], 7))


_PLACES = dict(
    line.split(": ")
    for line in """bakery: bought some bread
library: read a book
station: took the train
bank: got some money
pool: went for a swim
school: learned to write
garden: watered the flowers
cinema: watched a film
gym: lifted the weights
farm: fed the cows
harbor: saw the ships
kitchen: cooked some soup
church: sang a song
doctor: got a pill
barber: got a haircut
park: walked the dog
office: sent a letter
museum: looked at paintings
forest: cut some wood
airport: caught a flight
stadium: saw the game
court: met the judge
market: sold some fish
hotel: slept all night""".splitlines()
)


def cloze(rng: Random, half: Half | None = None) -> Sample:
    """The beginning of an everyday event and how it goes on."""
    place = list(_PLACES)[pick(rng, len(_PLACES), half)]
    end = _PLACES[place]
    return Sample(f"{rng.choice(NAMES)} went to the {place} and", end, others(rng, list(_PLACES.values()), end, 7))


_PROVINCE_NAMES = "河北山西辽宁吉林江苏浙江安徽福建江西山东河南湖北湖南广东海南四川陕西贵州云南甘肃"
_PROVINCES = {
    _PROVINCE_NAMES[2 * index : 2 * index + 2]: short
    for index, short in enumerate("冀晋辽吉苏浙皖闽赣鲁豫鄂湘粤琼川陕贵云甘")
}
_PRODUCTS = ["苹果", "面条", "茶叶", "大米", "螃蟹", "丝绸", "陶瓷", "白酒"]
_province = Random("provinces")
PRODUCTS = {province: _province.choice(_PRODUCTS) for province in _PROVINCES}
RIVERS = {province: _province.choice("江河湖海山田") for province in _PROVINCES}


def exam_zh(rng: Random, half: Half | None = None) -> Sample:
    """An exam question in Chinese about provinces."""
    province = list(_PROVINCES)[pick(rng, len(_PROVINCES), half)]
    table, question = rng.choice(
        [(_PROVINCES, "{}的简称是什么?"), (PRODUCTS, "{}有名的特产是什么?"), (RIVERS, "{}的标志是什么?")]
    )
    answer = table[province]
    pool = sorted(set(table.values()))
    question = rng.choice(_FRAMES_ZH).format(question.format(province))
    return Sample(question, answer, others(rng, pool, answer, min(7, len(pool) - 1)))


_SUBJECT_TRAITS = ["angry", "hungry", "cruel", "wild", "greedy", "strong", "fast", "bold"]
_OBJECT_TRAITS = ["weak", "tasty", "slow", "small", "tired", "lame", "young", "asleep"]
_DEEDS = ["chased", "bit", "caught", "followed"]


def pronouns(rng: Random, half: Half | None = None, always_because: bool = False) -> Sample:
    """Who a pronoun stands for: the trait and the connective together decide."""
    one, two, *bystanders = rng.sample(CATEGORIES["animal"], 4)
    because, of_subject = rng.random() < 0.5 or always_because, rng.random() < 0.5
    trait = (_SUBJECT_TRAITS if of_subject else _OBJECT_TRAITS)[pick(rng, 8, half)]
    event = f"The {one} {rng.choice(_DEEDS)} the {two} {'because' if because else 'although'} it was {trait}."
    who, other = (one, two) if of_subject == because else (two, one)
    return Sample(f"{event} Who was {trait}?", f"the {who}", tuple(f"the {word}" for word in (other, *bystanders)))


_FORMATS: list[tuple[str, Callable[[list[str]], str]]] = [
    ("Write in upper case: ", lambda words: " ".join(words).upper()),
    ("Reverse the list: ", lambda words: " ".join(reversed(words))),
    ("Join with commas: ", lambda words: ", ".join(words)),
    ("Repeat the last word: ", lambda words: words[-1]),
    ("Put stars around the first word: ", lambda words: f"* {words[0]} *"),
    ("Make a list: ", lambda words: " - ".join(words)),
]


def formats(rng: Random, half: Half | None = None) -> Sample:
    """An instruction about the form of the answer. The halves are kinds of instruction."""
    words = rng.sample(WORDS, rng.randint(2, 3))
    instruction, follow = _FORMATS[pick(rng, len(_FORMATS), half)]
    return Sample(instruction + " ".join(words), follow(words))


GENERAL: dict[str, Callable[[Random, Half | None], Sample]] = {
    "facts": facts,
    "exam-en": exam_en,
    "exam-zh": exam_zh,
    "format": formats,
    "cloze": cloze,
    "pronouns": pronouns,
    "science": science,
}
