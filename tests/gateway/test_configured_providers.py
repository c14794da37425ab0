"""Providers of STOA_PROVIDERS_FILE: what they are sent, what is charged, and what an invalid file says."""

import re
import socket
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models.core.settings import ROOT, SettingsError, load_settings
from models.gateway.pricing import PriceTable
from models.gateway.providers_file import load_providers
from models.gateway.routing import Router
from models.gateway.server_check import check_server
from models.gateway.upstream import UpstreamTimeouts, _open_socket
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer, completion, raw, stream, usage
from tests.gateway.conftest import MESSAGES, Facts

PLAIN = completion(use=usage(), model="whatever")
CHAT, MESSAGES_DOOR, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"


def post(web: FlaskClient, person: Person, model: str, door: str = CHAT, **more: Any) -> Any:
    input = {"input": "Hi"} if door == RESPONSES else {"messages": MESSAGES, "max_tokens": 50}
    return web.post(door, json={"model": model, **input, **more}, headers=person.headers)


# model: (path with query, headers that are there, keys of the body, model sent)
SENT: dict[str, tuple[str, dict[str, str | None], dict[str, Any]]] = {
    "local/llama-3:8B": (
        "/local/v1/chat/completions",
        {"authorization": None},
        {"model": "meta-llama/Llama-3-8B", "max_tokens": 50, "logit_bias": {"1": 1}},
    ),
    "local/Anything": ("/local/v1/chat/completions", {}, {"model": "Anything"}),
    "azure/mini": (
        "/azure/deployments/our-mini/chat/completions?api-version=2024-10-21",
        {"api-key": "sk-azure-secret", "x-team": "stoa", "authorization": None},
        {"model": "our-mini", "max_tokens": None, "max_completion_tokens": 50, "logit_bias": None},
    ),
    "claude-like/opus": ("/claude/chat/completions", {"x-api-key": "sk-claude-secret"}, {"model": "opus"}),
    "groq/openai/gpt-oss-120b": ("/groq/chat/completions", {}, {"model": "openai/gpt-oss-120b"}),
}


@pytest.mark.parametrize("model", SENT)
def test_what_a_server_is_sent(routed: FlaskClient, rich: Person, fake: FakeUpstream, model: str) -> None:
    fake.will(answer(PLAIN))
    response = post(routed, rich, model, logit_bias={"1": 1})
    assert response.status_code == 200, response.json
    path, headers, body = SENT[model]
    (sent,) = fake.requests
    assert sent.path == path
    assert {name: sent.headers.get(name) for name in headers} == headers
    assert {name: sent.body.get(name) for name in body} == body
    assert response.headers.get("X-Stoa-Dropped") == ("logit_bias" if "azure" in model else None)


@pytest.mark.parametrize(
    ("model", "door", "path"),
    [
        ("claude-like/opus", MESSAGES_DOOR, "/claude/messages"),
        ("local/llama-3:8b", MESSAGES_DOOR, "/local/v1/chat/completions"),
        ("local/llama-3:8b", RESPONSES, "/local/v1/responses"),
        ("azure/mini", RESPONSES, "/azure/deployments/our-mini/chat/completions?api-version=2024-10-21"),
    ],
)
def test_a_format_goes_to_servers_that_have_it(
    routed: FlaskClient, rich: Person, fake: FakeUpstream, model: str, door: str, path: str
) -> None:
    fake.will(answer({"error": {"message": "seen"}}, status=400))
    assert post(routed, rich, model, door).status_code == 400
    (sent,) = fake.requests
    assert sent.path == path
    assert ("anthropic-version" in sent.headers) == path.endswith("/messages")


@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("local/Llama-3:8b", Decimal(0)),
        ("azure/mini", Decimal("0.00036")),  # 100 tokens at $2 and 20 at $8
        ("groq/openai/gpt-oss-120b", None),
    ],
)
def test_prices_are_the_files_or_those_of_the_vendor(
    routed: FlaskClient, rich: Person, fake: FakeUpstream, facts: Facts, model: str, cost: Decimal | None
) -> None:
    fake.will(answer(PLAIN))
    assert post(routed, rich, model).status_code == 200
    call = facts.call()
    assert (call.provider, call.state) == (model.partition("/")[0], "settled")
    assert call.price is not None
    if cost is None:
        assert call.price["source"] == "genai-prices:groq/openai/gpt-oss-120b"
    else:
        assert (call.cost, call.price["source"]) == (cost, "operator")


def test_models_are_listed_everywhere(routed: FlaskClient, routed_app: Flask, rich: Person) -> None:
    listed = {each["id"]: each for each in routed.get("/v1/models", headers=rich.headers).json["data"]}
    assert {"local/Llama-3:8b", "azure/mini", "claude-like/opus", "groq/llama-3.3-70b-versatile"} <= {*listed}
    assert not any(name.startswith("keyless/") for name in listed)
    assert (listed["local/Llama-3:8b"]["owned_by"], listed["local/Llama-3:8b"]["context_window"]) == (
        "local",
        8192,
    )
    output = routed_app.test_cli_runner().invoke(args=["gateway", "models"]).output
    assert "azure as our-mini" in output
    doctor = routed_app.test_cli_runner().invoke(args=["doctor"]).output
    assert "keyless serves nothing, because TEST_UNSET_KEY is not set" in doctor
    assert "secret" not in output + doctor


@pytest.mark.parametrize(
    ("model", "status", "text"),
    [
        ("azure/unlisted", 404, "not one of the models of azure"),
        ("keyless/any", 404, "the key of keyless is not set on this server"),
        ("local/nomic-embed-text", 400, "creates embeddings"),
    ],
)
def test_models_that_are_not_served(
    routed: FlaskClient, rich: Person, fake: FakeUpstream, model: str, status: int, text: str
) -> None:
    response = post(routed, rich, model)
    assert (response.status_code, fake.requests) == (status, [])
    assert text in response.json["error"]["message"]


def test_an_unreachable_server_costs_no_more_than_its_connect_timeout(
    routed: FlaskClient, rich: Person, facts: Facts
) -> None:
    started = time.monotonic()
    response = post(routed, rich, "nobody/any")
    assert (response.status_code, response.json["error"]["code"]) == (502, "upstream_unreachable")
    assert time.monotonic() - started < 5
    assert facts.call().credits == 0


def test_a_host_of_several_addresses_gets_one_connect_timeout(
    fake: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]

    monkeypatch.setattr("models.gateway.upstream.socket.getaddrinfo", resolve)
    ports = [9, fake.port]
    _open_socket(("both", 80), 5).close()
    with pytest.raises(TimeoutError):
        _open_socket(("both", 80), 0)
    ports = [9, 9]
    with pytest.raises(ConnectionRefusedError):
        _open_socket(("both", 80), 5)


def test_a_whole_response_has_a_time_limit(
    routed: FlaskClient, routed_app: Flask, rich: Person, fake: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = routed_app.extensions["gateway"].routes.providers["azure"].upstream
    monkeypatch.setattr(upstream, "timeouts", UpstreamTimeouts(5, 5, 5, 0.3))
    fake.will(stream(delay=0.12))
    assert (
        b"azure did not complete its response in time" in post(routed, rich, "azure/mini", stream=True).data
    )


@pytest.mark.parametrize(
    ("name", "behaviour", "says"),
    [
        ("local", answer({"data": []}), "reachable"),
        ("azure", answer({}, status=404), "reachable"),
        ("azure", answer({}, status=401), "refuses the key in TEST_AZURE_KEY"),
        ("local", answer({}, status=401), "needs a key ('key_env')"),
        ("keyless", answer({}), "TEST_UNSET_KEY is not set"),
        ("nobody", answer({}), "nobody cannot be reached right now."),
        ("local", raw(b"?"), "vLLM closed the connection without a response."),
    ],
)
def test_what_doctor_says_of_a_server(
    routed_app: Flask, fake: FakeUpstream, name: str, behaviour: Any, says: str
) -> None:
    fake.will(behaviour)
    assert check_server(routed_app.extensions["gateway"].routes.configured[name]) == says
    for sent in fake.requests:
        assert (sent.method, sent.path.partition("?")[0].endswith("/models")) == ("GET", True)
        assert sent.headers.get("api-key") == ("sk-azure-secret" if name == "azure" else None)


def test_the_key_is_in_no_error(routed: FlaskClient, rich: Person, fake: FakeUpstream) -> None:
    fake.will(answer({"error": {"message": "bad key sk-azure-secret"}}, status=400))
    assert "sk-azure-secret" not in post(routed, rich, "azure/mini").text


# -- the file ----------------------------------------------------------------------------------------------------

SERVER = '[providers.x]\nbase_url = "http://h/v1"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[providers", "is not TOML"),
        ("[provider.x]", "provider: is not a key of this table"),
        ("[aliases]\nsmart = 7\n", "aliases.smart: must be a table"),
        ("[providers]\nx = 7\n", "providers.x: must be a table"),
        ("[providers.x]\n", "providers.x.base_url: is missing"),
        (SERVER.replace("http", "ftp"), "providers.x.base_url: must be a URL"),
        (SERVER.replace("//h", "//me:pw@h"), "providers.x.base_url: must be a URL"),
        (SERVER, "'x' serves no model"),
        (SERVER + "models.m = {}", "'x/m' has no price"),
        (SERVER + "models.m = {input = 1}", "'output' of 'x/m' is missing"),
        (SERVER + "models.m = {input = -1, output = 1}", "'input' of 'x/m' must be from 0"),
        (
            SERVER + "input = 1\noutput = 1\nmodels.m = {contxt = 1}",
            "providers.x.models.m.contxt: is not a key",
        ),
        (SERVER + "input = 1\noutput = 1\nmodels.m = {context = 0}", "providers.x.models.m.context: "),
        (SERVER + 'key_env = "sk_abc_123"', "not the key"),
        (SERVER + 'auth = "a b"', "providers.x.auth: must be 'bearer', 'none' or the name of a header"),
        (SERVER + 'headers = {Host = "x"}', "'Host' cannot be set"),
        (SERVER + 'headers = {X-A = "a\\nb"}', "providers.x.headers.X-A: must be printable ASCII"),
        (SERVER + 'formats = ["soap"]', "providers.x.formats.0: "),
        (SERVER + 'prices = "nobody"', "providers.x.prices: must be a provider of genai-prices"),
        (SERVER + "timeouts = {connect = 0}", "providers.x.timeouts.connect: "),
        (SERVER + "input = 1\noutput = 1\nmodels.m = {}\nmodels.M = {}", "'x/M' is there twice"),
        (SERVER.replace("x]", "openai]"), "'openai' is a built-in provider"),
        (SERVER.replace("x]", '"A B"]'), "'A B' is not a name"),
        ("providers = 1", "providers: "),
    ],
)
def test_an_invalid_file_says_what_to_mend(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "providers.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as error:
        load_providers(file, UpstreamTimeouts())
    assert str(error.value).startswith("STOA_PROVIDERS_FILE: ")
    assert says in str(error.value)
    assert "sk_abc_123" not in str(error.value)


def test_the_documented_examples_are_valid(tmp_path: Path) -> None:
    file = tmp_path / "providers.toml"
    examples = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "routing.md").read_text(), re.DOTALL)
    found = set()
    for example in examples:
        file.write_text(example)
        loaded = load_providers(file, UpstreamTimeouts())
        found |= {*(each.name for each in loaded.providers), *loaded.aliases}
    assert {"vllm", "ollama", "llamacpp", "lmstudio", "groq", "mistral", "azure", "fast", "smart"} <= found


def test_timeouts_are_inherited(tmp_path: Path) -> None:
    file = tmp_path / "providers.toml"
    file.write_text(
        SERVER + "input = 1\noutput = 1\ntimeouts = {connect = 2, total = 60}\n"
        "[providers.x.models.slow]\ntimeouts = {idle = 5}\n"
        '[models."openai/gpt-5-pro"]\ntimeouts = {first_byte = 900}\n'
    )
    found = load_providers(file, UpstreamTimeouts(10, 300, 120))
    assert found.providers[0].timeouts == UpstreamTimeouts(2, 60, 60, 60)
    assert found.providers[0].models["slow"].timeouts == UpstreamTimeouts(2, 60, 5, 60)
    assert found.timeouts["openai/gpt-5-pro"] == UpstreamTimeouts(10, 900, 120)
    routes = Router(
        load_settings(_env_file=None, openai_api_key="sk", stoa_providers_file=file), PriceTable()
    )
    for name in ("openai/gpt-5-pro", "GPT-5-pro", "x/slow", "openai/gpt-5"):
        timeouts = routes.find(name).timeouts
        assert (timeouts and timeouts.first_byte) == {"x/slow": 60, "openai/gpt-5": None}.get(name, 900)
