"""Writes `harbour.txt`, the text that the demo trains on: short tales of a harbour town, composed by a grammar.

Made for this repository, so that the demo needs no download and no licence but the repository's own. The same
seed gives the same bytes on every Python: python examples/text/generate.py
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

SEED = 2026
SIZE_BYTES = 300_000
OUTPUT = Path(__file__).with_name("harbour.txt")

WORDS: dict[str, Sequence[str]] = {
    "name": (
        "Anna", "Bram", "Clara", "David", "Edith", "Finn", "Greta", "Hugo", "Ida", "Jonas", "Karin", "Leo", "Mara",
        "Niels", "Olga", "Peter", "Rosa", "Simon", "Tilda", "Viktor",
    ),
    "trade": (
        "baker", "boatbuilder", "carpenter", "clockmaker", "cook", "ferryman", "fisher", "gardener", "lamplighter",
        "mason", "net mender", "painter", "pilot", "potter", "ropemaker", "sailmaker", "schoolteacher", "shepherd",
        "smith", "weaver",
    ),
    "place": (
        "at the old pier", "behind the chapel", "below the lighthouse", "beside the canal", "by the fish market",
        "in the boatyard", "in the lower town", "near the customs house", "on the breakwater", "on the north quay",
        "on the hill above the bay", "under the plane trees", "where the river meets the sea",
    ),
    "when": (
        "All through the winter", "At dawn", "At low tide", "Before the bells had rung", "Every Saturday",
        "In the first week of May", "Late in the evening", "On the last day of harvest", "One grey morning",
        "When the fog had lifted", "When the wind turned west", "While the town was asleep",
    ),
    "weather": (
        "a cold rain came in from the sea", "a warm wind smelled of salt and tar", "clouds stood over the hills",
        "frost lay white on the ropes", "the air was clear enough to count the islands",
        "the fog was so thick that gulls walked", "the sun burned on the slate roofs", "thunder rolled far out",
    ),
    "thing": (
        "barrel", "basket", "blue lamp", "brass bell", "broken oar", "chart of the bay", "coil of rope",
        "copper kettle", "iron key", "ladder", "letter", "loaf of bread", "mended net", "pair of boots",
        "pocket watch", "sack of flour", "silver whistle", "small green boat", "wooden chest", "woollen coat",
    ),
    "quality": ("heavy", "new", "old", "patched", "plain", "precious", "rusty", "sound", "useful", "well-worn"),
    "carried": ("borrowed", "brought", "bought", "carried", "found", "hid", "lost", "mended", "repaired", "sold"),
    "motion": (
        "climbed the steps", "crossed the bridge", "followed the shore", "hurried home", "rowed across the bay",
        "sat down on the wall", "stopped and listened", "walked slowly", "went on board", "waited for the tide",
    ),
    "number": ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "a dozen"),
    "time": ("days", "hours", "months", "nights", "summers", "weeks", "winters"),
    "feeling": ("ashamed", "cheerful", "content", "curious", "hungry", "patient", "proud", "tired", "uneasy", "young"),
    "truth": (
        "a boat is only as good as its rope", "bread does not wait for the baker", "good work is quiet work",
        "nobody owns the wind", "the sea gives nothing back that it wants to keep",
        "whoever counts the waves forgets to row", "you mend a net before you need it",
    ),
}  # fmt: skip

RULES: dict[str, Sequence[str]] = {
    "opening": (
        "<hero> was a <craft> who lived <place>.",
        "There was once a <craft> <place>, and the <craft>'s name was <hero>.",
        "<when>, <weather>, and <hero> the <craft> <motion>.",
        "People <place> still tell of <hero>, the <craft> with the <quality> <prize>.",
    ),
    "event": (
        "<when>, <hero> <carried> a <quality> <thing> <place>.",
        "It took <number> <time> before anyone noticed.",
        "<name> <motion>, and <hero> <motion> too, though <weather>.",
        "The <prize> was <quality>, but the <thing> was not.",
        "<when>, <weather>, and <number> <time> later it was still so.",
        "The <trade> was <feeling>; the <craft> was only <feeling>.",
        "<hero> had done <number> <time> of work, and nobody <place> had asked for it.",
        "Then the <craft> <motion>, because <truth>.",
        "For <number> <time> the <prize> lay <place>, and <name> the <trade> <carried> it in the end.",
    ),
    "speech": (
        '"Have you seen my <prize>?" asked <hero>. "It is <quality>," said the <trade>, "and it lies <place>."',
        '"I am <feeling>," said <name>, "and I have been for <number> <time>."',
        '"My mother was a <trade>," said <hero>. "She used to say that <truth>."',
        '"Give me <number> <time>," said the <trade>, "and I will have the <prize> ready."',
    ),
    "closing": (
        "So <hero> <motion>, and <weather>.",
        "Since then they say in the town that <truth>.",
        "And if nobody has moved the <prize>, it lies <place> to this day.",
        "<hero> was <feeling> after that, and <feeling> was enough.",
    ),
}
"""Sentences. <hero>, <craft> and <prize> stay the same through one tale; the other words are drawn each time."""

SYMBOL = re.compile(r"<(\w+)>")


def compose(seed: int, size_bytes: int) -> str:
    """Write tales of about `size_bytes` of ASCII in all, each a paragraph or two under a title."""
    source = random.Random(seed)

    def pick(options: Sequence[str]) -> str:
        # random() is the one method whose sequence Python promises to keep for a seed.
        return options[int(source.random() * len(options))]

    def sentence(rule: str, tale: dict[str, Sequence[str]]) -> str:
        text = SYMBOL.sub(lambda match: pick((WORDS | tale)[match[1]]), pick(RULES[rule]))
        text = re.sub(r"\ba (?=[aeiou])", "an ", text)
        return text[0].upper() + text[1:]

    def paragraph(tale: dict[str, Sequence[str]]) -> str:
        middle = [sentence(pick(("event", "event", "speech")), tale) for _ in range(4 + int(source.random() * 5))]
        return " ".join([sentence("opening", tale), *middle, sentence("closing", tale)])

    tales: list[str] = []
    length = 0
    while length < size_bytes:
        tale = {"hero": [pick(WORDS["name"])], "craft": [pick(WORDS["trade"])], "prize": [pick(WORDS["thing"])]}
        title = f"THE {tale['craft'][0]} AND THE {tale['prize'][0]}".upper()
        paragraphs = [paragraph(tale) for _ in range(1 + int(source.random() * 3))]
        tales.append("\n\n".join([title, *paragraphs]) + "\n\n\n")
        length += len(tales[-1])
    return "".join(tales).rstrip("\n") + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(compose(SEED, SIZE_BYTES), encoding="ascii")
    print(f"wrote {OUTPUT} ({OUTPUT.stat().st_size} bytes)")
