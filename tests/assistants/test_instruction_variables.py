"""Variables of instructions: what is filled in, and errors that name what is missing or wrong."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.assistants import AssistantVersion, placeholders, render_instructions
from models.assistants.instruction_variables import checked_variables
from models.core.errors import Invalid

VARIABLES = {
    "who": {"type": "string", "required": True},
    "count": {"type": "number", "default": 3},
    "polite": {"type": "boolean", "default": True},
    "tone": {"type": "enum", "values": ["warm", "dry"]},
}
TEXT = "Write {{ count }} lines to {{who}}, {{tone}}, polite: {{polite}}. Keep {{other}} and { {who} }."


def version(text: str = TEXT, variables: Any = VARIABLES) -> AssistantVersion:
    return AssistantVersion(instructions=text, variables=checked_variables(variables))


def test_values_defaults_and_blanks_are_filled_in() -> None:
    assert placeholders(TEXT) == ["count", "who", "tone", "polite", "other"]
    assert render_instructions(version(), {"who": "Ann"}) == (
        "Write 3 lines to Ann, , polite: true. Keep {{other}} and { {who} }."
    )
    values = {"who": "{{tone}}", "count": 1.5, "polite": False, "tone": "dry"}
    assert render_instructions(version(), values) == (
        "Write 1.5 lines to {{tone}}, dry, polite: false. Keep {{other}} and { {who} }."
    )
    assert render_instructions(version(), {"who": "", "count": "-2.50", "polite": "false"}).startswith(
        "Write -2.50 "
    )
    assert render_instructions(version("plain", {})) == "plain"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, ["who"]),
        ({"who": None}, ["who"]),
        ({"who": 7}, ["who"]),
        ({"who": "\0"}, ["who"]),
        ({"who": "x" * 70_000}, ["who"]),
        ({"who": "a", "count": "three"}, ["count"]),
        ({"who": "a", "count": True}, ["count"]),
        ({"who": "a", "count": float("nan")}, ["count"]),
        ({"who": "a", "count": [1]}, ["count"]),
        ({"who": "a", "polite": 1}, ["polite"]),
        ({"who": "a", "polite": []}, ["polite"]),
        ({"who": "a", "tone": "loud"}, ["tone"]),
        ({"who": "a", "tone": ["dry"]}, ["tone"]),
        ({"tone": "loud", "extra": 1}, ["extra", "tone", "who"]),
    ],
    ids=str,
)
def test_what_is_missing_or_wrong_is_named(values: Any, named: list[str]) -> None:
    with pytest.raises(Invalid) as refused:
        render_instructions(version(), values)
    assert (refused.value.status, refused.value.code) == (422, "invalid_variables")
    assert list(refused.value.fields) == [f"variables.{name}" for name in named]


def test_the_result_is_bounded() -> None:
    many = version("{{who}}" * 1_000, {"who": {"type": "string"}})
    with pytest.raises(Invalid, match="more than"):
        render_instructions(many, {"who": "x" * 60_000})


@given(st.text(), st.text(alphabet="{}who x"))
def test_a_value_is_inserted_as_it_is(value: str, around: str) -> None:
    value = value.replace("\0", "")
    text = f"{around}|{{{{who}}}}|end"
    rendered = render_instructions(version(text, {"who": {"type": "string", "default": ""}}), {"who": value})
    assert rendered.endswith(f"|{value}|end")
