"""Spans of model calls, as a collector of OpenTelemetry's gets them."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from models.core.settings import Settings, SettingsError, load_settings
from models.core.telemetry import span_id, trace_id
from models.gateway.call_spans import CallSpans, read_traceparent
from models.runs import AgentRun
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream

BODY: dict[str, Any] = {
    "model": "openai/house-model",
    "max_tokens": 50,
    "temperature": 0.5,
    "messages": [{"role": "user", "content": "A secret prompt."}],
}


class Collector:
    """A collector on loopback, and the gateway's sender to it."""

    def __init__(self, web: FlaskClient, settings: Settings, server: FakeUpstream, **changes: Any) -> None:
        self.gateway = web.application.extensions["gateway"]
        self.server = server
        changes = {"stoa_otlp_endpoint": server.url, "stoa_otlp_headers": "Authorization=Bearer t", **changes}
        self.spans = CallSpans(
            Settings.model_validate({**settings.model_dump(), **changes}), self.gateway.pool
        )

    def received(self) -> list[dict[str, Any]]:
        """The spans with their attributes, after all were sent."""
        self.spans.close()
        found = []
        for request in self.server.requests:
            assert (request.path, request.headers["authorization"]) == ("/v1/traces", "Bearer t")
            for resource in ExportTraceServiceRequest.FromString(request.raw).resource_spans:
                for span in resource.scope_spans[0].spans:
                    values = {each.key: _value(each.value) for each in span.attributes}
                    found.append({"span": span, **values})
        return found


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


@pytest.fixture
def collector_server() -> Iterator[FakeUpstream]:
    with fakes.running() as server:
        server.will(fakes.answer(b""))
        yield server


@pytest.fixture
def collector(
    web: FlaskClient,
    gateway_settings: Settings,
    collector_server: FakeUpstream,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Collector]:
    made = Collector(web, gateway_settings, collector_server, **getattr(request, "param", {}))
    monkeypatch.setattr(made.gateway.settlements, "spans", made.spans)
    yield made
    made.spans.close()


def test_a_call_in_a_run(
    web: FlaskClient, fake: FakeUpstream, rich: Person, run: AgentRun, collector: Collector
) -> None:
    use = fakes.usage(100, 20, prompt_tokens_details={"cached_tokens": 40})
    fake.will(fakes.answer(fakes.completion(use=use), delay=0.01))
    headers = {**rich.headers, "x-stoa-run-id": run.id}
    assert web.post("/v1/chat/completions", json=BODY, headers=headers).status_code == 200
    (found,) = collector.received()
    span = found["span"]
    assert span.name == "chat openai/house-model"
    assert int.from_bytes(span.trace_id, "big") == uuid.UUID(run.root_run_id or run.id).int
    assert span.parent_span_id == b""
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9
    assert found["gen_ai.request.temperature"] == 0.5
    assert found["gen_ai.request.max_tokens"] == 50
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.cache_read.input_tokens"]) == (100, 40)
    assert (found["gen_ai.usage.output_tokens"], found["gen_ai.provider.name"]) == (20, "openai")
    assert found["stoa.credits"] > 0
    assert found["gen_ai.conversation.id"] == run.id
    assert "secret" not in str(found)


@pytest.mark.parametrize("collector", [{"stoa_otlp_content": True}], indirect=True)
def test_content_if_the_operator_wants_it(
    web: FlaskClient, fake: FakeUpstream, rich: Person, collector: Collector
) -> None:
    assert web.post("/v1/chat/completions", json=BODY, headers=rich.headers).status_code == 200
    (found,) = collector.received()
    assert json.loads(found["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "A secret prompt."}]}
    ]
    (answer,) = json.loads(found["gen_ai.output.messages"])
    assert answer["parts"] == [{"type": "text", "content": "Hello there."}]


def test_a_failed_call_in_the_clients_own_trace(
    web: FlaskClient, fake: FakeUpstream, rich: Person, collector: Collector
) -> None:
    fake.will(fakes.answer({"error": {"message": "No."}}, 400))
    headers = {**rich.headers, "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    assert web.post("/v1/chat/completions", json=BODY, headers=headers).status_code == 400
    (found,) = collector.received()
    span = found["span"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("a" * 32, "b" * 16)
    assert (found["error.type"], found["http.response.status_code"]) == ("upstream_status", 400)
    assert span.status.code == 2


def test_a_collector_that_is_away_disturbs_no_call(
    web: FlaskClient, fake: FakeUpstream, rich: Person, collector: Collector, collector_server: FakeUpstream
) -> None:
    collector_server.will(fakes.hang_up)
    assert web.post("/v1/chat/completions", json=BODY, headers=rich.headers).status_code == 200


@pytest.mark.parametrize(
    "value", [None, "", "x", "00-0-0-01", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'g' * 32}-{'b' * 16}-01"]
)
def test_an_invalid_traceparent_is_none(value: str | None) -> None:
    assert read_traceparent(value) is None


def test_ids_of_our_own_make_ids_of_traces() -> None:
    assert trace_id("not a uuid") == trace_id("not a uuid") < 2**128
    assert span_id("a") != span_id("b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stoa_otlp_endpoint", "collector:4318"),
        ("stoa_otlp_headers", "Bearer x"),
        ("stoa_otlp_headers", "a=b\nc=d"),
    ],
)
def test_invalid_settings_are_named(gateway_settings: Settings, name: str, value: str) -> None:
    with pytest.raises((SettingsError, ValueError), match=name.upper()):
        load_settings(_env_file=None, **{name: value})
