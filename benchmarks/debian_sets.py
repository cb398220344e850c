"""Sets in German, French and English: what Debian's packages are for, and where they belong.

    python benchmarks/debian_sets.py Packages.xz Translation-de.bz2 Translation-fr.bz2 --to FOLDER

Any mirror of Debian has the files: ``dists/SUITE/main/binary-amd64/Packages.xz``, and
``Translation-de.bz2`` in ``dists/SUITE/main/i18n``. A text is a package's description in one
line, of the English ones those of Packages, of others what volunteers have translated; a label is
one of the 20 largest sections that tell what a package is about. Writes debian_de/train.csv and
test.csv, and so on, for ``accuracy.py --sets debian_de`` with LASTBLOCK_DATA=FOLDER; and, in
English, debian_teams, whose labels are the 150 who look after the most packages.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import lzma
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# Sections that tell how a package is made rather than what it is about.
LEFT_OUT = {"libs", "libdevel", "oldlibs", "devel", "debug", "doc", "localization", "introspection",
            "kernel", "metapackages", "misc", "utils"}  # fmt: skip
CLASSES, TEAMS, TEST = 20, 150, 1_500


def fields(path: Path) -> Iterator[tuple[str, str, str]]:
    """Package, field and value, of each line that has one."""
    package = ""
    opened = lzma.open if path.suffix == ".xz" else bz2.open
    with opened(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            name, colon, value = line.partition(": ")
            if name == "Package":
                package = value.strip()
            elif colon and not line.startswith(" "):
                yield package, name, value.strip()


def write(folder: Path, texts: dict[str, str], labels: dict[str, str], classes: int) -> None:
    """Texts and labels by package into train.csv and test.csv; of the largest classes so many."""
    of: dict[str, str] = {}
    for package, text in texts.items():
        label = labels.get(package)
        if label and label not in LEFT_OUT:
            of.setdefault(text, label)
    largest = {label for label, _ in Counter(of.values()).most_common(classes)}
    rows = [row for row in of.items() if row[1] in largest]
    write_parts(folder, rows, TEST)


def write_parts(folder: Path, rows: list[tuple[str, str]], tested: int) -> None:
    """Texts and labels, shuffled, into test.csv, so many of them, and train.csv."""
    random.Random(0).shuffle(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[tested:]), ("test", rows[:tested])):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *part])
    classes = len({label for _, label in rows})
    print(f"{folder}: {len(rows):,} texts in {classes} classes, {tested:,} of them to test on")


def main() -> None:
    """Read, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path, help="Packages.xz")
    parser.add_argument("translations", nargs="*", type=Path, help="Translation-LANGUAGE.bz2")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    given = parser.parse_args()
    sections, teams, english = {}, {}, {}
    for package, name, value in fields(given.packages):
        if name == "Section":
            sections[package] = value.rpartition("/")[2]
        elif name == "Maintainer":
            teams[package] = value.partition(" <")[0]
        elif name == "Description":
            english[package] = value
    write(given.to / "debian_en", english, sections, CLASSES)
    write(given.to / "debian_teams", english, teams, TEAMS)
    for path in given.translations:
        language = path.name.removeprefix("Translation-").partition(".")[0]
        texts: dict[str, str] = {}
        for package, name, value in fields(path):
            if name == f"Description-{language}" and value != english.get(package):
                texts.setdefault(package, value)
        write(given.to / f"debian_{language}", texts, sections, CLASSES)


if __name__ == "__main__":
    main()
