"""The guide to clients, `docs/clients.md`, as sections for the page `/docs/clients`."""

import re
from functools import lru_cache
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from models.core.settings import ROOT

PATH = ROOT / "docs" / "clients.md"
ADDRESS, MODEL, KEY = "http://localhost:8000", "stoa/demo", "sk_live_…"
"""The examples of the document, which the page replaces."""

_MARKDOWN = MarkdownIt("commonmark", {"html": False, "typographer": True, "quotes": "“”‘’"}).enable(
    "smartquotes"
)


class GuideBlock(NamedTuple):
    """A code block (`title`: a file, how to install, or the language), or rendered text without a title."""

    language: str
    title: str
    text: str


class GuideSection(NamedTuple):
    """A client and its blocks. `id` is the anchor, as GitHub makes it."""

    id: str
    title: str
    blocks: list[GuideBlock]


def guide(address: str, model: str, key: str = KEY) -> list[GuideSection]:
    """The sections with this server's address, a model, and what stands for the key."""

    def filled(block: GuideBlock) -> GuideBlock:
        text = block.text.replace(ADDRESS, address).replace(MODEL, model).replace(KEY, key)
        return block._replace(text=text)

    return [each._replace(blocks=[filled(block) for block in each.blocks]) for each in _sections()]


def code_examples(address: str, model: str) -> list[tuple[str, GuideBlock]]:
    """The guide's code of one call with curl, in Python and in TypeScript, each with its name."""
    blocks = {
        (each.id, block.language): block for each in guide(address, model) for block in reversed(each.blocks)
    }
    found = (("curl", "curl", "sh"), ("Python", "openai-sdk", "python"), ("TypeScript", "openai-sdk", "js"))
    return [(name, blocks[section, language]) for name, section, language in found]


@lru_cache(maxsize=1)
def _sections() -> list[GuideSection]:
    """Everything from the first heading of level two; what is above is for readers of the file."""
    found: list[GuideSection] = []
    text: list[Token] = []
    tokens = _MARKDOWN.parse(PATH.read_text(encoding="utf-8"))
    for at, token in enumerate(tokens):
        opens = token.type == "heading_open" and token.tag == "h2"
        if (opens or token.type == "fence") and found and text:
            found[-1].blocks.append(_rendered(text))
            text = []
        if opens:
            title = tokens[at + 1].content
            found.append(GuideSection(_anchor(title), title, []))
        elif token.type == "fence":
            language, _, name = token.info.partition(" ")
            found[-1].blocks.append(GuideBlock(language, name, token.content.rstrip("\n")))
        elif found and not _is_title(tokens, at):
            text.append(token)
    found[-1].blocks.append(_rendered(text))
    return found


def _is_title(tokens: list[Token], at: int) -> bool:
    """Whether the token belongs to a heading, which the page writes itself."""
    return tokens[at].type == "heading_close" or tokens[at - 1].type == "heading_open"


def _rendered(tokens: list[Token]) -> GuideBlock:
    return GuideBlock("", "", Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})))  # noqa: S704  # our own document


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower())
