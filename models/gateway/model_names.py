"""Model names: OpenRouter's variants, the kind of model behind a name, and rows of the price table shipped with the
release."""

import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache

from genai_prices.data_snapshot import find_provider_by_id, get_snapshot
from genai_prices.types import ClauseEquals, ClauseOr, MatchLogic, ModelInfo
from genai_prices.types import Provider as Table

CHAT = "chat"
FINE_TUNED = "ft:"
"""Prefix of OpenAI's fine-tuned models. Their names are case-sensitive, and a colon does not start a variant."""

KINDS = {
    "embedding": "creates embeddings",
    "rerank": "ranks documents",
    "moderation": "classifies content",
    "transcription": "transcribes speech",
    "speech": "generates speech",
    "realtime": "uses a realtime connection",
    "image": "generates images",
    "video": "generates videos",
    "music": "generates music",
    "completion": "completes plain text",
    "responses": "is only available on OpenAI's Responses API",
}
"""What each kind of non-chat model does."""

ROUTES = {
    CHAT: "/v1/chat/completions",
    "embedding": "/v1/embeddings",
    "completion": "/v1/completions",
    "moderation": "/v1/moderations",
    "rerank": "/v1/rerank",
    "image": "/v1/images/generations",
    "speech": "/v1/audio/speech",
    "transcription": "/v1/audio/transcriptions",
}
"""Where models of each kind are called. Kinds without an entry are not served."""

# The model name without its owner and variant.
_KIND_OF_NAME = re.compile(
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
# OpenAI's completion models; OpenRouter serves some of them as chat models.
_COMPLETION_MODELS = re.compile(
    r"(?:text-|code-)?(?:ada|babbage|curie|davinci)(?:-|$)|gpt-3\.5-turbo-instruct"
)


def split_variant(name: str) -> tuple[str, str]:
    """Split off OpenRouter's variant: `openai/gpt-5:nitro` becomes `openai/gpt-5` and `nitro`."""
    if name.rpartition("/")[2].lower().startswith(FINE_TUNED):
        return name, ""
    base, _, variant = name.partition(":")
    return base, variant.lower()


@lru_cache(4096)
def kind_of(name: str) -> str:
    """The kind of a model, from the provider's name for it: `chat`, or one of KINDS."""
    lower = name.lower()
    if _COMPLETION_MODELS.match(lower):
        return "completion"
    found = _KIND_OF_NAME.match(split_variant(lower)[0].rpartition("/")[2])
    return (found and found.lastgroup) or CHAT


# Output limits of models that no longer change. All others: 128,000 tokens.
_MAX_OUTPUT = (
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
def max_output(name: str) -> int | None:
    """Output limit of a model in tokens; None if unknown, as for OpenRouter's variants."""
    base, variant = split_variant(name.lower())
    model = base.rpartition("/")[2]
    return None if variant else next((limit for pattern, limit in _MAX_OUTPUT if pattern.match(model)), None)


def price_row(table: str, name: str) -> ModelInfo | None:
    """The row of the shipped table that matches a provider's name for a model; None if there is none."""
    lower = name.lower()
    return _exact(table).get(lower) or _matching(table, lower)


def listed(table: str, name: str) -> bool:
    """Whether the shipped table has a model with exactly this name, not only a matching pattern."""
    return name.lower() in _exact(table)


def has_row(table: str, name: str) -> bool:
    """Whether this name is the id of a row of the shipped table. `listed` also accepts other names of a row, which may
    occur only in responses."""
    found = _exact(table).get(name.lower())
    return found is not None and found.id == name.lower()


def exact_names(table: str, name: str) -> Iterator[str]:
    """All names by which the shipped table lists the model with this name, as far as they are no patterns."""
    row = price_row(table, name)
    if row is not None:
        yield row.id
        yield from _exact_names(row.match)


def has_table(table: str) -> bool:
    """Whether the release ships prices of a provider under this name."""
    return _table(table) is not None


def callable_names(table: str) -> Iterator[str]:
    """Names of the models in a table, without patterns and deprecated models."""
    shipped = _table(table)
    for model in shipped.models if shipped else ():
        pattern = model.id.startswith(FINE_TUNED) or model.id.endswith("-")
        if not (model.deprecated or pattern):
            yield model.id


@cache
def _table(table: str) -> Table | None:
    return find_provider_by_id(get_snapshot().providers, table)


@lru_cache(4096)
def _matching(table: str, name: str) -> ModelInfo | None:
    # The package's search over all tables has an unbounded cache.
    shipped = _table(table)
    return shipped.find_model(name) if shipped else None


@cache
def _exact(table: str) -> Mapping[str, ModelInfo]:
    shipped = _table(table)
    found: dict[str, ModelInfo] = {}
    for model in shipped.models if shipped else ():
        for name in (model.id, *_exact_names(model.match)):
            found.setdefault(name, model)
    return found


def _exact_names(match: MatchLogic) -> Iterator[str]:
    if isinstance(match, ClauseEquals):
        yield match.equals
    elif isinstance(match, ClauseOr):
        for clause in match.or_:
            yield from _exact_names(clause)
