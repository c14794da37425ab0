"""Reads decisions out of messages by their words, without a model: "we decided to …", "let's use … because …"."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from models.insights.project_decision import MAX_DECISION, MAX_QUOTE, MAX_RATIONALE

MAX_MESSAGE = 20_000
"""Characters of a message that are read."""
MIN_WORDS = 2
_SENTENCE = re.compile(r"[^.!?\n]{8,600}")
_SAID = (
    re.compile(r"(?i)\b(?:we|i) (?:have )?decided (?:to|on|that|against) "),
    re.compile(r"(?i)\b(?:we|i) (?:chose|have chosen|picked|settled on|agreed to|agreed on) "),
    re.compile(r"(?i)\blet(?:'|’)s (?:use|go with|stick with|keep|switch to|drop) "),
    re.compile(r"(?i)^\W{0,5}decision: ?"),
    re.compile(r"(?i)\bwe(?:'ll| will| are going to) (?:use|go with|stick with|switch to|drop|not support) "),
)
_BECAUSE = re.compile(r"(?i),? (?:because|since|so that|as it|as we) ")
_UNSURE = re.compile(r"(?i)\b(?:should|could|might|maybe|perhaps|if|whether|not sure|what about|n't)\b")
_TECH = re.compile(
    r"(?i)\b(?:use|using|switch|database|library|framework|language|postgres|sqlite|react|flask|redis)\b"
)


class ReadDecision(NamedTuple):
    """A decision that was read out of a message. `quote` are words of it."""

    decision: str
    rationale: str
    category: str | None
    quote: str


def decisions_said(text: str) -> Iterator[ReadDecision]:
    """The decisions that a message says in so many words. Questions, doubts and quoted code are none."""
    plain = _without_code(text[:MAX_MESSAGE])
    for found in _SENTENCE.finditer(plain):
        sentence = " ".join(found[0].split())
        asked = plain[found.end() : found.end() + 1] == "?"
        start = next((match for each in _SAID if (match := each.search(sentence))), None)
        if start is None or asked or _UNSURE.search(sentence):
            continue
        reason = _BECAUSE.search(sentence, start.end())
        decision = sentence[start.start() : reason.start() if reason else None].strip(" ,;:-–*_`\"'")
        if len(decision.split()) < MIN_WORDS:
            continue
        yield ReadDecision(
            (decision[:1].upper() + decision[1:])[:MAX_DECISION],
            sentence[reason.end() :][:MAX_RATIONALE] if reason else "",
            "tech_choice" if _TECH.search(decision) else None,
            sentence[:MAX_QUOTE],
        )


def occurs(quote: str, text: str) -> bool:
    """Whether words stand in a text; spaces, ends of lines and letter case make no difference."""
    wanted = " ".join(quote.split()).casefold()
    return len(wanted) >= 8 and wanted in " ".join(text.split()).casefold()


def _without_code(text: str) -> str:
    """The text without fenced blocks and quoted lines."""
    kept, fenced = [], False
    for line in text.split("\n"):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and not line.lstrip().startswith(">"):
            kept.append(line)
    return "\n".join(kept)
