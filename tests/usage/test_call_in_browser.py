"""The page of a call in Chromium: accessibility and width of each state."""

from collections.abc import Iterator

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from models.gateway import CallBody
from models.runs import AgentRun
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person, now

pytestmark = pytest.mark.browser

REQUEST = [
    {"role": "system", "content": "You review code. Be brief, and name the line."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What does this do?\n\ndef f(x):\n    return x * 2"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 40_000}},
        ],
    },
    {
        "role": "assistant",
        "tool_calls": [{"id": "t1", "function": {"name": "read_files", "arguments": '{"paths": ["app.py", "models/x.py"]}'}}],
    },
    {"role": "tool", "tool_call_id": "t1", "content": "def f(x):\n    return x * 2\n" * 12},
    {"role": "user", "content": "Why is it slow? " + "Explain every step you would take to find out. " * 6},
]  # fmt: skip
PARAMETERS = {
    "stream": True,
    "temperature": 0.2,
    "max_tokens": 4096,
    "reasoning": {"effort": "high"},
    "tools": ["read_files", "write_file", "run_terminal_command", "code_search"],
    "other": ["codebuff_metadata", "provider"],
}
DEFINITIONS = {
    "tools": [
        {"type": "function", "function": {"name": name, "description": "Reads files of the project. " * 6, "parameters": {"type": "object"}}}
        for name in ("read_files", "a_tool_with_a_very_long_name_that_does_not_fit_beside_its_description_on_a_phone")
    ],
    "response_format": {"type": "json_schema", "json_schema": {"name": "review", "schema": {"type": "object"}}},
    "cut": {"tools": 2},
}  # fmt: skip
REFUSED = (
    "The budget of the key 'laptop' is 500 credits a day: 498 are spent, 2 are free, and this call needs up to 37. It resets "
    "in 5 hours, at 2026-11-30 00:00 UTC. You can raise it at http://localhost:8000/budgets/b-1."
)


@pytest.fixture
def run(session: OrmSession, alice: Person) -> AgentRun:
    """A run with a charged, a cut, a failed and a refused call."""
    run = factories.run(alice.user, "harbor/code-reviewer@2.4.1")
    factories.grant(alice.user, 1000)
    common = {"run_id": run.id, "parameters": PARAMETERS, "requested_model": "anthropic/claude-sonnet-4.5"}
    tokens = {
        "uncached_input_tokens": 1804,
        "cache_read_tokens": 21_440,
        "output_tokens": 612,
        "reasoning_tokens": 230,
    }
    price = {
        "source": "genai-prices:anthropic",
        "input": "3",
        "cache_write": "3.75",
        "cache_read": "0.3",
        "output": "15",
    }
    for request_id, more in (("charged", {}), ("cut", {"error": "upstream_cut"})):
        message = factories.message(
            alice.user, 2, request=REQUEST, response="It doubles x.\n\n" + "The loop calls it once a line. " * 30,
            reasoning_text="The caller is in app.py, line 14. " * 8, client_id="sdk-7f3a", definitions=DEFINITIONS,
        )  # fmt: skip
        factories.call(
            alice.user, message=message, request_id=request_id, model="anthropic/claude-sonnet-4.5", provider="anthropic",
            latency_ms=8420, ttft_ms=1310, stream=True, price=price, cost="0.02102", micro_credits=2_217_610,
            **common, **tokens, **more,
        )  # fmt: skip
    for request_id, provider, status, error, text in (
        ("failed", "anthropic", 422, "upstream_status", "messages.3.content: tool_result needs a tool_use before it.\n\n{\"type\":\"error\"}"),
        ("refused", None, 402, "budget_exceeded", REFUSED),
    ):  # fmt: skip
        failed = factories.call(
            alice.user, request_id=request_id, state="failed", provider=provider, model=None, http_status=status, error=error,
            usage_source=None, more_refused=12 if provider is None else 0, **common,
        )  # fmt: skip
        factories.save(
            CallBody(request_id=failed.request_id, finished_at=now(), request=REQUEST, error_message=text)
        )
    return run


@pytest.fixture
def base(app: Flask) -> Iterator[str]:
    with serving(app) as address:
        yield address


def test_every_state_is_accessible_and_fits(
    open_page: OpenPage, base: str, session: OrmSession, alice: Person, run: AgentRun
) -> None:
    with open_page(base, width=390) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        for state in ("charged", "cut", "failed", "refused"):
            page.goto(f"/calls/{state}")
            page.evaluate("document.querySelectorAll('main details').forEach((each) => { each.open = true })")
            judge(page, *WIDTHS)
