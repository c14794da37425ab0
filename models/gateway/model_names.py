"""Names of models: how they are spelt, OpenRouter's variants, what kind of model a name stands for, and the rows of
the price table shipped with the release."""

import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache

from genai_prices.data_snapshot import find_provider_by_id, get_snapshot
from genai_prices.types import ClauseEquals, ClauseOr, MatchLogic, ModelInfo
from genai_prices.types import Provider as Table

CHAT = "chat"
FINE_TUNED = "ft:"
"""How OpenAI's fine-tuned models begin; the colons in their names set nothing apart, and their case counts."""

KINDS = {
    "embedding": "makes embeddings",
    "rerank": "ranks documents",
    "moderation": "classifies content",
    "transcription": "turns speech into text",
    "speech": "turns text into speech",
    "realtime": "talks over a realtime connection",
    "image": "makes pictures",
    "video": "makes videos",
    "music": "makes music",
    "completion": "completes plain text",
    "responses": "answers only on OpenAI's Responses API",
}
"""What models do that cannot chat."""

# A model's own name, behind its owner and before its variant.
_OWN_NAME = re.compile(
    r"""
      (?P<embedding>.*embed|bge-|e5-|multilingual-e5|gte-|voyage-|all-(?:minilm|mpnet)|paraphrase-)
    | (?P<rerank>.*rerank)
    | (?P<moderation>.*moderation)
    | (?P<realtime>.*realtime|(?:.*-)?live(?:-|$)|.*native-audio|.*-streaming(?:-|$))
    | (?P<transcription>.*(?:whisper|transcri)|(?:.*-)?(?:stt|asr)(?:-|$))
    | (?P<speech>(?:.*-)?tts(?:-|$)|.*text-to-speech)
    | (?P<image>(?:gpt|chatgpt)-image|dall-e|imagen-)
    | (?P<video>sora-|veo-)
    | (?P<music>lyria)
    | (?P<responses>computer-use)
    """,
    re.VERBOSE,
)
# OpenAI's oldest models; OpenRouter lets some of them chat.
_COMPLETES = re.compile(r"(?:text-|code-)?(?:ada|babbage|curie|davinci)(?:-|$)|gpt-3\.5-turbo-instruct")


def split_variant(name: str) -> tuple[str, str]:
    """A name without OpenRouter's variant, and the variant: `openai/gpt-5:nitro` is `openai/gpt-5` and `nitro`."""
    if name.rpartition("/")[2].lower().startswith(FINE_TUNED):
        return name, ""
    base, _, variant = name.partition(":")
    return base, variant.lower()


@lru_cache(4096)
def kind_of(name: str) -> str:
    """What kind of model a provider's name stands for: `chat`, or one of KINDS."""
    folded = name.lower()
    if _COMPLETES.match(folded):
        return "completion"
    found = _OWN_NAME.match(split_variant(folded)[0].rpartition("/")[2])
    return (found and found.lastgroup) or CHAT


# How long answers of models can be that do not change any more. Who is not here may write 128,000 tokens.
_LONGEST = (
    (re.compile(r"gpt-3\.5|gpt-4-(?:turbo|vision|\d{4}-preview)|claude-3-(?:opus|sonnet|haiku)"), 4_096),
    (
        re.compile(
            r"gpt-4(?:-0\d{3})?$|claude-3[.-]5-|gemini-(?:flash-|pro-)?1\.5|gemini-2\.0-flash(?!-thinking)"
        ),
        8_192,
    ),
    (re.compile(r"gpt-4o(?!-64k)|chatgpt-4o|gpt-4\.5|gpt-audio|gpt-5(?:\.\d)?-chat"), 16_384),
    (re.compile(r"gpt-4\.1|o1-preview|claude-opus-4(?:-[01]|\.1)?(?:-20\d{6}|@\d+)?$"), 32_768),
    (re.compile(r"claude-(?:sonnet-4(?:[.-][05])?|(?:haiku|opus)-4[.-]5)(?:-20\d{6}|@\d+)?$"), 64_000),
    (re.compile(r"gemini-2\.5-|o1-mini"), 65_536),
    (re.compile(r"o[134](?:-|$)"), 100_000),
    (re.compile(r"gpt-5-pro"), 272_000),
)


@lru_cache(4096)
def longest_answer(name: str) -> int | None:
    """Tokens that no answer of the model exceeds; None when that is not known, as for OpenRouter's variants."""
    base, variant = split_variant(name.lower())
    own = base.rpartition("/")[2]
    return None if variant else next((most for pattern, most in _LONGEST if pattern.match(own)), None)


def row(table: str, name: str) -> ModelInfo | None:
    """The row of the shipped table that a provider's name for a model belongs to; None when it knows none."""
    folded = name.lower()
    return _exact(table).get(folded) or _fitting(table, folded)


def listed(table: str, name: str) -> bool:
    """Whether the shipped table has a model under this very name, and not only a pattern that fits it."""
    return name.lower() in _exact(table)


def has_row(table: str, name: str) -> bool:
    """Whether a row of the shipped table bears this name; `listed` also counts the other names of a row, which may be
    only what answers call the model."""
    found = _exact(table).get(name.lower())
    return found is not None and found.id == name.lower()


def callable_names(table: str) -> Iterator[str]:
    """What the models of a table are called there; patterns for other names, and names given up, left out."""
    shipped = _table(table)
    for model in shipped.models if shipped else ():
        pattern = model.id.startswith(FINE_TUNED) or model.id.endswith("-")
        if not (model.deprecated or pattern):
            yield model.id


@cache
def _table(table: str) -> Table | None:
    return find_provider_by_id(get_snapshot().providers, table)


@lru_cache(4096)
def _fitting(table: str, name: str) -> ModelInfo | None:
    # Not the package's own search over all tables: that keeps every name it was ever asked for.
    shipped = _table(table)
    return shipped.find_model(name) if shipped else None


@cache
def _exact(table: str) -> Mapping[str, ModelInfo]:
    shipped = _table(table)
    found: dict[str, ModelInfo] = {}
    for model in shipped.models if shipped else ():
        for name in (model.id, *_equal(model.match)):
            found.setdefault(name, model)
    return found


def _equal(match: MatchLogic) -> Iterator[str]:
    if isinstance(match, ClauseEquals):
        yield match.equals
    elif isinstance(match, ClauseOr):
        for clause in match.or_:
            yield from _equal(clause)
