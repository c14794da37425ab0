"""Reads the form-encoded parameters of Stripe's API: `metadata[a]=1`, `items[0][price]=...`, `expand[]=...`."""

from collections.abc import Iterable
from typing import Any

from views.demo.stripe_simulator.simulated_errors import SimulatedError, invalid, required

FREE = {"metadata"}
"""Parameters whose keys the caller chooses."""


class Params(dict[str, Any]):
    """Decoded parameters of one level. The getters raise SimulatedError for values that Stripe rejects; an empty text unsets."""

    def text(self, name: str, default: str | None = None) -> str | None:
        """A text; None if it is unset."""
        value = self.get(name, default)
        if value is not None and not isinstance(value, str):
            raise invalid(f"Invalid string: {value}", name)
        return value or None

    def needed(self, name: str) -> str:
        """A required text."""
        value = self.text(name)
        if value is None:
            raise required(name)
        return value

    def one_of(self, name: str, choices: Iterable[str], default: str) -> str:
        """One of the allowed values."""
        value = self.text(name, default) or default
        if value not in choices:
            listed = ", ".join(choices)
            raise invalid(f"Invalid {name}: must be one of {listed}", name)
        return value

    def integer(self, name: str, default: int | None = None) -> int | None:
        """An integer."""
        value = self.text(name)
        if value is None:
            return default
        try:
            return int(value)
        except ValueError:
            raise invalid(f"Invalid integer: {value}", name, "parameter_invalid_integer") from None

    def needed_integer(self, name: str) -> int:
        """A required integer."""
        self.needed(name)
        return self.integer(name) or 0

    def boolean(self, name: str, default: bool = False) -> bool:
        """`true` or `false`."""
        value = self.text(name)
        if value not in (None, "true", "false"):
            raise invalid(f"Invalid boolean: {value}", name)
        return default if value is None else value == "true"

    def nested(self, name: str) -> "Params":
        """The nested parameters of one; empty if there are none."""
        value = self.get(name)
        if value in (None, ""):
            return Params()
        if not isinstance(value, dict):
            raise invalid("Invalid object", name)
        return Params(value)

    def each(self, name: str) -> list["Params"]:
        """A list of objects."""
        value = self.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise invalid("Invalid array", name)
        return [Params(item) for item in value]

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        value = self.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise invalid("Invalid array", name)
        return value

    def metadata(self, before: dict[str, str] | None = None) -> dict[str, str]:
        """The metadata after this request: sets keys with a value, removes empty ones."""
        given = self.get("metadata", {})
        if given == "":
            return {}
        if not isinstance(given, dict):
            raise invalid("Invalid object", "metadata")
        if any(len(name) > 40 or len(str(value)) > 500 for name, value in given.items()):
            raise invalid("Metadata keys have at most 40 characters, values 500.", "metadata")
        merged = {**(before or {}), **given}
        return {name: value for name, value in merged.items() if value != ""}

    def allow(self, names: Iterable[str]) -> None:
        """Reject unknown parameters, so that none is ignored silently."""
        for name in sorted(self.keys() - set(names) - {"expand"}):
            raise SimulatedError(f"Received unknown parameter: {name}", code="parameter_unknown", param=name)


def decode(pairs: Iterable[tuple[str, str]]) -> Params:
    """Nested parameters from form or query pairs. Raises SimulatedError for conflicting keys."""
    tree: dict[str, Any] = {}
    for key, value in pairs:
        _put(tree, _path(key), value)
    return Params({name: _listed(name, part) for name, part in tree.items()})


def _path(key: str) -> list[str]:
    first, *rest = key.split("[")
    return [first, *(part.rstrip("]") for part in rest)]


def _put(tree: dict[str, Any], path: list[str], value: str) -> None:
    for part, following in zip(path, [*path[1:], None], strict=True):
        name = str(len(tree)) if part == "" else part
        if following is None:
            tree[name] = value
            return
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise invalid("Invalid object", path[0])


def _listed(name: str, part: Any) -> Any:
    """Turn objects with numeric keys into lists."""
    if not isinstance(part, dict):
        return part
    if name in FREE:
        return part
    if part and all(key.isdigit() for key in part):
        return [_listed("", part[key]) for key in sorted(part, key=int)]
    return {key: _listed(key, value) for key, value in part.items()}
