"""Action items over HTTP: lists, filters, who may see and change them, and drift."""

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.accounts import User
from models.core.db import db, now
from models.deployments import Deployment
from models.projects import Workspace
from models.store import Publisher
from tests import factories
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi


class Item:
    """An item that alice wrote by hand."""

    def __init__(self, api: ProjectsApi, **more: Any) -> None:
        self.api = api
        self.project = api.project()
        self.workspace = api.workspace(self.project)
        self.body = {"workspace_id": self.workspace, "type": "security", "title": "Mend it", **more}
        status, answer = api("post", "/action-items", self.body)
        assert status == 201, answer
        self.id = answer["item"]["id"]
        self.json = answer["item"]

    def now(self) -> dict[str, Any]:
        status, body = self.api("get", f"/action-items/{self.id}")
        assert status == 200
        return dict(body["item"])


def listed(api: ProjectsApi, query: str = "") -> list[str]:
    status, body = api("get", f"/action-items{query}")
    assert status == 200, body
    return [each["id"] for each in body["items"]]


def test_an_item_has_the_fields_of_the_contract(mine: ProjectsApi) -> None:
    item = Item(
        mine, severity="critical", affected_files=["a.py"], suggested_prompt="Please", description="So."
    )
    expected = {
        "type": "security",
        "severity": "critical",
        "workspace_id": item.workspace,
        "workspace_name": "main",
        "project_id": item.project,
        "project_name": "Shop",
        "title": "Mend it",
        "description": "So.",
        "icon": "shield",
        "action_label": "Fix",
        "action_type": "prompt",
        "action_data": {"suggested_prompt": "Please", "affected_files": ["a.py"], "metadata": {}},
        "status": "pending",
        "source": "manual",
    }
    (found,) = mine("get", "/action-items")[1]["items"]
    assert expected.items() <= found.items()
    assert found["created_at"].endswith("Z")
    assert found == item.now()
    assert mine("get", f"/projects/{item.project}/action-items")[1]["items"] == [found]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"type": "drift"}, "type"),
        ({"type": "x"}, "type"),
        ({"severity": "fatal"}, "severity"),
        ({"source": "analysis"}, "source"),
        ({"title": "  "}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"title": None}, "title"),
        ({"title": "a\0b"}, ""),
        ({"description": "x" * 4_001}, "description"),
        ({"affected_files": ["x"] * 51}, "affected_files"),
        ({"affected_files": [""]}, "affected_files"),
        ({"affected_files": [3]}, "affected_files"),
        ({"suggested_prompt": "x" * 8_001}, "suggested_prompt"),
        ({"fingerprint": "x" * 151}, "fingerprint"),
    ],
)
def test_a_wrong_item_is_refused_with_the_reason(mine: ProjectsApi, more: dict[str, Any], word: str) -> None:
    workspace = mine.workspace(mine.project())
    status, body = mine(
        "post", "/action-items", {"workspace_id": workspace, "type": "security", "title": "Mend", **more}
    )
    assert status in (400, 422)
    assert word in body["error"]["message"]
    assert listed(mine) == []


def test_the_same_fingerprint_is_one_item(mine: ProjectsApi) -> None:
    item = Item(mine, fingerprint="CVE-1", source="import")
    again = {**item.body, "title": "Mend it soon", "severity": "critical"}
    assert mine("post", "/action-items", again)[1]["item"]["id"] == item.id
    assert (item.now()["title"], item.now()["severity"]) == ("Mend it soon", "critical")
    mine("post", f"/action-items/{item.id}/dismiss")
    mine("post", "/action-items", again)
    assert item.now()["status"] == "dismissed"
    assert listed(mine) == []


def test_strangers_see_and_change_nothing(
    session: OrmSession, client: FlaskClient, mine: ProjectsApi, mallory: Person
) -> None:
    item, theirs = Item(mine), ProjectsApi(client, mallory)
    unknown = theirs("get", "/action-items/nothing")
    for method, path, body in (
        ("get", f"/action-items/{item.id}", None),
        ("patch", f"/action-items/{item.id}", {"status": "dismissed"}),
        ("post", f"/action-items/{item.id}/dismiss", None),
        ("post", f"/action-items/{item.id}/dismiss", {"reason": "mine"}),
    ):
        assert theirs(method, path, body) == unknown, path
        anonymous = client.open(f"/v1{path}", method=method, json=body)
        assert anonymous.status_code == 401
    for path in (
        f"/projects/{item.project}/action-items",
        f"/action-items?project_id={item.project}",
    ):
        assert theirs("get", path)[0] == 404
    assert theirs("post", "/action-items", item.body)[0] == 404
    assert theirs("post", f"/workspaces/{item.workspace}/analyze")[0] == 404
    assert listed(theirs) == []
    assert listed(theirs, f"?workspace_id={item.workspace}&status=all") == []
    assert item.now() == item.json


def test_roles_of_an_organisation_decide(
    session: OrmSession, client: FlaskClient, alice: Person, bob: Person, mallory: Person
) -> None:
    org = factories.org(session.get_one(User, alice.id), "Acme")
    factories.join(org, bob.id, "viewer")
    owner, viewer = ProjectsApi(client, alice), ProjectsApi(client, bob)
    project = owner.project(query=f"?org_id={org.id}")
    body = {"workspace_id": owner.workspace(project), "type": "security", "title": "Mend"}
    id = owner("post", "/action-items", body)[1]["item"]["id"]
    assert listed(viewer) == [id]
    for method, path, sent in (
        ("post", "/action-items", body),
        ("patch", f"/action-items/{id}", {"status": "dismissed"}),
        ("post", f"/action-items/{id}/dismiss", None),
    ):
        assert viewer(method, path, sent)[0] == 403
    assigned = owner("patch", f"/action-items/{id}", {"assignee_id": bob.id})
    assert (assigned[0], assigned[1]["item"]["assignee_id"]) == (200, bob.id)
    assert listed(viewer, "?assignee=me") == [id]
    assert owner("patch", f"/action-items/{id}", {"assignee_id": mallory.id})[0] == 422


def test_changes_of_an_item(mine: ProjectsApi, mason: str) -> None:
    item = Item(mine)

    def change(**body: Any) -> tuple[int, Any]:
        status, answer = mine("patch", f"/action-items/{item.id}", body)
        return status, answer.get("item") or answer["error"]["code"]

    later = (now() + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert change(snoozed_until=later)[0] == 200
    assert (listed(mine), listed(mine, "?snoozed=true")) == ([], [item.id])
    assert change(snoozed_until=None)[0] == 200
    assert listed(mine) == [item.id]
    assert change(assigned_agent=mason)[1]["assigned_agent"] == mason
    assert listed(mine, "?assignee=none") == []
    both = change(assignee_id=mine("get", "/auth/me")[1]["user"]["id"])[1]
    assert (both["assigned_agent"], both["assignee_id"] is not None) == (None, True)
    assert change(status="dismissed", reason="Not ours")[1]["dismissed_reason"] == "Not ours"
    assert change(status="pending")[1]["dismissed_reason"] is None
    for wrong in (
        {"status": "applied"},
        {"snoozed_until": "2020-01-01T00:00:00Z"},
        {"snoozed_until": "2099-01-01T00:00:00Z"},
        {"snoozed_until": "soon"},
        {"assignee_id": "nobody"},
        {"assigned_agent": " "},
        {"assigned_agent": "x" * 201},
        {"status": "dismissed", "reason": "x" * 501},
    ):
        assert change(**wrong) == (422, "VALIDATION_ERROR"), wrong
    assert item.now()["status"] == "pending"


def test_only_agents_that_the_store_has_and_the_server_runs_are_assigned(
    session: OrmSession, mine: ProjectsApi, alice: Person, mason: str
) -> None:
    assert alice.user
    of = session.get_one(Publisher, "harbor")
    factories.agent_version(of, "coded", "1.0.0", {"handleSteps": "function* () {}"})
    factories.agent_version(of, "gone", "1.0.0", yanked_reason="Broken")
    session.commit()
    item = Item(mine)
    for name, status in (
        (mason, 200),
        (f"{mason}@1.0.0", 200),
        (f"{mason}@9.9.9", 422),
        ("harbor/nobody", 422),
        ("nobody/mason", 422),
        ("mason", 422),
        ("harbor/gone", 422),
        ("harbor/coded", 422),
        ("harbor/ma\u0000son", 400),
        ("a/b@<script>", 422),
    ):
        code, body = mine("patch", f"/action-items/{item.id}", {"assigned_agent": name})
        assert code == status, (name, body)
        assert code == 200 or len(body["error"]["message"]) > 20


def test_dismissing_a_computed_item_does_nothing(mine: ProjectsApi) -> None:
    for id in ("drift-nothing", "deploy-nothing"):
        assert mine("post", f"/action-items/{id}/dismiss") == (200, {"success": True})


@pytest.mark.parametrize(
    "query",
    [
        "status=x",
        "type=x",
        "severity=x",
        "snoozed=x",
        "limit=0",
        "limit=x",
        "workspace_id=%00",
        "assignee=%00",
    ],
)
def test_a_wrong_filter_is_refused(mine: ProjectsApi, query: str) -> None:
    assert mine("get", f"/action-items?{query}")[0] == 422


def test_filters_and_order(mine: ProjectsApi) -> None:
    first = Item(mine, severity="info")
    ids = [first.id]
    for type, severity in (("refactoring", "critical"), ("build_failure", "warning")):
        body = {**first.body, "type": type, "severity": severity}
        ids.append(mine("post", "/action-items", body)[1]["item"]["id"])
    assert listed(mine) == [ids[1], ids[2], ids[0]]
    assert listed(mine, "?severity=warning") == [ids[2]]
    assert listed(mine, "?type=refactoring") == [ids[1]]
    assert listed(mine, "?limit=1") == [ids[1]]
    mine("post", f"/action-items/{ids[1]}/dismiss")
    assert listed(mine, "?status=dismissed") == [ids[1]]
    assert len(listed(mine, "?status=all")) == 3
    assert len(listed(mine, "?status=open")) == 2


def test_a_workspace_that_drifts_is_listed_until_it_is_as_main(mine: ProjectsApi) -> None:
    project = mine.project()
    main = mine.workspace(project)
    base = mine.push(project, mine.tree({"a": "1", "b": "1"}), workspace_id=main)
    own = mine.workspace(project, "agent", base_snapshot_id=base)
    other = mine.push(project, mine.tree({"a": "2", "b": "1"}), workspace_id=main)
    mine.push(project, mine.tree({"a": "3", "b": "1"}), workspace_id=own, parent_snapshot_ids=[base])
    (found,) = mine("get", "/action-items")[1]["items"]
    assert (found["id"], found["type"], found["severity"]) == (f"drift-{own}", "drift", "warning")
    assert (found["action_type"], found["icon"], found["source"]) == ("sync", "sync", "computed")
    assert found["action_data"] == {"workspace_id": own, "drift_count": 1, "main_only": 0, "conflicts": 1}
    mine("post", f"/workspaces/{own}/drift", {"files_added": 2, "files_modified": 7})
    (found,) = mine("get", "/action-items")[1]["items"]
    assert (found["severity"], found["action_data"]["drift_count"]) == ("critical", 9)
    assert mine("get", "/action-items?type=security")[1]["items"] == []
    mine.push(project, mine.tree({"a": "2", "b": "1"}), workspace_id=own, parent_snapshot_ids=[other])
    assert mine("get", "/action-items")[1]["items"] == []


def test_a_failed_deployment_is_listed_until_a_later_one_succeeds(mine: ProjectsApi) -> None:
    project = mine.project()
    main = mine.workspace(project)
    mine.push(project, mine.tree({"app.py": "x = 1"}), workspace_id=main)
    row = db.session.get_one(Workspace, main)
    rows = [
        Deployment(
            project_id=project,
            workspace_id=main,
            snapshot_id=row.current_snapshot_id,
            adapter="static",
            trigger="manual",
            state=state,
            error=error,
            started_at=now() + timedelta(seconds=number),
            completed_at=now() + timedelta(seconds=number),
        )
        for number, (state, error) in enumerate((("failed", "First"), ("failed", "No index.html")))
    ]
    db.session.add_all(rows)
    db.session.commit()
    (found,) = mine("get", f"/action-items?project_id={project}")[1]["items"]
    assert (found["id"], found["type"], found["severity"]) == (
        f"deploy-{rows[1].id}",
        "build_failure",
        "warning",
    )
    assert (found["icon"], found["description"]) == ("alert", "No index.html")
    assert "No index.html" in found["action_data"]["suggested_prompt"]
    assert mine("post", f"/action-items/{found['id']}/dismiss")[0] == 200
    rows[1].state, rows[1].error = "stopped", None
    db.session.commit()
    assert listed(mine) == []
