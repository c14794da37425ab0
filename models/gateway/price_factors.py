"""What each key of a request does to the price of the call, before it is sent.

`KEYS` has one table for each provider: what a key that we know does there. `free` keys cannot change the price, `bounds`
are part of the call itself; the others are read into `PriceFactors`, which the hold is made of, or refused by name. A key that
is in no table is passed on: providers take keys that are not written down, and refuse what they do not know.
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

WINDOW = 1_048_576
"""Tokens that the input of a model can have, where the price table does not say."""

PICTURE_READ = 5_000
"""Tokens of a picture at the most: a plain one of any size may be encoded in a few bytes."""
PICTURES_READ = (("gpt-4o-mini", 48_200),)
"""Models that count more for one."""
UNSCALED = 12_000
"""Tokens of a picture that is to be read in its own size (`detail`)."""

REMOTE_PAGES = Decimal(2)
"""Dollars for reading a document behind an address: a thousand pages by OpenRouter's dearest engine."""
PAGE_BYTES, PAGE = 2_000, Decimal("0.002")
"""A page has more bytes than that, and costs so many dollars."""

CHARACTERS_PER_SOUND = 40
"""Of base64 for a token of sound: speech at 8 kbit/s has so few."""
STEADY_SOUNDS = ("wav", "mp3", "pcm16")
"""Formats that never have fewer. An hour of silence has few bytes in others, as has an hour of a black screen."""
CHARACTERS_PER_PAGE_TOKEN, CHARACTERS_PER_WORD_TOKEN = 10, 4
"""Of an encoded document, and of one that is plain text, in ordinary cases."""
HEARD = 20_000
"""Tokens of an earlier spoken answer that a request names by its id."""

SEARCH = Decimal("0.05")
"""Dollars of a web search beside its results, at the dearest engine."""
RESULT, RESULT_TOKENS = Decimal("0.004"), 2_000
"""Dollars of a result, and tokens that it puts into the prompt."""
SEARCHES = 10
"""Searches of a model that may search by itself, each with the whole conversation again."""

PICTURE = Decimal("0.30")
"""Dollars of a picture that is made."""

TIERS = {"priority": Decimal("2.5")}
"""How much dearer a service tier is, at a provider that reports what it charged."""
ORDINARY_TIERS = ("auto", "default", "standard", "standard_only", "on_demand", "flex")

CHOSEN_ROUTE = Decimal(2)
"""How much dearer OpenRouter's other endpoints are than the listed one, when the client chooses among them."""


@dataclass(slots=True)
class PriceFactors:
    """What a request asks for beside plain text, as far as it changes what the call can cost.

    `media` is input beside the text, by bucket, and `likely` what of it an ordinary call has beyond `Call.input_tokens`;
    `bound` is a bound of the output by another name, `output` tokens beyond the bound; `dollars` what is charged by the piece; `factor` multiplies all tokens; `prices`
    are those of other models that may answer instead.
    """

    media: dict[str, int] = field(default_factory=dict)
    likely: int = 0
    bound: int = 0
    output: int = 0
    dollars: Decimal = Decimal(0)
    factor: Decimal = Decimal(1)
    written: str = "cache_write"
    spoken: bool = False
    prices: list[ModelPrice] = field(default_factory=list)


class FactorReader:
    """One request while its keys are read."""

    def __init__(
        self,
        call: Call,
        price: ModelPrice | None,
        price_of: Callable[[str], ModelPrice | None],
        *,
        reports_cost: bool,
        apart: bool,
    ) -> None:
        self.terms = PriceFactors()
        self.call = call
        self.price = price
        self.price_of = price_of
        self.reports_cost = reports_cost
        self.apart = apart
        """Media always have prices of their own here."""
        self.window = (price.longest if price else None) or WINDOW

    def add(self, bucket: str, tokens: int, likely: int | None = None) -> None:
        """More tokens of input, though never more than the model can read; `likely` is what of them is likely."""
        media = self.terms.media
        room = max(self.window - sum(media.values()), 0)
        media[bucket] = media.get(bucket, 0) + min(tokens, room)
        self.terms.likely += min(tokens if likely is None else likely, room)

    def refuse(self, key: str, why: str) -> BadCall:
        """The refusal of a key, in a sentence."""
        return BadCall(f"'{key}' is not served here: {why}", param=key)

    def needs(self, bucket: str, key: str) -> None:
        """Refuse a medium that costs more than text when nobody said how much. Raises BadCall."""
        if self.apart and self.price and bucket not in self.price.tiers[0].own:
            raise self.refuse(
                key,
                f"the model '{self.call.model}' has no price for it on this server. "
                f"The operator can give one ('{bucket}' in STOA_PRICES_FILE).",
            )

    def search(self, results: int, times: int = 1) -> None:
        """Searches of the web, with their results in the prompt."""
        self.terms.dollars += times * (SEARCH + RESULT * results)
        self.add("input", times * results * RESULT_TOKENS)


Reader = Callable[[str, Any, FactorReader], None]


def terms_of(table: Mapping[str, Reader], body: Mapping[str, Any], reading: FactorReader) -> PriceFactors:
    """Read the body that is sent. Raises BadCall for a key whose price nobody knows."""
    for key, value in body.items():
        if value is not None and (read := table.get(key)) is not None:
            read(key, value, reading)
    _named("model", reading.call.model, reading)
    return reading.terms


_SEARCHES = re.compile(r"sonar|search-(?:preview|api)|deep-research")
"""Models that search the web whether or not they are told to."""


def _named(key: str, model: str, reading: FactorReader) -> None:
    """What the name of a model adds; all else that it costs lies in its price."""
    base, variant = model_names.split_variant(model.lower())
    if "@preset/" in base:
        raise _preset(key, model, reading)
    if "online" in variant.split(":"):
        reading.search(5)
    if "deep-research" in base:
        _searching_tool(reading)
    elif reading.reports_cost and _SEARCHES.search(base):
        reading.search(0)


# -- keys ----------------------------------------------------------------------------------------------------


def free(key: str, value: Any, reading: FactorReader) -> None:
    """Cannot change the price."""


def bounds(key: str, value: Any, reading: FactorReader) -> None:
    """Is read into the call itself: how many answers, and how long."""


def _messages(key: str, messages: Any, reading: FactorReader) -> None:
    for index, message in enumerate(messages):
        if "cache_control" in message:
            _cache_control(key, message["cache_control"], reading)
        if isinstance(message.get("audio"), dict):
            reading.needs("audio_input", f"messages[{index}].audio")
            reading.add("audio_input", HEARD)
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                _part(f"messages[{index}].content", part, reading)


def _part(key: str, part: Mapping[str, Any], reading: FactorReader) -> None:
    for name, value in part.items():
        if name in _WORDS or value is None:
            continue
        if name == "cache_control":
            _cache_control(key, value, reading)
        elif name == "content" and isinstance(value, list):
            for inner in value:
                if isinstance(inner, dict):
                    _part(f"{key}.content", inner, reading)
        elif name in MEDIA_KEYS:
            _medium(f"{key}.{name}", name, value, part.get("type"), reading)
        elif any(map(_remote, strings(value))):
            # nobody knows what a server makes of it
            _stretch("input", value, reading, 1)


_WORDS = frozenset(
    (
        *(
            "type",
            "text",
            "refusal",
            "id",
            "name",
            "tool_use_id",
            "tool_call_id",
            "is_error",
            "title",
            "context",
        ),
        *(
            "thinking",
            "reasoning",
            "signature",
            "summary",
            "input",
            "annotations",
            "citations",
            "extra_content",
        ),
    )
)
"""Keys of content parts that hold text alone, or nothing that is read; there an address is only its letters."""


def _medium(key: str, name: str, value: Any, kind: Any, reading: FactorReader) -> None:
    """A picture, sound, film or file: what its key and the data say, and the dearer where they differ."""
    found = {_BY_KEY.get(name) or _BY_KEY.get(kind if isinstance(kind, str) else "")}
    for text in strings(value):
        match = _BY_DATA.match(text[:500])
        found.add(match and match.lastgroup)
    found.discard(None)
    if len(found) > 1:
        found.discard("picture")
    for each in sorted(filter(None, found)) or ["file"]:
        _KINDS[each](key, value, reading)


_BY_KEY = {
    **dict.fromkeys(("image_url", "input_image", "image"), "picture"),
    **dict.fromkeys(("input_audio", "audio_url", "audio"), "sound"),
    **dict.fromkeys(("video_url", "input_video", "video"), "film"),
    **dict.fromkeys(("file", "file_url", "file_data", "fileData", "input_file", "document"), "file"),
}
_BY_DATA = re.compile(
    r"""
      (?P<picture>(?:data:)?image/)
    | (?P<sound>(?:data:)?audio/|\w+://[^?\#]*\.(?:mp3|wav|ogg|oga|opus|flac|m4a|aac|aiff)(?:[?\#]|$))
    | (?P<film>(?:data:)?video/|\w+://(?:(?:www\.|m\.)?youtube\.com/|youtu\.be/)
        |\w+://[^?\#]*\.(?:mp4|m4v|mov|mkv|webm|avi|mpe?g)(?:[?\#]|$))
    | (?P<file>(?:data:)?(?:application|text)/
        |\w+://[^?\#]*\.(?:pdf|txt|md|csv|html?|docx?|xlsx?|pptx?)(?:[?\#]|$))
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""What a MIME type, encoded data or an address says of a medium."""


def _picture(key: str, value: Any, reading: FactorReader) -> None:
    model = reading.call.model.lower()
    most = next((tokens for name, tokens in PICTURES_READ if name in model), PICTURE_READ)
    if isinstance(value, dict) and value.get("detail") == "original":
        most = max(most, UNSCALED)
    reading.add("image_input", most, 0)


def _sound(key: str, value: Any, reading: FactorReader) -> None:
    reading.needs("audio_input", key)
    steady = isinstance(value, dict) and value.get("format") in STEADY_SOUNDS
    _stretch("audio_input", value, reading, CHARACTERS_PER_SOUND if steady else 0, CHARACTERS_PER_SOUND)


def _film(key: str, value: Any, reading: FactorReader) -> None:
    _stretch("video_input", value, reading, 0, CHARACTERS_PER_SOUND)


def _file(key: str, value: Any, reading: FactorReader) -> None:
    if isinstance(value, dict) and value.get("file_id"):
        raise reading.refuse(
            f"{key}.file_id", "it would name a file of the server's own account. Send the data."
        )
    texts = list(strings(value))
    plain = any(" " in text[:1000] for text in texts)
    _stretch("input", value, reading, 1, CHARACTERS_PER_WORD_TOKEN if plain else CHARACTERS_PER_PAGE_TOKEN)
    if reading.reports_cost:
        pages = max(sum(map(len, texts)) // PAGE_BYTES, 5)
        reading.terms.dollars += REMOTE_PAGES if any(map(_remote, texts)) else PAGE * pages


def _stretch(bucket: str, value: Any, reading: FactorReader, fewest: int, ordinary: int = 0) -> None:
    """Sound, film or text of unknown length: as much as the data can hold at the `fewest` characters for a token, or
    what the model can read at all."""
    texts = list(strings(value))
    size = sum(map(len, texts))
    if any(map(_remote, texts)):
        reading.add(bucket, reading.window)
    else:
        reading.add(bucket, size // fewest if fewest else reading.window, size // (ordinary or fewest))


_KINDS: Mapping[str, Reader] = {"picture": _picture, "sound": _sound, "film": _film, "file": _file}


def _remote(text: str) -> bool:
    return "://" in text[:40] and not text.startswith("data:")


def _cache_control(key: str, value: Any, reading: FactorReader) -> None:
    if isinstance(value, dict) and value.get("ttl") not in (None, "5m"):
        reading.terms.written = "cache_write_1h"


def _cache_options(key: str, value: Any, reading: FactorReader) -> None:
    reading.terms.written = "cache_write_12h"


def _prediction(key: str, value: Any, reading: FactorReader) -> None:
    """What was predicted and not written is billed as output (OpenAI)."""
    content = value.get("content") if isinstance(value, dict) else value
    parts = content if isinstance(content, list) else [content]
    texts = [text for part in parts for text in strings(part)]
    reading.terms.output += sum(len(text.encode("utf-8", "replace")) for text in texts) + 1


def _modalities(key: str, value: Any, reading: FactorReader) -> None:
    wanted = value if isinstance(value, list) else [value]
    if "audio" in wanted:
        _voice(key, value, reading)
    if "image" in wanted:
        reading.needs("image_output", key)
        reading.terms.dollars += PICTURE if reading.reports_cost else 0


def _voice(key: str, value: Any, reading: FactorReader) -> None:
    reading.needs("audio_output", key)
    reading.terms.spoken = True


def _thinking(key: str, value: Any, reading: FactorReader) -> None:
    """Thoughts with a budget of their own, which some providers do not count into the bound."""
    if isinstance(value, dict):
        named = (
            value.get(name) for name in ("max_tokens", "budget_tokens", "thinking_budget", "thinkingBudget")
        )
        value = max(map(_bound, named))
    reading.terms.output += _bound(value)


def _longer(key: str, value: Any, reading: FactorReader) -> None:
    """A bound by another name: whoever knows it may write as much, and who does not is bound by nothing."""
    reading.terms.bound = max(reading.terms.bound, _bound(value))


def _bound(value: Any) -> int:
    """Tokens that a bound allows, however large it is; 0 where it is none."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else 0
    if type(value) not in (int, float) or not value > 0:
        return 0
    return WINDOW if value >= WINDOW else ceil(value)


def _nested(key: str, value: Any, reading: FactorReader) -> None:
    """Keys that some servers take out of an object as if they stood beside it."""
    for name, inner in value.items() if isinstance(value, dict) else ():
        if inner is None:
            continue
        if name in ("model", "messages") or (name == "n" and inner != 1):
            raise reading.refuse(f"{key}.{name}", "give it outside of that object.")
        read = _longer if name in ("max_tokens", "max_completion_tokens") else CHAT.get(name)
        if read is not None:
            read(f"{key}.{name}", inner, reading)


def _tier(key: str, value: Any, reading: FactorReader) -> None:
    if value in ORDINARY_TIERS:
        return
    if not (reading.reports_cost and isinstance(value, str) and value in TIERS):
        known = ", ".join((*ORDINARY_TIERS, *(TIERS if reading.reports_cost else ())))
        raise reading.refuse(key, f"the price of {value!r} is not known. Known are {known}.")
    reading.terms.factor *= TIERS[value]


def _tools(key: str, tools: Any, reading: FactorReader) -> None:
    for index, tool in enumerate(tools):
        kind = tool.get("type") or ("function" if "function" in tool or "name" in tool else None)
        hosted = next(filter(_HOSTED.search, tool), None)
        if kind in ("function", "custom") and hosted is None:
            if "cache_control" in tool:
                _cache_control(key, tool["cache_control"], reading)
        elif isinstance(kind, str) and kind in _SERVED_TOOLS and reading.reports_cost:
            _SERVED_TOOLS[kind](reading)
        else:
            words = f"the provider charges for {hosted or kind!r} by the piece, at a price that is not known."
            raise reading.refuse(f"tools[{index}].type", words)


_HOSTED = re.compile(
    r"search|code_?(?:execution|interpreter)|retrieval|url_?context|maps|computer", re.IGNORECASE
)
"""Keys of tools that run at the provider, for servers that look for those and not at the type."""


def _searching_tool(reading: FactorReader) -> None:
    reading.search(5, SEARCHES)
    reading.terms.factor *= 3


_SERVED_TOOLS: Mapping[Any, Callable[[FactorReader], None]] = {
    "openrouter:datetime": lambda reading: None,
    "openrouter:web_search": _searching_tool,
    "openrouter:web_fetch": _searching_tool,
}


def _web_search(key: str, value: Any, reading: FactorReader) -> None:
    if reading.reports_cost:
        reading.search(10)
    elif not (reading.price and reading.price.request):
        words = "the provider charges for each search and does not say how many it made."
        raise reading.refuse(
            key, f"{words} The operator can price each call ('request' in STOA_PRICES_FILE)."
        )


def _plugins(key: str, value: Any, reading: FactorReader) -> None:
    plugins = value if isinstance(value, list) else [value]
    for index, plugin in enumerate(plugins):
        name = plugin.get("id") if isinstance(plugin, dict) else plugin
        if isinstance(plugin, dict) and plugin.get("enabled") is False:
            continue
        if not reading.reports_cost or name not in _PLUGINS:
            raise reading.refuse(f"{key}[{index}]", f"what {name!r} costs is not known.")
        if name in ("web", "web-fetch"):
            most = plugin.get("max_results", 5) if isinstance(plugin, dict) else 5
            if type(most) is not int or not 0 <= most <= 100:
                raise BadCall(f"'{key}[{index}].max_results' must be from 0 to 100.", param=key)
            reading.search(most)


_PLUGINS = (
    "web",
    "web-fetch",
    "file-parser",
    "response-healing",
    "context-compression",
    "moderation",
    "auto-router",
)


def _models(key: str, value: Any, reading: FactorReader) -> None:
    for name in value if isinstance(value, list) else [value]:
        price = reading.price_of(name) if isinstance(name, str) else None
        if price is None:
            raise reading.refuse(key, f"the model {name!r} has no price on this server.")
        reading.terms.prices.append(price)
        _named(key, name, reading)


def _provider(key: str, value: Any, reading: FactorReader) -> None:
    """OpenRouter's choice among endpoints of one model. Whatever leaves some out may leave out the cheap ones."""
    chosen = value.items() if isinstance(value, dict) else ()
    if any(wish and (name, wish) not in _CHEAP_ROUTES and name not in _ANY_ROUTE for name, wish in chosen):
        reading.terms.factor *= CHOSEN_ROUTE


_ANY_ROUTE = ("allow_fallbacks", "max_price")
_CHEAP_ROUTES = (("sort", "price"), ("data_collection", "allow"))


def _preset(key: str, value: Any, reading: FactorReader) -> BadCall:
    return reading.refuse(key, f"what the preset {value!r} adds to the price is not known.")


def _unless(*ordinary: Any) -> Reader:
    """A key that is refused unless it says what is so anyway."""

    def read(key: str, value: Any, reading: FactorReader) -> None:
        if value not in ordinary:
            raise reading.refuse(key, "it changes the price, and by how much is not known.")

    return read


def _search_parameters(key: str, value: Any, reading: FactorReader) -> None:
    if not (isinstance(value, dict) and value.get("mode") == "off"):
        raise reading.refuse(key, "the provider charges for each source that it reads.")


def _kept_there(key: str, value: Any, reading: FactorReader) -> None:
    if value:
        raise reading.refuse(
            key, "it would add to the input what is kept at the provider. Send all of the messages."
        )


CHAT: Mapping[str, Reader] = {
    **dict.fromkeys(
        (
            "model",
            "stream",
            "stream_options",
            "temperature",
            "top_p",
            "top_k",
            "top_a",
            "min_p",
            "frequency_penalty",
            "presence_penalty",
            "repetition_penalty",
            "seed",
            "stop",
            "logit_bias",
            "logprobs",
            "top_logprobs",
            "user",
            "metadata",
            "store",
            "safety_identifier",
            "moderation",
            "parallel_tool_calls",
            "tool_choice",
            "functions",
            "function_call",
            "response_format",
            "verbosity",
            "reasoning_effort",
            "prompt_cache_key",
            "prompt_cache_retention",
            "codebuff_metadata",
        ),
        free,
    ),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "n"), bounds),
    "messages": _messages,
    "tools": _tools,
    "prediction": _prediction,
    "modalities": _modalities,
    "audio": _voice,
    "service_tier": _tier,
    "web_search_options": _web_search,
    "prompt_cache_options": _cache_options,
    "cache_control": _cache_control,
    "reasoning": _thinking,
    "thinking": _thinking,
    "thinking_budget": _thinking,
    **dict.fromkeys(("thinking_config", "thinkingConfig", "thinkingBudget"), _thinking),
    **dict.fromkeys(
        ("extra_body", "google", "generation_config", "generationConfig", "options", "optional_params"),
        _nested,
    ),
    **dict.fromkeys(
        (
            *("max_output_tokens", "maxOutputTokens", "max_new_tokens", "max_tokens_to_sample", "max_length"),
            *("max_gen_len", "num_predict", "n_predict"),
        ),
        _longer,
    ),
    "models": _models,
    "fallbacks": _models,
    "plugins": _plugins,
    "preset": _unless(),
    "speed": _unless("standard"),
    "inference_geo": _unless("global"),
    **dict.fromkeys(
        (
            *("best_of", "candidate_count", "candidateCount", "num_return_sequences", "num_completions"),
            *("num_generations", "num_beams"),
        ),
        _unless(1),
    ),
    **dict.fromkeys(
        ("enable_search", "enable_web_search", "web_search", "enable_code_interpreter", "use_beam_search"),
        _unless(False),
    ),
    **dict.fromkeys(("previous_response_id", "conversation", "cached_content", "cachedContent"), _kept_there),
    "search_parameters": _search_parameters,
    "mcp_servers": _unless([]),
    "container": _unless(),
}
"""Keys of OpenAI's chat completions, and of those who took them over."""

OPENROUTER: Mapping[str, Reader] = {
    **CHAT,
    **dict.fromkeys(
        (
            "transforms",
            "route",
            "usage",
            "include_reasoning",
            "session_id",
            "trace",
            "debug",
            "image_config",
            "stop_server_tools_when",
        ),
        free,
    ),
    "provider": _provider,
}

DEMO: Mapping[str, Reader] = dict.fromkeys(CHAT, free)
"""The model of this process reads text alone, and has one price."""

KEYS: Mapping[str, Mapping[str, Reader]] = {
    "openai": CHAT,
    "anthropic": CHAT,
    "gemini": CHAT,
    "openrouter": OPENROUTER,
    "stoa": DEMO,
}
