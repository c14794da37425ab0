"""The operator's file of prices, and single entries in its format."""

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from models.core.settings import SettingsError
from models.gateway import model_names
from models.gateway.pricing import MAX_RATE, ModelPrice, PriceOverride, PriceTier, tier_of
from models.gateway.served_ways import BATCH

SETTING = "STOA_PRICES_FILE"
_RATE_KEYS = {
    "input": "input",
    "cached_input": "cache_read",
    "cache_write": "cache_write",
    "cache_write_1h": "cache_write_1h",
    "audio_input": "audio_input",
    "cached_audio": "cached_audio",
    "image_input": "image_input",
    "cached_image": "cached_image",
    "output": "output",
    "reasoning": "reasoning",
    "audio_output": "audio_output",
    "image_output": "image_output",
}
_UNIT_KEYS = {
    "request": "request",
    "web_search": "web_searches",
    "file_search": "file_searches",
    "image": "images",
    "second": "seconds",
    "character": "characters",
    "search_unit": "search_units",
}
"""Dollars per unit, not per million."""
_WAYS = ("service_tier", "speed", "region")
"""Tables of prices by how a call is served, each with a table per value."""
_ABOVE = "above"
"""A table of prices by the input tokens above which they apply."""
PRICE_KEYS = {*_RATE_KEYS, *_UNIT_KEYS, *_WAYS, BATCH, _ABOVE, "max_output"}
_KEYS = {*PRICE_KEYS, "provider", "upstream_model", "kind"}


def read_overrides(path: Path) -> dict[str, PriceOverride]:
    """Read the operator's file: TOML or JSON, one table per model, rates in dollars per million tokens.

    Raises SettingsError with a message that names the model and the key.
    """
    try:
        raw = path.read_text(encoding="utf-8")
        table = (
            tomllib.loads(raw, parse_float=Decimal)
            if path.suffix.lower() == ".toml"
            else json.loads(raw, parse_float=Decimal, parse_constant=Decimal)
        )
    except OSError as error:
        raise SettingsError(f"{SETTING}: {path} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise SettingsError(f"{SETTING}: {path} is neither TOML nor JSON ({error}).") from None
    if not isinstance(table, dict):
        raise SettingsError(f"{SETTING}: {path} must hold one table per model.")
    return {
        str(name).strip().lower(): replace(read_override(name, entry), name=str(name).strip())
        for name, entry in table.items()
    }


def parse_price(name: str, entry: Any, source: str = "import") -> ModelPrice:
    """The price of a file's entry, whose numbers may be strings. Raises SettingsError, also without a price."""
    price = read_override(name, entry).price
    if price is None:
        raise SettingsError(f"{SETTING}: {name!r} sets no price.")
    variants = {way: replace(each, source=f"{source}, {way}") for way, each in price.variants.items()}
    return replace(price, source=source, variants=variants)


def read_override(name: str, entry: Any, setting: str = SETTING) -> PriceOverride:
    """Read an operator's entry for a model. Raises SettingsError with the file's `setting`."""
    reader = _EntryReader(name, setting)
    entry = reader.table(entry, None)
    if unknown := {key for key in entry if key.partition(":")[0] not in _KEYS}:
        raise reader.invalid(min(unknown), f"is not one of {', '.join(sorted(_KEYS))}")
    for key in ("provider", "upstream_model"):
        if key in entry and not (isinstance(entry[key], str) and entry[key]):
            raise reader.invalid(key, "must be a name")
    kind = entry.get("kind")
    if kind is not None and kind not in model_names.ROUTES:
        raise reader.invalid("kind", f"must be one of {', '.join(model_names.ROUTES)}")
    max_output = entry.get("max_output")
    if max_output is not None and not (type(max_output) is int and max_output > 0):
        raise reader.invalid("max_output", "must be a whole number of tokens")
    price = reader.price(entry)
    if price is not None:
        price = replace(
            price,
            max_output=max_output or model_names.max_output(entry.get("upstream_model") or name),
            variants=reader.variants(entry),
        )
    else:
        for key in ("max_output", *_WAYS, BATCH, _ABOVE):
            if entry.get(key) is not None:
                raise reader.invalid(key, "belongs to a price: set 'input' and 'output', too")
    return PriceOverride(price, entry.get("provider"), entry.get("upstream_model"), kind=kind)


class _EntryReader:
    """Reads the entry of one model."""

    def __init__(self, name: str, setting: str) -> None:
        self._name = name
        self._setting = setting

    def invalid(self, key: str, problem: str) -> SettingsError:
        """The error of a key."""
        return SettingsError(f"{self._setting}: {key!r} of {self._name!r} {problem}.")

    def table(self, value: Any, key: str | None) -> dict[str, Any]:
        """A table, with a table of prices per image flattened: `1024x1024 hd` becomes `image:1024x1024:hd`."""
        if not isinstance(value, dict):
            if key is not None:
                raise self.invalid(key, "must be a table")
            raise SettingsError(f"{self._setting}: {self._name!r} must be a table with 'input' and 'output'.")
        images = value.get("image")
        if not isinstance(images, dict):
            return dict(value)
        found = {
            ":".join(("image", *str(size).split())): price
            for size, price in images.items()
            if size != "default"
        }
        default = {"image": images["default"]} if "default" in images else {}
        return {**{each: price for each, price in value.items() if each != "image"}, **default, **found}

    def price(self, entry: Mapping[str, Any], where: str = "") -> ModelPrice | None:
        """The price in a table; None if it has none. `where`: what stands before its keys in messages."""
        units = {
            _unit_name(key): self._number(entry[key], where + key, "dollars") for key in _unit_keys(entry)
        }
        rates = self._rates(entry, where)
        if not rates and not units:
            return None
        for key in ("input", "output"):
            if rates and key not in rates:
                raise self.invalid(where + key, "is missing: set both or neither")
        request = units.pop("request", Decimal(0))
        return ModelPrice("operator", tuple(self._tiers(entry, rates, where)), request, units)

    def variants(self, entry: Mapping[str, Any]) -> dict[str, ModelPrice]:
        """The prices by how a call is served."""
        found = {}
        tables = [(f"{key}:{value}", table) for key in _WAYS for value, table in self._sub(entry, key)]
        for way, table in [*tables, *([(BATCH, entry[BATCH])] if BATCH in entry else [])]:
            where = way.replace(":", ".")
            price = self.price(self._only(self.table(table, where), where, (_ABOVE,)), f"{where}.")
            if price is None:
                raise self.invalid(where, "sets no price")
            found[way] = replace(price, source=f"{price.source}, {way}")
        return found

    def _tiers(
        self, entry: Mapping[str, Any], rates: Mapping[str, Decimal], where: str
    ) -> Iterable[PriceTier]:
        given = {_RATE_KEYS[key]: rate for key, rate in rates.items()}
        yield tier_of(0, given)
        found = {}
        for tokens, table in self._sub(entry, _ABOVE):
            name = f"{where}{_ABOVE}.{tokens}"
            if not (tokens.isascii() and tokens.isdigit() and 0 < len(tokens) < 10 and int(tokens)):
                raise self.invalid(name, "must be a whole number of input tokens")
            own = self._rates(self._only(self.table(table, name), name), f"{name}.")
            found[int(tokens)] = {**given, **{_RATE_KEYS[key]: rate for key, rate in own.items()}}
        for above in sorted(found):
            yield tier_of(above, found[above])

    def _sub(self, entry: Mapping[str, Any], key: str) -> Iterable[tuple[str, Any]]:
        return [(str(name), table) for name, table in self.table(entry.get(key) or {}, key).items()]

    def _only(self, table: dict[str, Any], where: str, more: tuple[str, ...] = ()) -> dict[str, Any]:
        known = {*_RATE_KEYS, *(_UNIT_KEYS if more else ()), *more}
        if unknown := {key for key in table if key.partition(":")[0] not in known}:
            raise self.invalid(f"{where}.{min(unknown)}", f"is not one of {', '.join(sorted(known))}")
        return table

    def _rates(self, entry: Mapping[str, Any], where: str) -> dict[str, Decimal]:
        unit = "dollars per million tokens"
        return {key: self._number(entry[key], where + key, unit) for key in _RATE_KEYS if key in entry}

    def _number(self, value: Any, key: str, unit: str) -> Decimal:
        try:
            if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
                raise ValueError
            found = Decimal(value)
            if not found.is_finite():
                raise ValueError
        except (ValueError, ArithmeticError):
            raise self.invalid(key, f"must be a number of {unit}") from None
        if not 0 <= found <= MAX_RATE:
            raise self.invalid(key, f"must be from 0 to {MAX_RATE} {unit}")
        return found


def _unit_keys(entry: Mapping[str, Any]) -> list[str]:
    return [key for key in entry if key.partition(":")[0] in _UNIT_KEYS]


def _unit_name(key: str) -> str:
    name, colon, rest = key.partition(":")
    return f"{_UNIT_KEYS[name]}{colon}{rest}"
