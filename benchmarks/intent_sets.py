"""Sets of intents in English, German and French: what is said to a home, and what it is to do.

    pip download --no-deps home-assistant-intents==2026.11.25
    python benchmarks/intent_sets.py home_assistant_intents-2026.11.25-*.whl --to FOLDER

The wheel (Apache 2.0) has templates of sentences for each intent; what they leave open, such as
what a lamp is called, is filled in at random. Writes intents_en/train.csv and test.csv, and so on,
for ``accuracy.py --sets intents_en`` with LASTBLOCK_DATA=FOLDER. Sentences of one template are
alike, on both sides, so few examples a class are what such a set can compare.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import zipfile
from pathlib import Path
from typing import Any

from debian_sets import write_parts

# Sentences of each intent, at most and at least, and tries for each. A third is for the test.
MOST, LEAST, TRIES = 120, 40, 20
OPTIONAL = 0.4  # the share of optional parts that are said
# What a slot may hold, by a word that its name has in it; the last are for all others.
OPEN: dict[str, dict[str, list[str]]] = {
    "en": {
        "area": ["kitchen", "living room", "bedroom", "office", "garage", "bathroom", "basement"],
        "floor": ["ground floor", "first floor", "upstairs"],
        "message": ["dinner is ready", "come downstairs", "we are leaving in five minutes"],
        "command": ["turn off the lights", "open the curtains", "stop the music"],
        "item": ["milk", "apples", "bread", "call mom", "batteries", "clean the gutters"],
        "timer": ["pizza", "laundry", "tea", "homework"],
        "search": ["the beatles", "some jazz", "star wars", "taylor swift"],
        "": ["kitchen light", "bedroom lamp", "TV", "garage door", "ceiling fan", "heater",
             "coffee machine", "christmas tree", "left curtain", "robot vacuum", "speaker"],
    },
    "de": {
        "area": ["Küche", "Wohnzimmer", "Schlafzimmer", "Büro", "Garage", "Bad", "Keller"],
        "floor": ["Erdgeschoss", "erster Stock", "Dachgeschoss"],
        "message": ["das Essen ist fertig", "kommt bitte runter", "wir fahren gleich los"],
        "command": ["mach das Licht aus", "öffne die Vorhänge", "stopp die Musik"],
        "item": ["Milch", "Äpfel", "Brot", "Mama anrufen", "Batterien", "Zahnpasta"],
        "timer": ["Pizza", "Wäsche", "Tee", "Hausaufgaben"],
        "search": ["die Beatles", "etwas Jazz", "Star Wars", "klassische Musik"],
        "": ["Küchenlampe", "Stehlampe", "Fernseher", "Garagentor", "Ventilator", "Heizung",
             "Kaffeemaschine", "Weihnachtsbaum", "linker Vorhang", "Staubsauger", "Lautsprecher"],
    },
    "fr": {
        "area": ["cuisine", "salon", "chambre", "bureau", "garage", "salle de bain", "cave"],
        "floor": ["rez-de-chaussée", "premier étage", "grenier"],
        "message": ["le dîner est prêt", "venez en bas", "on part dans cinq minutes"],
        "command": ["éteins la lumière", "ouvre les rideaux", "arrête la musique"],
        "item": ["du lait", "des pommes", "du pain", "appeler maman", "des piles", "des œufs"],
        "timer": ["pizza", "lessive", "thé", "devoirs"],
        "search": ["les beatles", "du jazz", "star wars", "de la musique classique"],
        "": ["lampe de la cuisine", "lampadaire", "télévision", "porte du garage", "ventilateur",
             "chauffage", "machine à café", "sapin", "rideau gauche", "aspirateur", "enceinte"],
    },
}  # fmt: skip


class Sentences:
    """Random sentences of templates: (one|of several), [optional], {slot}, <rule>, (in; any order).

    Args:
        told: what the wheel says of a language.
        words: what its open slots may hold, as in ``OPEN``.
    """

    def __init__(self, told: dict[str, Any], words: dict[str, list[str]], seed: int) -> None:
        self.lists, self.rules, self.words = told["lists"], told["expansion_rules"], words
        self.random = random.Random(seed)

    def of(self, template: str, rules: dict[str, str]) -> str:
        """One sentence; ``rules`` go before those that all templates share."""
        said, _ = self._group(template, 0, "", {**self.rules, **rules})
        return re.sub(r"\s+", " ", said).strip()

    def _group(self, text: str, at: int, end: str, rules: dict[str, str]) -> tuple[str, int]:
        """What is said up to the bracket that ends it, and where that stands."""
        parts, any_order = [""], False
        while at < len(text) and text[at] != end:
            char = text[at]
            if char in "([":
                said, at = self._group(text, at + 1, ")" if char == "(" else "]", rules)
                parts[-1] += said if char == "(" or self.random.random() < OPTIONAL else ""
            elif char in "{<":
                closed = text.index("}" if char == "{" else ">", at)
                name, at = text[at + 1 : closed], closed
                parts[-1] += self._slot(name, rules) if char == "{" else self.of(rules[name], rules)
            elif char in "|;":
                parts.append("")
                any_order |= char == ";"
            else:
                parts[-1] += char
            at += 1
        if any_order:
            return " ".join(self.random.sample(parts, len(parts))), at
        return self.random.choice(parts), at

    def _slot(self, name: str, rules: dict[str, str]) -> str:
        name = name.partition(":")[0]
        known = self.lists.get(name, {})
        if "values" in known:
            value = self.random.choice(known["values"])
            return self.of(value if isinstance(value, str) else value["in"], rules)
        if "range" in known:
            return str(self.random.randint(known["range"]["from"], known["range"]["to"]))
        return self.random.choice(next(words for key, words in self.words.items() if key in name))


def write(folder: Path, told: dict[str, Any], words: dict[str, list[str]]) -> None:
    """A language's sentences and intents, into train.csv and test.csv."""
    sentences, rows = Sentences(told, words, seed=0), []
    for intent, of in told["intents"].items():
        found: dict[str, None] = {}
        for _ in range(MOST * TRIES):
            kind = sentences.random.choice(of["data"])
            template = sentences.random.choice(kind["sentences"])
            found[sentences.of(template, kind.get("expansion_rules", {}))] = None
            if len(found) == MOST:
                break
        if len(found) >= LEAST:
            rows += [(sentence, intent) for sentence in found if sentence]
    write_parts(folder, rows, len(rows) // 3)


def main() -> None:
    """Read, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="home_assistant_intents-VERSION-py3-none-any.whl")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    given = parser.parse_args()
    with zipfile.ZipFile(given.wheel) as wheel:
        for language, words in OPEN.items():
            told = json.loads(wheel.read(f"home_assistant_intents/data/{language}.json"))
            write(given.to / f"intents_{language}", told, words)


if __name__ == "__main__":
    main()
