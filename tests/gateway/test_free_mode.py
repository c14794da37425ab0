"""Free mode of the Codebuff clients (contract A.4)."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.core.settings import Settings, SettingsError, load_settings
from models.gateway import free_mode
from models.gateway.free_mode import FreeMode
from models.gateway.provider_keys import ProviderKeyForm, add_provider_key
from models.runs import AgentRun
from tests import factories
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer, completion
from tests.gateway.conftest import Facts

PATH = "/api/v1/chat/completions"


@pytest.fixture
def offered(
    web: FlaskClient, gateway_settings: Settings, rich: Person, monkeypatch: pytest.MonkeyPatch
) -> AgentRun:
    """A run of an agent to which the operator gives the house's model."""
    gateway = web.application.extensions["gateway"]
    pairs = {"stoa_free_agents": "codebuff/base2-free=openai/house-model"}
    settings = Settings.model_validate({**gateway_settings.model_dump(), **pairs})
    monkeypatch.setattr(gateway, "free_mode", FreeMode(settings, gateway.pool, gateway.limits.storage))
    gateway.limits.storage.reset()
    assert rich.user is not None
    return factories.run(rich.user, agent_id="codebuff/base2-free@1.0.0")


def body(run: AgentRun, **changes: Any) -> dict[str, Any]:
    metadata = {"run_id": run.id, "cost_mode": "free"}
    hello = [{"role": "user", "content": "Hi"}]
    return {"model": "openai/house-model", "messages": hello, "codebuff_metadata": metadata, **changes}


def test_it_uses_no_provider_key_of_the_account(
    web: FlaskClient, fake: FakeUpstream, rich: Person, offered: AgentRun
) -> None:
    form = ProviderKeyForm(provider="openai", name="Mine", secret="sk-of-rich-1234567890")
    factories.save(add_provider_key(rich.account, rich.id, form))
    web.application.extensions["gateway"].account_keys.clear()
    assert web.post(PATH, json=body(offered), headers=rich.headers).status_code == 200
    assert fake.requests[-1].headers["authorization"] == "Bearer sk-operator-openai"


@pytest.mark.parametrize("stream", [False, True])
def test_it_costs_nothing(
    web: FlaskClient, fake: FakeUpstream, rich: Person, offered: AgentRun, facts: Facts, stream: bool
) -> None:
    if not stream:
        # priced by what was asked, not by what answered
        fake.will(answer(completion(model="gpt-5-pro")))
    assert web.post(PATH, json=body(offered, stream=stream), headers=rich.headers).status_code == 200
    call = facts.call()
    assert (call.state, call.credits, call.micro_credits, call.price["source"]) == ("settled", 0, 0, "free")
    assert call.output_tokens == 20


def test_only_what_is_listed_is_free(
    web: FlaskClient, fake: FakeUpstream, rich: Person, mallory: Person, offered: AgentRun, run: AgentRun
) -> None:
    for sent in (body(offered, model="openai/gpt-5-mini"), body(run)):
        refused = web.post(PATH, json=sent, headers=rich.headers)
        assert (refused.status_code, refused.json["error"]) == (403, "free_mode_invalid_agent_model")
    assert mallory.user is not None
    factories.grant(mallory.user, 5)
    # a run of somebody else's
    assert web.post(PATH, json=body(offered), headers=mallory.headers).status_code in (400, 403)
    assert fake.requests == []
    paid = body(offered)
    del paid["codebuff_metadata"]["cost_mode"]
    assert web.post(PATH, json=paid, headers=rich.headers).status_code == 200


def test_it_is_limited(
    web: FlaskClient, rich: Person, offered: AgentRun, session: OrmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_mode, "LIMITS", free_mode.LIMITS[1:2])
    statuses = [web.post(PATH, json=body(offered), headers=rich.headers) for _ in range(26)]
    assert {each.status_code for each in statuses[:25]} == {200}
    refused = statuses[25]
    assert (refused.status_code, refused.json["error"]) == (429, "free_mode_rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60


@pytest.mark.parametrize("value", ["base2=x", "codebuff/base2", "codebuff/base2="])
def test_invalid_settings(value: str) -> None:
    with pytest.raises((SettingsError, ValueError), match="publisher/agent=model"):
        load_settings(_env_file=None, stoa_free_agents=value)
