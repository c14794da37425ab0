"""The system text of a turn: what the server says of the place, what rooms add, and the project's own instructions."""

from collections.abc import Callable

from models.conversations.conversation_access import FoundConversation

MAX_PART = 8_000
"""Characters of one part, and of the project's instructions."""

Preamble = Callable[[FoundConversation], str | None]
"""Makes a part of the system text, in the transaction that begins a turn; None for nothing."""
_PREAMBLES: list[tuple[str, Preamble]] = []


def register_preamble(title: str, part: Preamble) -> None:
    """Add a part to the system text of every turn, below this title. It is cut at `MAX_PART` characters; one that fails stops the turn, so
    let it raise nothing but what is a fault."""
    _PREAMBLES.append((title, part))


def preambles(found: FoundConversation) -> list[str]:
    """The parts that rooms add, in the order of their registration."""
    parts = []
    for title, part in _PREAMBLES:
        text = (part(found) or "").strip()
        if text:
            parts.append(f"## {title}\n\n{cut(text)}")
    return parts


def cut(text: str, most: int = MAX_PART) -> str:
    """The text, cut to this many characters, and saying so."""
    return text if len(text) <= most else f"{text[:most]}\n[cut: {len(text) - most:,} more characters]"
