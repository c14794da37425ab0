"""The operator's file of providers and routing, STOA_PROVIDERS_FILE: TOML, checked at the start."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from models.core.settings import SettingsError
from models.gateway import model_names
from models.gateway.aliases import ERROR_CLASSES, SAFE, Alias, RetryPolicy
from models.gateway.formats import passed
from models.gateway.price_file import PRICE_KEYS, read_override
from models.gateway.pricing import ModelPrice
from models.gateway.providers.configured import BEARER, NO_KEY, ConfiguredModel, ProviderConfig
from models.gateway.upstream import UpstreamTimeouts

SETTING = "STOA_PROVIDERS_FILE"
RESERVED = frozenset({"openai", "anthropic", "google", "gemini", "openrouter", "stoa", "models"})
"""Names of built-in providers and prefixes of their models."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,199}")
_OURS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "content-type", "accept-encoding"}
)
"""Headers that the connection needs as they are."""


@dataclass(frozen=True, slots=True)
class ProvidersFile:
    """What the file says."""

    providers: tuple[ProviderConfig, ...] = ()
    timeouts: Mapping[str, UpstreamTimeouts] = field(default_factory=dict)
    """Of single models of any provider, by their name in lower case."""
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    """By their name in lower case."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """Of calls for a model, and of aliases without one of their own."""


def load_providers(path: Path | None, timeouts: UpstreamTimeouts) -> ProvidersFile:
    """Read the file, if it is set; `timeouts` are the defaults. Raises SettingsError, which names the key and the mend."""
    if path is None:
        return ProvidersFile()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{SETTING}: {path} cannot be read ({error}).") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{SETTING}: {path} is not TOML ({error}).") from None
    prices = _take_prices(raw)
    try:
        document = _Document.model_validate(raw)
    except ValidationError as error:
        raise SettingsError("\n".join(_message(item) for item in error.errors())) from None
    providers = tuple(
        _provider(name, table, prices.get(name, {}), timeouts) for name, table in document.providers.items()
    )
    return ProvidersFile(
        providers,
        {name.lower(): table.timeouts.over(timeouts) for name, table in document.models.items()},
        _aliases(document),
        document.retries.policy(),
    )


# -- the tables --------------------------------------------------------------------------------------------------


def _one_line(value: str) -> str:
    if not value or not value.isprintable() or not value.isascii():
        raise ValueError("must be printable ASCII text on one line")
    return value


def _web_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("must be a URL such as http://gpu1:8000/v1, without user name, ? and #")
    return value.rstrip("/")


def _authentication(value: str) -> str:
    if value.lower() in (BEARER, NO_KEY):
        return value.lower()
    if not _HEADER.fullmatch(value) or value.lower() in _OURS:
        raise ValueError(f"must be '{BEARER}', '{NO_KEY}' or the name of a header, such as api-key")
    return value


def _variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value):
        # it may be the key itself, which is not shown
        raise ValueError(
            "must be the name of an environment variable that holds the key, such as GPU_API_KEY, not the key"
        )
    return value


def _extra_headers(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            raise ValueError(f"{name!r} cannot be set")
    return value


def _price_table(value: str) -> str:
    if value and not model_names.has_table(value):
        raise ValueError(
            "must be a provider of genai-prices, such as groq, mistral, azure, deepseek, together"
        )
    return value


Line = Annotated[str, AfterValidator(_one_line)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Tokens = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]


class _FileTable(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _TimeoutsTable(_FileTable):
    connect: Seconds | None = None
    first_byte: Seconds | None = None
    idle: Seconds | None = None
    total: Seconds | None = None

    def over(self, base: UpstreamTimeouts) -> UpstreamTimeouts:
        """These timeouts, with those of `base` where none is given; none is longer than the whole response may take."""
        found = replace(base, **self.model_dump(exclude_none=True))
        if found.total is None:
            return found
        return replace(
            found,
            **{name: min(getattr(found, name), found.total) for name in ("connect", "first_byte", "idle")},
        )


_NO_TIMEOUTS = _TimeoutsTable()


class _ModelTable(_FileTable):
    upstream_model: Line | None = None
    context: Tokens | None = None
    kind: Literal["", "chat", *model_names.KINDS] = ""  # type: ignore[valid-type]
    reasoning_model: bool | None = None
    unsupported: list[Line] = []
    timeouts: _TimeoutsTable = _NO_TIMEOUTS


_Format = Literal["chat", "messages", "responses", *passed.PASSED]  # type: ignore[valid-type]


class _ProviderTable(_FileTable):
    title: Line | None = None
    base_url: Annotated[str, AfterValidator(_web_address)]
    key_env: Annotated[str, AfterValidator(_variable)] | None = None
    auth: Annotated[str, AfterValidator(_authentication)] = BEARER
    formats: Annotated[list[_Format], Field(min_length=1)] = ["chat"]
    headers: Annotated[dict[str, Line], AfterValidator(_extra_headers)] = {}
    query: dict[Line, Line] = {}
    prices: Annotated[str, AfterValidator(_price_table)] = ""
    unsupported: list[Line] = []
    timeouts: _TimeoutsTable = _NO_TIMEOUTS
    models: dict[Line, _ModelTable] = {}


class _AnyModelTable(_FileTable):
    timeouts: _TimeoutsTable


class _RetriesTable(_FileTable):
    attempts: Annotated[int, Field(ge=0, le=10, strict=True)] = 0
    seconds: Annotated[float, Field(gt=0, le=600)] = 30
    on: list[Literal[ERROR_CLASSES]] = sorted(SAFE)  # type: ignore[valid-type]

    def policy(self) -> RetryPolicy:
        return RetryPolicy(self.attempts, self.seconds, frozenset(self.on))


class _TargetTable(_FileTable):
    model: Line
    weight: Annotated[float, Field(gt=0, le=1_000_000)] = 1


def _as_table(key: str) -> BeforeValidator:
    """A plain name stands for a table with that key."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


class _AliasTable(_FileTable):
    targets: Annotated[
        list[Annotated[_TargetTable, _as_table("model")]],
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
        Field(min_length=1, max_length=100),
    ]
    fallbacks: Annotated[list[Line], Field(max_length=100)] = []
    sticky: bool = True
    retries: _RetriesTable | None = None


class _Document(_FileTable):
    providers: dict[str, _ProviderTable] = {}
    models: dict[Line, _AnyModelTable] = {}
    aliases: dict[Line, Annotated[_AliasTable, _as_table("targets")]] = {}
    retries: _RetriesTable = _RetriesTable()


# -- prices ------------------------------------------------------------------------------------------------------

_Prices = dict[str, dict[str, Any]]
"""Price keys by model; those of the whole provider under the empty name."""


def _take_prices(raw: dict[str, Any]) -> dict[str, _Prices]:
    """Remove the price keys of all tables, which `pricing` reads and checks as those of STOA_PRICES_FILE."""

    def take(table: Any) -> dict[str, Any]:
        return (
            {key: table.pop(key) for key in PRICE_KEYS.intersection(table)} if isinstance(table, dict) else {}
        )

    found: dict[str, _Prices] = {}
    providers = raw.get("providers")
    for name, provider in providers.items() if isinstance(providers, dict) else ():
        found[name] = {"": take(provider)}
        models = provider.get("models") if isinstance(provider, dict) else None
        for model, table in models.items() if isinstance(models, dict) else ():
            found[name][model] = take(table)
    return found


def _price_of_model(name: str, keys: dict[str, Any], table: _ModelTable, shipped: bool) -> ModelPrice | None:
    """The model's price in the file; None if the shipped table has it (`shipped`)."""
    price = read_override(name, keys, SETTING).price
    if price is None and not shipped:
        raise SettingsError(
            f"{SETTING}: {name!r} has no price: set 'input' and 'output' in dollars per million tokens, 0 if it is free, "
            f"there or for all models of {name.partition('/')[0]!r}."
        )
    if table.context is None:
        return price
    if price is None:
        raise SettingsError(f"{SETTING}: 'context' of {name!r} belongs to a price: set 'input' and 'output'.")
    return replace(price, context_window=table.context)


def _provider(
    name: str, table: _ProviderTable, prices: _Prices, timeouts: UpstreamTimeouts
) -> ProviderConfig:
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{SETTING}: {name!r} is not a name: use a-z, 0-9, '-', '_' and '.'.")
    if name in RESERVED:
        raise SettingsError(f"{SETTING}: {name!r} is a built-in provider or prefix; use another name.")
    own = table.timeouts.over(timeouts)
    shared = prices.get("", {})
    models: dict[str, ConfiguredModel] = {}
    for model, each in table.models.items():
        if model.lower() in models:
            raise SettingsError(f"{SETTING}: '{name}/{model}' is there twice.")
        price = _price_of_model(
            f"{name}/{model}", {**shared, **prices.get(model, {})}, each, bool(table.prices)
        )
        models[model.lower()] = ConfiguredModel(
            name=model,
            upstream=each.upstream_model or model,
            price=price,
            kind=each.kind or None,
            reasoning_model=each.reasoning_model,
            unsupported=frozenset(each.unsupported),
            timeouts=None if each.timeouts == _NO_TIMEOUTS else each.timeouts.over(own),
        )
    price = read_override(name, shared, SETTING).price
    if not models and price is None and not table.prices:
        raise SettingsError(
            f'{SETTING}: {name!r} serves no model: list some in [providers.{name}.models."…"], name its price table '
            "('prices'), or set 'input' and 'output' for any model."
        )
    return ProviderConfig(
        name=name,
        title=table.title or name,
        base_url=table.base_url,
        timeouts=own,
        key_env=table.key_env or "",
        auth=table.auth,
        formats=tuple(dict.fromkeys(table.formats)),
        headers=table.headers,
        query=table.query,
        unsupported=frozenset(table.unsupported),
        price=price,
        table=table.prices,
        models=models,
    )


def _aliases(document: _Document) -> dict[str, Alias]:
    found: dict[str, Alias] = {}
    # an alias of a model's own name does not hide the model from other aliases
    names = {
        name.lower()
        for name, table in document.aliases.items()
        if name.lower() not in {each.model.lower() for each in table.targets}
    }
    for name, table in document.aliases.items():
        lower = name.lower()
        if lower in found or lower != lower.strip() or lower == "stoa/demo":
            raise SettingsError(f"{SETTING}: {name!r} cannot be an alias, or is one twice.")
        targets = {each.model.lower(): each for each in table.targets}
        if len(targets) != len(table.targets):
            raise SettingsError(
                f"{SETTING}: a target of the alias {name!r} is there twice; give it a higher 'weight'."
            )
        for model in (*targets, *(each.lower() for each in table.fallbacks)):
            if model in names and model != lower:
                raise SettingsError(
                    f"{SETTING}: {model!r}, a target of {name!r}, is an alias itself: name its models."
                )
        found[lower] = Alias(
            name,
            tuple((each.model, each.weight) for each in table.targets),
            tuple(table.fallbacks),
            table.sticky,
            (table.retries or document.retries).policy(),
        )
    return found


def _message(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    text = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        text = "is not a key of this table"
    elif item["type"] == "missing":
        text = "is missing"
    elif item["type"] in ("model_type", "dict_type"):
        text = "must be a table"
    return f"{SETTING}: {where or 'the file'}: {text[0].lower()}{text[1:]}."
