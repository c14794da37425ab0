"""Fixtures: the application with every provider's key; each provider is a scripted server on loopback."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession

from app import create_app
from models.core.db import db
from models.core.settings import Settings, load_settings
from models.gateway import GatewayCall
from models.gateway.output_estimator import OutputEstimator
from models.gateway.upstream import HttpUpstream, UpstreamTimeouts
from models.ledger import CreditHold
from models.runs import AgentRun
from models.usage import Message
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream

MESSAGES = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="session")
def fake_server() -> Iterator[FakeUpstream]:
    with fakes.running() as fake:
        yield fake


@pytest.fixture
def fake(fake_server: FakeUpstream) -> FakeUpstream:
    """The scripted upstream, reset: answers every request with one ordinary completion."""
    fake_server.reset()
    return fake_server


@pytest.fixture(scope="session")
def gateway_settings(fake_server: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    prices = tmp_path_factory.mktemp("prices") / "prices.toml"
    prices.write_text(
        '["openai/house-model"]\ninput = 2\noutput = "10.5"\n["openai/free-model"]\ninput = 0\noutput = 0\n'
        '["openai/house-moderation"]\nrequest = 0.02\n["openai/house-rerank"]\nsearch_unit = 0.03\n'
        '["openai/token-rerank"]\ninput = 100\noutput = 0\n'
        '["openai/house-image"]\nkind = "image"\n'
        'image = {default = 0.04, hd = 0.08, "1024x1792 hd" = 0.12}\n'
        '["openai/house-speech"]\nkind = "speech"\ninput = 1\noutput = 20\n'
        '["openai/tiered-model"]\ninput = 10\noutput = 100\n'
        '["house/claude"]\nprovider = "anthropic"\nupstream_model = "claude-sonnet-4-5"\ninput = 10\noutput = 100\n'
        '["house/claude".speed.fast]\ninput = 60\noutput = 600\n["house/claude".region.us]\ninput = 11\noutput = 110\n'
        '["house/claude".batch]\ninput = 5\noutput = 50\n'
        '["openai/tiered-model".service_tier.flex]\ninput = 5\noutput = 50\n'
        '["openai/tiered-model".service_tier.priority]\ninput = 20\noutput = 200\n'
        '["openai/tiered-model".above.1000000]\ninput = 20\n'
        '["openai/unpriced-image"]\nkind = "image"\nsecond = 1\n'
    )
    return load_settings(
        _env_file=None,
        stoa_data_dir=tmp_path_factory.mktemp("data"),
        stoa_secret_key="test-secret-test-secret-test-secret-test",
        stoa_base_url="http://localhost:8000",
        stoa_support_email="help@stoa.test",
        stoa_prices_file=prices,
        stoa_demo_delay_ms=0,
        stoa_failed_keys_per_minute=0,
        # long enough for a busy machine; tests of timeouts use `short_timeouts`
        stoa_connect_timeout=30,
        stoa_first_byte_timeout=30,
        stoa_idle_timeout=30,
        **{f"{name}_api_key": f"sk-operator-{name}" for name in PROVIDERS},
        **{f"{name}_base_url": f"{fake_server.url}/{name}" for name in PROVIDERS},
    )


PROVIDERS = ("openrouter", "openai", "anthropic", "gemini")


@pytest.fixture(scope="session")
def gateway_app(app: Flask, postgres_url: str, gateway_settings: Settings) -> Iterator[Flask]:
    """The application with providers."""
    made = create_app(gateway_settings, database_url=postgres_url)
    made.config["TESTING"] = True
    made.config["PROPAGATE_EXCEPTIONS"] = False
    yield made
    with made.app_context():
        db.engine.dispose()
    made.extensions["gateway"].pool.close()


@pytest.fixture
def web(gateway_app: Flask, fake: FakeUpstream) -> FlaskClient:
    """A test client of the application with providers."""
    gateway = gateway_app.extensions["gateway"]
    gateway.whole_only.clear()
    gateway.routes.breakers.clear()
    # what other tests left behind: learned sizes, and refused calls of keys that are gone
    gateway.outputs = gateway.settlements.outputs = OutputEstimator()
    gateway.refused_calls.flush()
    return gateway_app.test_client()


PROVIDERS_FILE = """
[providers.local]
title = "vLLM"
base_url = "{url}/local/v1"
formats = ["chat", "responses"]
input = 0
output = 0
[providers.local.models."Llama-3:8b"]
upstream_model = "meta-llama/Llama-3-8B"
context = 8192
max_output = 2048

[providers.azure]
base_url = "{url}/azure/deployments/{{model}}"
key_env = "TEST_AZURE_KEY"
auth = "api-key"
headers = {{ X-Team = "stoa" }}
query = {{ api-version = "2024-10-21" }}
unsupported = ["logit_bias"]
[providers.azure.models.mini]
upstream_model = "our-mini"
reasoning_model = true
unsupported = ["reasoning_content"]
input = 2
output = 8

[providers.claude-like]
base_url = "{url}/claude"
key_env = "TEST_CLAUDE_KEY"
auth = "x-api-key"
formats = ["messages", "chat"]
[providers.claude-like.models.opus]
input = 1
output = 1

[providers.groq]
base_url = "{url}/groq"
prices = "groq"

[providers.nobody]
base_url = "http://127.0.0.1:9/v1"
input = 1
output = 1
timeouts = {{ connect = 0.5 }}

[aliases]
fast = "azure/mini"
"local/Llama-3:8b" = {{ targets = "local/Llama-3:8b", fallbacks = ["azure/mini"] }}
unserved = "keyless/any"
mixed = {{ targets = "azure/mini", fallbacks = ["openrouter/openai/gpt-5-mini"] }}

[providers.vectors]
base_url = "{url}/vectors"
[providers.vectors.models.small]
kind = "embedding"
input = 1
output = 0

[aliases.embed]
targets = ["vectors/small"]
fallbacks = ["local/nomic-embed-text"]

[aliases.pair]
targets = ["azure/mini", {{ model = "claude-like/opus", weight = 3 }}]
fallbacks = ["local/last"]

[aliases.chain]
targets = "nobody/any"
fallbacks = ["keyless/any", "azure/mini", "local/last"]

[aliases.patient]
targets = "azure/mini"
retries = {{ attempts = 2, seconds = 5, on = ["connect", "rate_limit", "server_error", "overloaded", "timeout"] }}

[providers.keyless]
base_url = "{url}/keyless"
key_env = "TEST_UNSET_KEY"
input = 1
output = 1
"""


@pytest.fixture(scope="session")
def routed_app(
    app: Flask,
    postgres_url: str,
    gateway_settings: Settings,
    fake_server: FakeUpstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Flask]:
    """The application with a file of providers."""
    folder = tmp_path_factory.mktemp("providers")
    file = folder / "providers.toml"
    file.write_text(PROVIDERS_FILE.format(url=fake_server.url))
    settings = gateway_settings.model_copy(
        update={"stoa_providers_file": file, "stoa_data_dir": folder / "data", "stoa_public_models": True}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_AZURE_KEY", "sk-azure-secret")
        patch.setenv("TEST_CLAUDE_KEY", "sk-claude-secret")
        made = create_app(settings, database_url=postgres_url)
        made.config["TESTING"] = True
        made.config["PROPAGATE_EXCEPTIONS"] = False
        yield made
    with made.app_context():
        db.engine.dispose()
    made.extensions["gateway"].pool.close()


@pytest.fixture
def routed(routed_app: Flask, fake: FakeUpstream) -> FlaskClient:
    """A test client of the application with a file of providers."""
    routed_app.extensions["gateway"].routes.breakers.clear()
    return routed_app.test_client()


@pytest.fixture
def short_timeouts(gateway_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for every provider timeout."""
    for provider in gateway_app.extensions["gateway"].routes.providers.values():
        if isinstance(provider.upstream, HttpUpstream):
            monkeypatch.setattr(provider.upstream, "timeouts", UpstreamTimeouts(0.5, 0.5, 0.5))


@pytest.fixture
def rich(session: OrmSession, alice: Person) -> Person:
    """Alice with a thousand credits."""
    assert alice.user is not None
    factories.grant(alice.user, 1000)
    return alice


@pytest.fixture
def run(session: OrmSession, rich: Person) -> AgentRun:
    """A running run of Alice."""
    assert rich.user is not None
    return factories.run(rich.user)


@pytest.fixture
def body(run: AgentRun) -> dict[str, Any]:
    """A request body of the SDK."""
    return {
        "model": "openrouter-only/model",
        "messages": MESSAGES,
        "codebuff_metadata": {"run_id": factories.id_of(run), "client_id": "client-7", "cost_mode": "normal"},
    }


@pytest.fixture
def facts(session: OrmSession) -> "Facts":
    """Queries of the database after a call."""
    return Facts(session)


class Facts:
    def __init__(self, session: OrmSession) -> None:
        self.session = session

    def fresh(self) -> OrmSession:
        self.session.rollback()
        return self.session

    def messages(self) -> list[Message]:
        return list(self.fresh().scalars(select(Message).order_by(Message.finished_at)))

    def calls(self) -> list[GatewayCall]:
        return list(self.fresh().scalars(select(GatewayCall).order_by(GatewayCall.started_at)))

    def holds(self) -> int:
        return self.fresh().scalar(select(func.count()).select_from(CreditHold)) or 0

    def call(self) -> GatewayCall:
        """The only call, after it has ended."""
        ended = select(GatewayCall).where(~select(CreditHold).exists())
        found: list[GatewayCall] = []

        def read() -> bool:
            found[:] = self.fresh().scalars(ended)
            return len(found) == 1

        wait(read)
        return found[0]


def wait(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def events(data: bytes) -> list[Any]:
    """The JSON events of a stream."""
    lines = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]
