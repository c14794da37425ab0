"""Checks that the parsers of passed-on requests share."""

from collections.abc import Mapping, Sequence
from typing import Any

from models.gateway.chat_format import BadCall
from models.gateway.chat_format.chat_parsing import MAX_MODEL


def read_model(body: Mapping[str, Any], default: str = "") -> str:
    """The name of the model. Raises BadCall."""
    model = body.get("model")
    if model is None and default:
        return default
    if not isinstance(model, str) or not model.strip():
        raise BadCall("'model' is missing: set it to the name of a model.", param="model")
    if len(model) > MAX_MODEL or not model.isprintable():
        raise BadCall("'model' is not a valid model name.", param="model")
    return model.strip()


def read_text(body: Mapping[str, Any], key: str, maximum: int) -> str:
    """A text that must be given. Raises BadCall."""
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise BadCall(f"'{key}' must be a text.", param=key)
    if len(value) > maximum:
        raise BadCall(f"'{key}' has {len(value):,} characters; at most {maximum:,} are allowed.", param=key)
    return value


def read_choice(body: Mapping[str, Any], key: str, choices: Sequence[str]) -> str | None:
    """One of the choices, or None if it is missing. Raises BadCall."""
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or value not in choices:
        raise BadCall(f"'{key}' must be one of {', '.join(choices)}.", param=key)
    return value


def read_flag(body: Mapping[str, Any], key: str) -> bool:
    """A boolean; false if it is missing. Raises BadCall."""
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise BadCall(f"'{key}' must be true or false.", param=key)
    return bool(value)


def text_size(texts: Sequence[str]) -> int:
    """Their size in bytes."""
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def read_prompts(value: Any, key: str, maximum: int) -> list[str | list[int]]:
    """A text, a list of texts, a list of token numbers, or a list of such lists: each input as a text or its tokens. Raises
    BadCall."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise BadCall(f"'{key}' must be a text, a list of texts, or a list of tokens.", param=key)
    if all(_is_token(each) for each in value):
        return [value]
    if len(value) > maximum:
        raise BadCall(f"'{key}' has {len(value):,} items; at most {maximum:,} are allowed.", param=key)
    kinds = {_kind(each) for each in value}
    if kinds not in ({"text"}, {"tokens"}):
        raise BadCall(f"'{key}' must be a text, a list of texts, or a list of tokens.", param=key)
    return value


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    return "tokens" if isinstance(value, list) and value and all(map(_is_token, value)) else "invalid"


def prompt_size(prompts: Sequence[str | list[int]]) -> tuple[int, int]:
    """The bytes of the texts, and the number of tokens among the inputs."""
    texts = [each for each in prompts if isinstance(each, str)]
    return text_size(texts), sum(len(each) for each in prompts if not isinstance(each, str))


def prompt_texts(prompts: Sequence[str | list[int]]) -> list[str]:
    """The inputs as they are stored: texts, and how many tokens."""
    return [each if isinstance(each, str) else f"[{len(each)} tokens]" for each in prompts]


def read_form_values(
    fields: Mapping[str, Any], numbers: Sequence[str], flags: Sequence[str]
) -> dict[str, Any]:
    """The fields of a form with numbers and booleans in place of their texts, where they are such."""
    found = dict(fields)
    for key in numbers:
        value = found.get(key)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            found[key] = int(value)
    for key in flags:
        value = found.get(key)
        if isinstance(value, str):
            found[key] = {"true": True, "false": False}.get(value.lower(), value)
    return found
