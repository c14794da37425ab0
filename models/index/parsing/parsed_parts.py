"""What parsers yield: the text of a document in parts, and what was left out, within limits."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_PARTS = 2_000
"""Pages, slides or sheets that are read."""
MAX_CHARACTERS = 8_000_000
MAX_PART_CHARACTERS = 2_000_000
MAX_NOTES = 50


class Unreadable(Exception):
    """The document cannot be read. The message is a sentence for the user."""


@dataclass
class Parsed:
    """One document while it is parsed. `unit` names its parts: page, slide, sheet, or line for a document without parts.

    `notes` are sentences about what was ignored or cut; `pictures` the numbers of parts without text but with pictures."""

    unit: str
    notes: list[str] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        """Add a sentence to the report, once."""
        if sentence not in self.notes and len(self.notes) < MAX_NOTES:
            self.notes.append(sentence)


Parts = Iterator[str]
"""The text of each part, in order."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ufffe\uffff\ud800-\udfff]")
_ENDS = re.compile(r"\r\n?|\x0c|\x85|\u2028|\u2029")


def clean(text: str) -> str:
    """Text that PostgreSQL and a page can show: without control characters and lone surrogates, lines end in a newline."""
    return _CONTROL.sub("", _ENDS.sub("\n", text))


def row_text(cells: Iterator[str]) -> str:
    """A row of a table as one line, without empty cells at its end."""
    return " | ".join(" ".join(cell.split()) for cell in cells).rstrip(" |")


def numbers(found: list[int], unit: str) -> str:
    """`page 7`, or `pages 3-5 and 9`."""
    runs: list[list[int]] = []
    for number in found:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    if len(words) > 12:
        words = [*words[:11], "others"]
    listed = words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
    return f"{unit} {listed}" if len(found) == 1 else f"{unit}s {listed}"
