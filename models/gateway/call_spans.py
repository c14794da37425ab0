"""A span of each model call for OpenTelemetry, by its conventions for generative AI.

The call's row is written before. A queue and a thread keep the work off the call; the run of a call is read there, once.
"""

import logging
import queue
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson

from models.core.pool import Pool
from models.core.settings import Settings
from models.core.telemetry import SpanFacts, SpanSender, span_id, trace_id
from models.ledger import holds
from models.ledger.call_records import CallFailure, Settlement
from models.ledger.holds import Admission, Settled

log = logging.getLogger("stoa.gateway")

MAX_WAITING = 4_096
MAX_RUNS = 10_000
MAX_CONTENT = 64 << 10
"""Characters of a prompt or an answer in a span."""
PROVIDERS = {"openai": "openai", "anthropic": "anthropic", "gemini": "gcp.gemini"}
"""Names of vendors in the conventions; others keep their own."""
OPERATIONS = {"embeddings": "embeddings", "completions": "text_completion"}
"""Names of operations by door; others are `chat`."""
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_ROOT = "SELECT root_run_id FROM agent_run WHERE id = $1"
_PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
}


def read_traceparent(value: str | None) -> tuple[int, int] | None:
    """The trace and the span of a W3C `traceparent` header; None if there is none, or it is invalid."""
    found = _TRACEPARENT.fullmatch(value or "")
    ids = (int(found[1], 16), int(found[2], 16)) if found else (0, 0)
    return ids if all(ids) else None


class CallSpans:
    """Makes and sends the spans of this process's calls."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self._queue: queue.Queue[tuple[Admission, Settlement | CallFailure, Settled | None, Any] | None] = (
            queue.Queue(MAX_WAITING)
        )
        self._roots: OrderedDict[str, str | None] = OrderedDict()
        self._lock = threading.Lock()
        # started with the first call: a server forks its workers after it made the application
        self._thread: threading.Thread | None = None

    def add(
        self,
        admission: Admission,
        record: Settlement | CallFailure,
        settled: Settled | None = None,
        parent: tuple[int, int] | None = None,
    ) -> None:
        """Queue the span of a call that ended; `parent`: the client's own trace and span. Returns at once."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="stoa-spans", daemon=True)
                self._thread.start()
        try:
            self._queue.put_nowait((admission, record, settled, parent))
        except queue.Full:
            log.warning("a span was dropped: %d wait to be sent", MAX_WAITING)

    def close(self, seconds: float = 5.0) -> None:
        """Send what waits, for at most about that long."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join(seconds)

    def _run(self) -> None:
        sender = SpanSender(self._settings)
        while (item := self._queue.get()) is not None:
            try:
                sender.send(self._span(*item))
            except Exception:
                log.exception("a span could not be made")
        sender.close()

    def _span(
        self,
        admission: Admission,
        record: Settlement | CallFailure,
        settled: Settled | None,
        parent: tuple[int, int] | None,
    ) -> SpanFacts:
        run_id = admission.run_id
        if parent is not None:
            trace, parent_id = parent
        elif run_id is not None:
            # all calls of a run and of its sub-agents are one trace; a run itself has no span
            trace, parent_id = trace_id(self._root(run_id) or run_id), None
        else:
            trace, parent_id = trace_id(admission.request_id), None
        operation = OPERATIONS.get(admission.door, "chat")
        return SpanFacts(
            f"{operation} {record.requested_model}",
            trace,
            span_id(admission.request_id),
            record.started_at,
            record.started_at + timedelta(milliseconds=record.latency_ms),
            parent_id,
            is_client=True,
            attributes=self._attributes(operation, admission, record, settled),
            error=record.error,
        )

    def _root(self, run_id: str) -> str | None:
        if run_id not in self._roots:
            rows = holds.read(self._pool, _ROOT, (run_id,))
            self._roots[run_id] = rows[0][0] if rows else None
            if len(self._roots) > MAX_RUNS:
                self._roots.popitem(last=False)
        return self._roots[run_id]

    def _attributes(
        self,
        operation: str,
        admission: Admission,
        record: Settlement | CallFailure,
        settled: Settled | None,
    ) -> dict[str, Any]:
        values: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": PROVIDERS.get(record.provider or "", record.provider),
            "gen_ai.request.model": record.requested_model,
            "gen_ai.request.stream": record.stream,
            "gen_ai.response.model": record.model,
            "gen_ai.conversation.id": admission.run_id,
            "gen_ai.agent.id": admission.agent_id,
            "http.response.status_code": record.http_status,
            "user.id": admission.user_id,
            "stoa.request_id": admission.request_id,
            "stoa.account_id": admission.account_id,
            "stoa.org_id": admission.org_id,
            "stoa.door": admission.door,
        }
        for name, value in (record.parameters or {}).items():
            if name in _PARAMETERS and type(value) in (int, float):
                values[_PARAMETERS[name]] = value
        if record.ttft_ms is not None:
            values["gen_ai.response.time_to_first_chunk"] = record.ttft_ms / 1000
        if isinstance(record, Settlement):
            cached, written = record.cache_read_tokens, record.cache_write_tokens
            values |= {
                "gen_ai.response.id": record.message_id,
                "gen_ai.usage.input_tokens": record.uncached_input_tokens + cached + written,
                "gen_ai.usage.output_tokens": record.output_tokens,
                "gen_ai.usage.cache_read.input_tokens": cached,
                "gen_ai.usage.cache_creation.input_tokens": written,
                "gen_ai.usage.reasoning.output_tokens": record.reasoning_tokens,
                "stoa.cost_usd": float(record.cost),
                "stoa.credits": settled.micro_credits / 1_000_000 if settled else None,
            }
        if self._settings.stoa_otlp_content:
            values |= _content(record)
        return {name: value for name, value in values.items() if value is not None}


def _content(record: Settlement | CallFailure) -> Mapping[str, str]:
    """The prompt and the answer, if they are kept, as the conventions want them."""
    request = record.request if isinstance(record.request, list) else []
    messages = [_message(each) for each in request if isinstance(each, dict)]
    found = {"gen_ai.input.messages": messages} if messages else {}
    response = record.response
    if response:
        answer = response if isinstance(response, dict) else {"role": "assistant", "content": response}
        found["gen_ai.output.messages"] = [_message(answer)]
    return {name: orjson.dumps(value).decode()[:MAX_CONTENT] for name, value in found.items()}


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content, parts = message.get("content"), []
    if message.get("role") == "tool":
        parts.append({"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content})
    elif isinstance(content, str):
        parts.append({"type": "text", "content": content})
    else:
        parts += content if isinstance(content, list) else []
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        parts.append(
            {
                "type": "tool_call",
                "id": call.get("id"),
                "name": function.get("name"),
                "arguments": function.get("arguments"),
            }
        )
    return {"role": message.get("role"), "parts": parts}
