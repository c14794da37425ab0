"""Traces to an OpenTelemetry collector (OTLP over HTTP): spans are built after the fact, and sent in batches in the background.

Off unless STOA_OTLP_ENDPOINT is set; only then is OpenTelemetry imported. Sending never delays or fails a request: spans beyond the
queue are dropped, as is what a collector does not take within a few tries. Ids of spans are made of our own ids, so a span that is sent
twice is one span.
"""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from models.core.settings import Settings

QUEUE = 8_192
"""Spans that wait to be sent, per process."""
Attributes = Mapping[str, str | bool | int | float | list[str]]


@dataclass(frozen=True, slots=True)
class SpanFacts:
    """A finished span. `trace` and `parent` name others by their own ids (`trace_id`, `span_id`); `error`: its kind, if it failed."""

    name: str
    trace_id: int
    span_id: int
    started_at: datetime
    ended_at: datetime
    parent_id: int | None = None
    is_client: bool = False
    attributes: Attributes = field(default_factory=dict)
    error: str | None = None


def trace_id(id: str) -> int:
    """The id of a trace made of one of our ids: that of a UUID is the same number."""
    try:
        return uuid.UUID(id).int
    except ValueError:
        return int.from_bytes(hashlib.sha256(id.encode()).digest()[:16], "big")


def span_id(id: str) -> int:
    """The id of a span made of one of our ids."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big")


class SpanSender:
    """Sends the spans of this process. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        exporter = OTLPSpanExporter(
            endpoint=f"{str(settings.stoa_otlp_endpoint).removesuffix('/v1/traces')}/v1/traces",
            headers=settings.otlp_headers,
            certificate_file=str(settings.stoa_ca_bundle) if settings.stoa_ca_bundle else None,
        )
        self._processor = BatchSpanProcessor(exporter, max_queue_size=QUEUE, schedule_delay_millis=2_000)
        self._resource = Resource.create(
            {"service.name": "stoa", "service.instance.id": settings.base_url, "service.version": "0.1"}
        )
        self._scope = InstrumentationScope("stoa")

    def send(self, facts: SpanFacts) -> None:
        """Queue a span."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.status import Status, StatusCode

        def context(id: int) -> SpanContext:
            return SpanContext(
                facts.trace_id, id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
            )

        attributes: dict[str, Any] = {**facts.attributes}
        if facts.error:
            attributes["error.type"] = facts.error
        self._processor.on_end(
            ReadableSpan(
                facts.name,
                context(facts.span_id),
                parent=None if facts.parent_id is None else context(facts.parent_id),
                resource=self._resource,
                attributes=attributes,
                kind=SpanKind.CLIENT if facts.is_client else SpanKind.INTERNAL,
                instrumentation_scope=self._scope,
                status=Status(StatusCode.ERROR, facts.error) if facts.error else Status(StatusCode.UNSET),
                start_time=_nanoseconds(facts.started_at),
                end_time=max(_nanoseconds(facts.ended_at), _nanoseconds(facts.started_at)),
            )
        )

    def close(self) -> None:
        """Send what waits, for at most half a minute, and end the thread that sends."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1_000
