"""Which sentences of a model are believed: those that cite lines of files that it was shown, and that these files have."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from models.insights.model_words import objects_of

MAX_SENTENCES, MAX_SENTENCE = 12, 400
"""Sentences of a description, and characters of one."""
MAX_CITATIONS, MAX_SPAN = 3, 200
"""Citations of a sentence, and lines of one."""
MAX_QUOTED = 200
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn")
"""Categories of characters that are no text: controls, marks that turn the order of others, halves of pairs."""


@dataclass(frozen=True)
class ShownFile:
    """A file that a model was shown in part, with all of its lines."""

    path: str
    sha256: str
    lines: list[str] = field(repr=False)


class CheckedWords(NamedTuple):
    """The sentences that hold, as they are stored, the SHA-256 of each file that they cite, and how many others were cut."""

    sentences: list[dict[str, Any]]
    cited: dict[str, str]
    cut: int


def checked_words(answer: str, shown: Mapping[str, ShownFile]) -> CheckedWords:
    """What holds of a model's answer. A sentence is cut unless it has a citation and each of its citations stands: the path is one that the
    model was shown, the lines are in the file, and a symbol that is named stands in them. Raises ModelFailed."""
    found = CheckedWords([], {}, 0)
    said: set[str] = set()
    cut = 0
    for each in objects_of(answer):
        text = plain_words(each.get("text"), MAX_SENTENCE)
        if not text or text in said:
            continue
        said.add(text)
        citations = list(_citations(each.get("citations"), shown))
        if len(found.sentences) >= MAX_SENTENCES or not citations or None in citations:
            cut += 1
            continue
        found.sentences.append({"text": text, "citations": citations})
        found.cited.update({each["path"]: shown[each["path"]].sha256 for each in citations if each})
    return found._replace(cut=cut)


def plain_words(value: object, most: int) -> str:
    """A text in one line, cut, without characters that are not shown; nothing for another type."""
    if not isinstance(value, str):
        return ""
    kept = "".join(each for each in value if each.isspace() or unicodedata.category(each) not in _HIDDEN)
    return " ".join(kept.split())[:most]


def _citations(value: object, shown: Mapping[str, ShownFile]) -> Iterator[dict[str, Any] | None]:
    """The citations of a sentence; None for one that does not stand."""
    given = value if isinstance(value, list) else [value] if isinstance(value, dict) else []
    if len(given) > MAX_CITATIONS:
        yield None
        return
    for each in given:
        yield _citation(each, shown) if isinstance(each, dict) else None


def _citation(given: Mapping[str, Any], shown: Mapping[str, ShownFile]) -> dict[str, Any] | None:
    path, line, symbol = given.get("path"), given.get("line"), given.get("symbol")
    file = shown.get(path) if isinstance(path, str) else None
    end = line if given.get("end_line") is None else given["end_line"]
    if file is None or type(line) is not int or type(end) is not int:
        return None
    if not 1 <= line <= end <= len(file.lines) or end - line >= MAX_SPAN:
        return None
    if symbol is None or symbol == "":
        return {"path": file.path, "line": line, "end_line": end, "symbol": None}
    if not isinstance(symbol, str) or not _stands(symbol, file.lines[line - 1 : end]):
        return None
    return {"path": file.path, "line": line, "end_line": end, "symbol": symbol}


def _stands(symbol: str, lines: list[str]) -> bool:
    """Whether lines have a symbol as a word; of a qualified one its last part."""
    last = re.split(r"[.#]|::", symbol[:MAX_QUOTED].rstrip("()"))[-1]
    if not last or len(symbol) > MAX_QUOTED:
        return False
    word = re.compile(rf"(?<!\w){re.escape(last)}(?!\w)")
    return any(word.search(line[:10_000]) for line in lines)
