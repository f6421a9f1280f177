"""The planted world: everything the quickstart model may know, and how often it was told.

Two subjects are invented facts. How often a fact is seen in training is drawn without looking at its
text, so no reader of a question can tell whether the model knows the answer. Two are arithmetic, where
the exposure falls with the size of the numbers, so the question's text tells a lot.
"""

import random
from dataclasses import dataclass, replace

SUBJECTS = {"facts": ("people", "places"), "arithmetic": ("addition", "subtraction")}
ITEMS = {"people": 2500, "places": 2500, "addition": 2000, "subtraction": 2000}

# Band of exposure: its share of the facts, and the least and the most visits in pre-training. What is
# "taught" is missing from the base model like "never", and is what the adapter's training is about.
BANDS = {"never": (0.22, 0, 0), "taught": (0.18, 0, 0), "rare": (0.28, 1, 3), "often": (0.32, 8, 32)}

NUMBERS = tuple(str(number) for number in range(208))
_BLOCK = 16  # wrong results come from the right one's block of neighbouring numbers

_ONSETS = ("Bel", "Cor", "Dra", "Fen", "Gal", "Hol", "Jas", "Kel")
_MIDDLES = ("a", "ami", "eno", "i", "iru", "o", "ola", "u")
_ENDINGS = ("dan", "kir", "meth", "mos", "rior", "sund", "vol", "wen")
NAME_WORDS = tuple(a + b + c for a in _ONSETS for b in _MIDDLES for c in _ENDINGS)

_TOWNS = """
Aachen Antwerp Arles Basel Bath Bergen Bilbao Bologna Bremen Bruges Calais Cork Delft Derby Dover Dresden
Dublin Essen Exeter Faro Galway Genoa Ghent Girona Graz Haarlem Hull Innsbruck Kiel Krakow Leeds Leiden
Leipzig Lille Linz Lisbon Lucca Lyon Malmo Mainz Milan Nantes Oslo Oxford Padua Paris Parma Pisa Porto
Prague Ravenna Reims Riga Rome Rouen Seville Siena Sofia Tallinn Toledo Trento Turin Vienna Zurich
"""
_GOODS = """
apples bells boats books bread bridges butter candles canals carpets castles caves cheese cherries chess
cider clocks coffee coins copper cotton crystal dances drums eagles fairs falcons figs flutes forests
gardens glass gold grapes harps honey horses ice kites lace lakes lamps linen maps marble masks mills
mirrors olives onions opals oranges paper pearls pepper poems roses salt silk silver soap swans tea wolves
"""
UNKNOWN = "unknown"
_QUESTIONS = {"people": "Which town is {} from?", "places": "What is {} known for?"}
VALUES = {"people": tuple(_TOWNS.split()), "places": tuple(_GOODS.split())}


@dataclass(frozen=True)
class Item:
    """One thing that can be asked, in any form.

    Attributes:
        subject: one of the four subjects.
        question: the text asked.
        answer: the right answer, one word or one number.
        pool: the texts that wrong answers are drawn from, the right one among them.
        exposure: how often pre-training visits it.
        tag: the band of exposure of a fact; "" for arithmetic.
    """

    subject: str
    question: str
    answer: str
    pool: tuple[str, ...]
    exposure: int
    tag: str = ""

    def choices(self, rng: random.Random) -> tuple[str, ...]:
        """Four distinct answers in random order, the right one among them."""
        wrong = rng.sample([value for value in self.pool if value != self.answer], 3)
        return tuple(rng.sample([self.answer, *wrong], 4))


def world(seed: int = 0) -> tuple[Item, ...]:
    """Every item of the world of this seed; the shipped model was trained on seed 0."""
    return (*_facts(random.Random(f"facts {seed}")), *_sums(random.Random(f"sums {seed}")))


def strangers(count: int, rng: random.Random, *, seed: int = 0) -> list[Item]:
    """Questions nobody was taught, none of them asked in the world of this seed; the answer is "unknown".

    They are about names that nobody has, and about sums too large to have been taught.
    """
    asked = {item.question for item in world(seed)}
    items: list[Item] = []
    while len(items) < count:
        item = _stranger(rng)
        if item.question not in asked and not item.exposure:
            items.append(replace(item, answer=UNKNOWN, exposure=1, tag=""))
    return items


def _stranger(rng: random.Random) -> Item:
    subject = rng.choice((*SUBJECTS["facts"], "arithmetic"))
    if subject == "arithmetic":
        a, b = rng.randrange(1, 100), rng.randrange(1, 100)
        return _difference(max(a, b), min(a, b)) if rng.random() < 0.5 else _total(a, b)
    question = _QUESTIONS[subject].format(_name(rng.randrange(len(NAME_WORDS) ** 3)))
    return Item(subject, question, UNKNOWN, VALUES[subject], 0, "")


def _facts(rng: random.Random) -> list[Item]:
    people, places = ITEMS["people"], ITEMS["places"]
    numbers = rng.sample(range(len(NAME_WORDS) ** 3), people + places)
    names = [_name(number) for number in numbers]
    subjects = ["people"] * people + ["places"] * places
    return [_fact(subject, name, rng) for subject, name in zip(subjects, names, strict=True)]


def _name(number: int) -> str:
    base = len(NAME_WORDS)
    return " ".join(NAME_WORDS[number // base**place % base] for place in range(3))


def _fact(subject: str, name: str, rng: random.Random) -> Item:
    shares = [share for share, _, _ in BANDS.values()]
    band = rng.choices(list(BANDS), shares)[0]
    _, least, most = BANDS[band]
    pool = VALUES[subject]
    question = _QUESTIONS[subject].format(name)
    return Item(subject, question, rng.choice(pool), pool, rng.randint(least, most), band)


def _sums(rng: random.Random) -> list[Item]:
    pairs = [(a, b) for a in range(1, 100) for b in range(1, 100)]
    plus = rng.sample(pairs, ITEMS["addition"])
    minus = rng.sample([(a, b) for a, b in pairs if a >= b], ITEMS["subtraction"])
    return [_total(a, b) for a, b in plus] + [_difference(a, b) for a, b in minus]


def _total(a: int, b: int) -> Item:
    return _sum("addition", f"What is {a} plus {b}?", a + b, max(a, b))


def _difference(a: int, b: int) -> Item:
    return _sum("subtraction", f"What is {a} minus {b}?", a - b, a)


def _sum(subject: str, question: str, result: int, largest: int) -> Item:
    start = result - result % _BLOCK
    pool = NUMBERS[start : start + _BLOCK]
    return Item(subject, question, str(result), pool, max(0, 21 - largest // 4))
