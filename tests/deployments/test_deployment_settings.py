"""Settings of deployments: each is set, kept and brought back to its default, on the wire and on the page."""

from typing import Any

import pytest
from sqlalchemy.orm import Session as OrmSession

from models.deployments import DeploymentSetting
from tests.deployments.deployment_calls import SiteCalls
from tests.factories import Person
from tests.projects.test_projects_pages import send

FIELDS: list[tuple[str, Any, Any]] = [
    ("adapter", "railway", "static"),
    ("auto_deploy", True, False),
    ("run_checks", True, False),
    ("runtime_override", "node", None),
    ("build_command", "npm run build", None),
    ("start_command", "npm start", None),
    ("folder", "dist", None),
    ("webhook_url", "https://ci.example.org/x", None),
    ("webhook_secret", "s" * 16, None),
]


@pytest.mark.parametrize(("name", "value", "default"), FIELDS)
def test_null_brings_the_default_of_a_setting_back(
    pier: SiteCalls, name: str, value: Any, default: Any
) -> None:
    shown = "has_webhook_secret" if name == "webhook_secret" else name
    wanted = (True, False) if name == "webhook_secret" else (value, default)
    path = f"/infrastructure/workspaces/{pier.workspace}/deployment-settings"
    status, body = pier.change(**{name: value})
    assert (status, body["settings"][shown]) == (200, wanted[0])
    assert pier.change(folder="site" if name != "folder" else value)[1]["settings"][shown] == wanted[0]
    status, body = pier.change(**{name: None})
    assert (status, body["settings"][shown]) == (200, wanted[1])
    assert pier.api("get", path)[1]["settings"][shown] == wanted[1]
    assert "s" * 16 not in str(body)


def test_the_page_forgets_the_secret_only_when_it_is_told(
    pier: SiteCalls, session: OrmSession, alice: Person
) -> None:
    home = f"/projects/{pier.project}/ship/settings"
    entered = {"workspace": pier.workspace, "adapter": "static"}
    assert "Forget the secret" not in alice.browser.get(home).text
    assert send(alice, home, **entered, webhook_secret="s" * 16).status_code == 303
    assert "Forget the secret" in alice.browser.get(home).text

    def stored() -> bool:
        session.rollback()
        return session.get_one(DeploymentSetting, pier.workspace).webhook_sealed is not None

    assert send(alice, home, **entered).status_code == 303
    assert stored()
    hook = {**entered, "adapter": "webhook", "webhook_url": "https://ci.example.org/x"}
    refused = send(alice, home, **hook, forget_secret="1")
    assert (refused.status_code, "A webhook needs its address" in refused.text) == (422, True)
    assert stored()
    assert send(alice, home, **entered, forget_secret="1").status_code == 303
    assert not stored()
