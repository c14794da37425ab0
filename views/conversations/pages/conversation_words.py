"""Engines, levels and states of conversations in words of the pages."""

from typing import NamedTuple

from models.conversations import ProjectConversation
from models.core.db import extension
from models.runners import levels

ENGINE_NAMES = {"builtin": "Built in", "acp": "A command", "store": "An agent of the store"}
LEVEL_NAMES = {"virtual": "Virtual", "process": "Sandbox", "machine": "Your machine"}
STATE_BADGES = {
    "running": ("Running", "running", None),
    "requires_action": ("Asks you", "held", "chat"),
    "paused": ("Paused", "held", "clock"),
    "queued": ("Waits", None, "clock"),
}
"""The badge of each state: its word, kind and icon."""


class Choice(NamedTuple):
    """One of several, with a sentence; `available`: it can be chosen here."""

    key: str
    name: str
    sentence: str
    available: bool = True


def engine_choices() -> list[Choice]:
    """The engines, each with what it does."""
    commands = extension("settings").stoa_acp_agents
    acp = "A program of its own, which an operator of this server set up, works in the sandbox."
    if not commands:
        acp = "A program of its own works in the sandbox. No operator of this server has set one up yet (STOA_ACP_AGENTS)."
    return [
        Choice(
            "builtin", "Built in", "The server’s own loop reads, searches and changes files with any model."
        ),
        Choice(
            "store", "An agent of the store", "A published agent works with its own model, prompts and tools."
        ),
        Choice("acp", "A command", acp, bool(commands)),
    ]


def level_choices(account_id: str) -> list[Choice]:
    """The levels of isolation, each with what the server says of it."""
    return [
        Choice(level, LEVEL_NAMES[level], _without_name(state.sentence), state.available)
        for level, state in levels(account_id).items()
    ]


def command_choices() -> list[tuple[str, str]]:
    """The commands that operators set up, as name and text."""
    return [
        (each.name, f"{each.name}: {each.description}" if each.description else each.name)
        for each in extension("settings").stoa_acp_agents
    ]


def engine_words(conversation: ProjectConversation) -> str:
    """What answers, in a few words."""
    if conversation.engine == "builtin":
        return ENGINE_NAMES["builtin"]
    return conversation.agent or ENGINE_NAMES.get(conversation.engine, conversation.engine)


def _without_name(sentence: str) -> str:
    """The sentence of a level without its name before a colon, which stands above it."""
    name, colon, rest = sentence.partition(": ")
    return rest[:1].upper() + rest[1:] if colon and " " not in name else sentence
