"""How each key of a request affects the price of a call, before it is sent.

`price_keys.py` has the tables, with a reader for each known key. `free` keys cannot change the price, `limits` are
already part of the `Call`; the others are read into `PriceFactors`, which determine the hold, or are refused by name.
Unknown keys are forwarded: providers accept undocumented keys and reject invalid ones themselves.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import ceil
from typing import Any

from models.gateway import model_names
from models.gateway.chat_format import BadCall, Call
from models.gateway.chat_format.chat_parsing import MEDIA_KEYS, strings
from models.gateway.pricing import ModelPrice
from models.gateway.served_ways import way_of

DEFAULT_CONTEXT_WINDOW = 1_048_576
"""Context window in tokens, where the price table has none."""

IMAGE_TOKENS = 5_000
"""Maximum tokens of an input image. Its size in bytes says little: a uniform image compresses to a few bytes."""
IMAGE_TOKENS_BY_MODEL = (("gpt-4o-mini", 48_200),)
"""Models that charge more tokens per image."""
ORIGINAL_IMAGE_TOKENS = 12_000
"""Maximum tokens of an input image with `detail: original`."""

REMOTE_DOCUMENT_DOLLARS = Decimal(2)
"""Dollars to parse a document given by URL: a thousand pages with OpenRouter's most expensive engine."""
PAGE_BYTES, PAGE_DOLLARS = 2_000, Decimal("0.002")
"""Minimum bytes of a page, and its price in dollars."""

CHARACTERS_PER_AUDIO_TOKEN = 40
"""Base64 characters per audio token, the minimum: speech at 8 kbit/s."""
CONSTANT_RATE_AUDIO = ("wav", "mp3", "pcm16")
"""Formats that never go below that rate. Others, like video, compress an hour of silence or black to a few bytes."""
CHARACTERS_PER_PAGE_TOKEN, CHARACTERS_PER_WORD_TOKEN = 10, 4
"""Characters per token that are typical of an encoded document, and of a plain text document."""
REFERENCED_AUDIO_TOKENS = 20_000
"""Tokens of an earlier audio answer that a request references by id."""

SEARCH_DOLLARS = Decimal("0.05")
"""Dollars per web search without its results, with the most expensive engine."""
RESULT_DOLLARS, RESULT_TOKENS = Decimal("0.004"), 2_000
"""Dollars per search result, and the tokens that it adds to the prompt."""
TOOL_SEARCHES = 10
"""Searches to assume for a model with a search tool. Each one resends the conversation."""

IMAGE_DOLLARS = Decimal("0.30")
"""Dollars per generated image."""

TIER_FACTORS = {"priority": Decimal("2.5")}
"""Price factor of a service tier, at a provider that reports its cost."""
ORDINARY_TIERS = ("auto", "default", "standard", "standard_only", "on_demand", "flex")

ENDPOINT_CHOICE_FACTOR = Decimal(2)
"""Price factor if the client chooses among OpenRouter's endpoints, which may cost more than the listed one."""


@dataclass(slots=True)
class PriceFactors:
    """Parameters of a request, other than text, that affect the maximum cost of the call.

    `media`: maximum media input tokens by bucket; `likely`: typical input tokens beyond `Call.input_tokens`.
    `max_output`: an output limit under a nonstandard key; `output`: output tokens beyond the limit. `dollars`: charges
    per unit; `certain`: those that do not depend on the answer. `factor`: multiplier of all token costs. `write_bucket`: the bucket of cache writes. `audio`: the answer
    may be audio. `prices`: those of other models that may answer instead.
    """

    media: dict[str, int] = field(default_factory=dict)
    likely: int = 0
    max_output: int = 0
    output: int = 0
    dollars: Decimal = Decimal(0)
    certain: Decimal = Decimal(0)
    factor: Decimal = Decimal(1)
    write_bucket: str = "cache_write"
    audio: bool = False
    prices: list[ModelPrice] = field(default_factory=list)


class FactorReader:
    """Reads the keys of one request into `factors`."""

    def __init__(
        self,
        call: Call,
        price: ModelPrice | None,
        price_of: Callable[[str], ModelPrice | None],
        *,
        reports_cost: bool,
        separate_media_prices: bool,
    ) -> None:
        self.factors = PriceFactors()
        self.call = call
        self.price = price
        self.price_of = price_of
        self.reports_cost = reports_cost
        self.separate_media_prices = separate_media_prices
        """Whether media always have their own prices at this provider."""
        self.context_window = (price.context_window if price else None) or DEFAULT_CONTEXT_WINDOW

    def add(self, bucket: str, tokens: int, likely: int | None = None) -> None:
        """Add input tokens, up to the context window. `likely`: the typical number, by default all of them."""
        media = self.factors.media
        remaining = max(self.context_window - sum(media.values()), 0)
        media[bucket] = media.get(bucket, 0) + min(tokens, remaining)
        self.factors.likely += min(tokens if likely is None else likely, remaining)

    def refuse(self, key: str, reason: str) -> BadCall:
        """The error for a key that is not supported."""
        return BadCall(f"'{key}' is not served here: {reason}", param=key)

    def require_price(self, bucket: str, key: str) -> None:
        """Refuse media that cost more than text and have no price. Raises BadCall."""
        if self.separate_media_prices and self.price and bucket not in self.price.tiers[0].listed:
            raise self.refuse(
                key,
                f"the model '{self.call.model}' has no price for it on this server. "
                f"The operator can set one ('{bucket}' in STOA_PRICES_FILE).",
            )

    def add_units(self, unit: str, count: int, key: str) -> None:
        """Add units that the call costs whatever it answers. Raises BadCall if neither they nor tokens have a price."""
        if self.price is None:
            return
        each = self.price.listed_unit(unit)
        if each is None and not (self.price.by_tokens or self.price.request):
            name = unit.partition(":")[0].removesuffix("s")
            raise self.refuse(
                key,
                f"the model '{self.call.model}' has no price per {name.replace('_', ' ')} on this server. "
                f"The operator can set one ('{name}' in STOA_PRICES_FILE).",
            )
        self.factors.certain += (each or 0) * count

    def hold_way(self, field: str, value: Any) -> bool:
        """Hold the price of a way to be served, too; false if it has none."""
        way = way_of(field, value)
        price = self.price.variants.get(way) if self.price and way else None
        if price is not None:
            self.factors.prices.append(price)
        return price is not None

    def search(self, results: int, times: int = 1) -> None:
        """Add web searches, whose results are added to the prompt."""
        self.factors.dollars += times * (SEARCH_DOLLARS + RESULT_DOLLARS * results)
        self.add("input", times * results * RESULT_TOKENS)


KeyReader = Callable[[str, Any, FactorReader], None]


def read_factors(
    table: Mapping[str, KeyReader], body: Mapping[str, Any], reader: FactorReader
) -> PriceFactors:
    """Read the keys of the body to send. Raises BadCall for a key whose price is unknown."""
    for key, value in body.items():
        if value is not None and (read := table.get(key)) is not None:
            read(key, value, reader)
    _model_name("model", reader.call.model, reader)
    return reader.factors


_SEARCHES = re.compile(r"sonar|search-(?:preview|api)|deep-research")
"""Models that always search the web."""


def _model_name(key: str, model: str, reader: FactorReader) -> None:
    """Add what a model's name implies beyond its price: searches, presets."""
    base, variant = model_names.split_variant(model.lower())
    if "@preset/" in base:
        raise _preset(key, model, reader)
    if "online" in variant.split(":"):
        reader.search(5)
    if "deep-research" in base:
        _search_tool(reader)
    elif reader.reports_cost and _SEARCHES.search(base):
        reader.search(0)


# -- keys ----------------------------------------------------------------------------------------------------


def free(key: str, value: Any, reader: FactorReader) -> None:
    """Cannot change the price."""


def limits(key: str, value: Any, reader: FactorReader) -> None:
    """Already in the `Call`: number and length of the answers."""


def read_messages(key: str, messages: Any, reader: FactorReader) -> None:
    for index, message in enumerate(messages):
        if "cache_control" in message:
            read_cache_control(key, message["cache_control"], reader)
        if isinstance(message.get("audio"), dict):
            reader.require_price("audio_input", f"messages[{index}].audio")
            reader.add("audio_input", REFERENCED_AUDIO_TOKENS)
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                read_part(f"messages[{index}].content", part, reader)


def read_part(key: str, part: Mapping[str, Any], reader: FactorReader) -> None:
    for name, value in part.items():
        if name in _TEXT_KEYS or value is None:
            continue
        own = {"file_id": value} if name == "file_id" else value
        if isinstance(own, dict) and own.get("file_id"):
            raise reader.refuse(
                f"{key}.file_id" if own is not value else f"{key}.{name}.file_id",
                "it refers to a file in the account of the server. Send the data instead.",
            )
        if name == "cache_control":
            read_cache_control(key, value, reader)
        elif name == "content" and isinstance(value, list):
            for inner in value:
                if isinstance(inner, dict):
                    read_part(f"{key}.content", inner, reader)
        elif name in MEDIA_KEYS:
            _media(f"{key}.{name}", name, value, part.get("type"), reader)
        elif any(map(_is_url, strings(value))):
            # an unknown key with a URL: the server may fetch it
            _add_media("input", value, reader, 1)


_TEXT_KEYS = frozenset(
    {"type", "text", "refusal", "id", "name", "tool_use_id", "tool_call_id", "is_error", "title", "context"}
    | {"thinking", "reasoning", "signature", "summary", "input", "annotations", "citations", "extra_content"}
)
"""Keys of content parts that hold text or nothing that is read. A URL in them is only text."""


def _media(key: str, name: str, value: Any, kind: Any, reader: FactorReader) -> None:
    """An image, audio, video or file, by its key and its data; if they differ, the more expensive one."""
    found = {_KIND_BY_KEY.get(name) or _KIND_BY_KEY.get(kind if isinstance(kind, str) else "")}
    for text in strings(value):
        match = _KIND_BY_DATA.match(text[:500])
        found.add(match and match.lastgroup)
    found.discard(None)
    if len(found) > 1:
        found.discard("image")
    for kind in [kind for kind in _READER_BY_KIND if kind in found] or ["file"]:
        _READER_BY_KIND[kind](key, value, reader)


_KIND_BY_KEY = {
    **dict.fromkeys(("image_url", "input_image", "image"), "image"),
    **dict.fromkeys(("input_audio", "audio_url", "audio"), "audio"),
    **dict.fromkeys(("video_url", "input_video", "video"), "video"),
    **dict.fromkeys(("file", "file_url", "file_data", "fileData", "input_file", "document"), "file"),
}
_KIND_BY_DATA = re.compile(
    r"""
      (?P<image>(?:data:)?image/)
    | (?P<audio>(?:data:)?audio/|\w+://[^?\#]*\.(?:mp3|wav|ogg|oga|opus|flac|m4a|aac|aiff)(?:[?\#]|$))
    | (?P<video>(?:data:)?video/|\w+://(?:(?:www\.|m\.)?youtube\.com/|youtu\.be/)
        |\w+://[^?\#]*\.(?:mp4|m4v|mov|mkv|webm|avi|mpe?g)(?:[?\#]|$))
    | (?P<file>(?:data:)?(?:application|text)/
        |\w+://[^?\#]*\.(?:pdf|txt|md|csv|html?|docx?|xlsx?|pptx?)(?:[?\#]|$))
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Kind of media by MIME type, data URL or file extension."""


def _image(key: str, value: Any, reader: FactorReader) -> None:
    model = reader.call.model.lower()
    limit = next((tokens for name, tokens in IMAGE_TOKENS_BY_MODEL if name in model), IMAGE_TOKENS)
    if isinstance(value, dict) and value.get("detail") == "original":
        limit = max(limit, ORIGINAL_IMAGE_TOKENS)
    reader.add("image_input", limit, 0)


def _audio(key: str, value: Any, reader: FactorReader) -> None:
    reader.require_price("audio_input", key)
    constant_rate = isinstance(value, dict) and value.get("format") in CONSTANT_RATE_AUDIO
    _add_media(
        "audio_input",
        value,
        reader,
        CHARACTERS_PER_AUDIO_TOKEN if constant_rate else 0,
        CHARACTERS_PER_AUDIO_TOKEN,
    )


def _video(key: str, value: Any, reader: FactorReader) -> None:
    _add_media("video_input", value, reader, 0, CHARACTERS_PER_AUDIO_TOKEN)


def _file(key: str, value: Any, reader: FactorReader) -> None:
    texts = list(strings(value))
    plain = any(" " in text[:1000] for text in texts)
    _add_media("input", value, reader, 1, CHARACTERS_PER_WORD_TOKEN if plain else CHARACTERS_PER_PAGE_TOKEN)
    if reader.reports_cost:
        pages = max(sum(map(len, texts)) // PAGE_BYTES, 5)
        reader.factors.dollars += (
            REMOTE_DOCUMENT_DOLLARS if any(map(_is_url, texts)) else PAGE_DOLLARS * pages
        )


def _add_media(bucket: str, value: Any, reader: FactorReader, minimum: int, typical: int = 0) -> None:
    """Add media of unknown length: the size divided by `minimum` characters per token; without a minimum, or for a URL,
    the whole context window. `typical` characters per token give the likely number."""
    texts = list(strings(value))
    size = sum(map(len, texts))
    if any(map(_is_url, texts)):
        reader.add(bucket, reader.context_window)
    else:
        reader.add(
            bucket, size // minimum if minimum else reader.context_window, size // (typical or minimum)
        )


_READER_BY_KIND: Mapping[str, KeyReader] = {"file": _file, "video": _video, "image": _image, "audio": _audio}


def _is_url(text: str) -> bool:
    return "://" in text[:40] and not text.startswith("data:")


def read_cache_control(key: str, value: Any, reader: FactorReader) -> None:
    if isinstance(value, dict) and value.get("ttl") not in (None, "5m"):
        reader.factors.write_bucket = "cache_write_1h"


def read_cache_options(key: str, value: Any, reader: FactorReader) -> None:
    reader.factors.write_bucket = "cache_write_12h"


def read_prediction(key: str, value: Any, reader: FactorReader) -> None:
    """Rejected prediction tokens are billed as output (OpenAI)."""
    content = value.get("content") if isinstance(value, dict) else value
    parts = content if isinstance(content, list) else [content]
    texts = [text for part in parts for text in strings(part)]
    reader.factors.output += sum(len(text.encode("utf-8", "replace")) for text in texts) + 1


def read_modalities(key: str, value: Any, reader: FactorReader) -> None:
    requested = value if isinstance(value, list) else [value]
    if "audio" in requested:
        read_audio_output(key, value, reader)
    if "image" in requested:
        reader.require_price("image_output", key)
        reader.factors.dollars += IMAGE_DOLLARS if reader.reports_cost else 0


def read_audio_output(key: str, value: Any, reader: FactorReader) -> None:
    reader.require_price("audio_output", key)
    reader.factors.audio = True


def read_thinking(key: str, value: Any, reader: FactorReader) -> None:
    """Reasoning budgets, which some providers do not include in the output limit."""
    if isinstance(value, dict):
        budgets = (
            value.get(name) for name in ("max_tokens", "budget_tokens", "thinking_budget", "thinkingBudget")
        )
        value = max(map(_limit, budgets))
    reader.factors.output += _limit(value)


def read_output_limit(key: str, value: Any, reader: FactorReader) -> None:
    """An output limit under a nonstandard key: providers that support it allow that much, others ignore it."""
    reader.factors.max_output = max(reader.factors.max_output, _limit(value))


def _limit(value: Any) -> int:
    """Tokens that a limit allows, capped; 0 if it is invalid."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else 0
    if type(value) not in (int, float) or not value > 0:
        return 0
    return DEFAULT_CONTEXT_WINDOW if value >= DEFAULT_CONTEXT_WINDOW else ceil(value)


def read_tier(key: str, value: Any, reader: FactorReader) -> None:
    if value in ORDINARY_TIERS or reader.hold_way("service_tier", value):
        return
    if not (reader.reports_cost and isinstance(value, str) and value in TIER_FACTORS):
        known = ", ".join((*ORDINARY_TIERS, *(TIER_FACTORS if reader.reports_cost else ())))
        raise reader.refuse(key, f"the price of {value!r} is unknown. Supported values: {known}.")
    reader.factors.factor *= TIER_FACTORS[value]


def read_speed(key: str, value: Any, reader: FactorReader) -> None:
    if value != "standard" and not reader.hold_way("speed", value):
        raise reader.refuse(key, "it changes the price by an unknown amount.")


def read_region(key: str, value: Any, reader: FactorReader) -> None:
    if value != "global" and not reader.hold_way("inference_geo", value):
        raise reader.refuse(key, "it changes the price by an unknown amount.")


def read_tools(key: str, tools: Any, reader: FactorReader) -> None:
    for index, tool in enumerate(tools):
        kind = tool.get("type") or ("function" if "function" in tool or "name" in tool else None)
        hosted = next(filter(_HOSTED.search, tool), None)
        if kind in ("function", "custom") and hosted is None:
            if "cache_control" in tool:
                read_cache_control(key, tool["cache_control"], reader)
        elif isinstance(kind, str) and kind in _SERVED_TOOLS and reader.reports_cost:
            _SERVED_TOOLS[kind](reader)
        else:
            message = f"the provider charges for each use of {hosted or kind!r}, at an unknown price."
            raise reader.refuse(f"tools[{index}].type", message)


_HOSTED = re.compile(
    r"search|code_?(?:execution|interpreter)|retrieval|url_?context|maps|computer", re.IGNORECASE
)
"""Keys of tools that run at the provider, for servers that ignore `type`."""


def _search_tool(reader: FactorReader) -> None:
    reader.search(5, TOOL_SEARCHES)
    reader.factors.factor *= 3


_SERVED_TOOLS: Mapping[Any, Callable[[FactorReader], None]] = {
    "openrouter:datetime": lambda reader: None,
    "openrouter:web_search": _search_tool,
    "openrouter:web_fetch": _search_tool,
}


def read_web_search(key: str, value: Any, reader: FactorReader) -> None:
    if reader.reports_cost:
        reader.search(10)
    elif not (reader.price and reader.price.request):
        message = "the provider charges for each search and does not report their number."
        raise reader.refuse(
            key, f"{message} The operator can set a price per call ('request' in STOA_PRICES_FILE)."
        )


def read_plugins(key: str, value: Any, reader: FactorReader) -> None:
    plugins = value if isinstance(value, list) else [value]
    for index, plugin in enumerate(plugins):
        name = plugin.get("id") if isinstance(plugin, dict) else plugin
        if isinstance(plugin, dict) and plugin.get("enabled") is False:
            continue
        if not reader.reports_cost or name not in _PLUGINS:
            raise reader.refuse(f"{key}[{index}]", f"the price of {name!r} is unknown.")
        if name in ("web", "web-fetch"):
            limit = plugin.get("max_results", 5) if isinstance(plugin, dict) else 5
            if type(limit) is not int or not 0 <= limit <= 100:
                raise BadCall(f"'{key}[{index}].max_results' must be from 0 to 100.", param=key)
            reader.search(limit)


_PLUGINS = (
    "web",
    "web-fetch",
    "file-parser",
    "response-healing",
    "context-compression",
    "moderation",
    "auto-router",
)


def read_models(key: str, value: Any, reader: FactorReader) -> None:
    for name in value if isinstance(value, list) else [value]:
        price = reader.price_of(name) if isinstance(name, str) else None
        if price is None:
            raise reader.refuse(key, f"the model {name!r} has no price on this server.")
        reader.factors.prices.append(price)
        _model_name(key, name, reader)


def read_provider(key: str, value: Any, reader: FactorReader) -> None:
    """OpenRouter's endpoint preferences. Excluding endpoints may exclude the cheap ones."""
    preferences = value.items() if isinstance(value, dict) else ()
    if any(
        setting and (name, setting) not in _CHEAP_PREFERENCES and name not in _NEUTRAL_PREFERENCES
        for name, setting in preferences
    ):
        reader.factors.factor *= ENDPOINT_CHOICE_FACTOR


_NEUTRAL_PREFERENCES = ("allow_fallbacks", "max_price")
_CHEAP_PREFERENCES = (("sort", "price"), ("data_collection", "allow"))


def _preset(key: str, value: Any, reader: FactorReader) -> BadCall:
    return reader.refuse(key, f"the price of the preset {value!r} is unknown.")


def only(*defaults: Any) -> KeyReader:
    """A reader that refuses any value except the defaults."""

    def read(key: str, value: Any, reader: FactorReader) -> None:
        if value not in defaults:
            raise reader.refuse(key, "it changes the price by an unknown amount.")

    return read


def read_search_parameters(key: str, value: Any, reader: FactorReader) -> None:
    if not (isinstance(value, dict) and value.get("mode") == "off"):
        raise reader.refuse(key, "the provider charges for each source.")


def read_server_state(key: str, value: Any, reader: FactorReader) -> None:
    if value:
        raise reader.refuse(key, "it adds input that is stored at the provider. Send all messages instead.")
