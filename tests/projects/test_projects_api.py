"""`/v1/projects`: the rows of the contract, and who may do what with whose projects."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.core.settings import Settings
from models.orgs import Org
from models.projects import Project
from tests import factories
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, typed

BRIEF = {"intent": "startup", "problem": "Parking"}


def test_a_project_has_the_shape_of_the_contract(mine: ProjectsApi, alice: Person) -> None:
    status, body = mine("post", "/projects", {"name": "  Shop  ", "more": 1})
    project = body["project"]
    assert status == 201
    assert set(project) == {
        *("id", "owner_user_id", "name", "intent", "brief", "created_at", "updated_at"),
        *("last_snapshot_id", "main_workspace_id"),
    }
    assert (project["name"], project["owner_user_id"]) == ("Shop", alice.id)
    assert len(project["id"]) == 26
    assert project["id"].isalnum()
    assert project["id"] == project["id"].upper()
    assert project["created_at"].endswith("Z")
    assert len(project["created_at"]) == 24
    detail = mine("get", f"/projects/{project['id']}")[1]
    assert detail["project"] == project
    assert (detail["workspaces"], detail["snapshots"]) == ([], [])
    assert [(each["type"], each["actor"]) for each in detail["events"]] == [("project.created", "web")]
    assert detail["snapshot_insights"] == {
        "last_merge_at": None,
        "last_deploy_at": None,
        "snapshots_since_last_merge": None,
        "snapshots_since_last_deploy": None,
    }


def test_projects_are_listed_by_their_last_change(mine: ProjectsApi) -> None:
    first, second = mine.project("One"), mine.project("Two")
    assert [each["id"] for each in mine("get", "/projects")[1]["projects"]] == [second, first]
    assert mine("patch", f"/projects/{first}", {"name": "Three"})[1]["project"]["name"] == "Three"
    assert [each["id"] for each in mine("get", "/projects")[1]["projects"]] == [first, second]


def test_a_deleted_project_can_be_restored(mine: ProjectsApi) -> None:
    id = mine.project()
    assert mine("delete", f"/projects/{id}") == (200, {"success": True})
    assert mine("get", f"/projects/{id}")[0] == 404
    assert mine("get", "/projects")[1] == {"projects": []}
    assert mine("post", f"/projects/{id}/restore")[1]["project"]["id"] == id
    assert mine("get", f"/projects/{id}")[0] == 200


@pytest.mark.parametrize(
    "body", [{}, {"name": ""}, {"name": "  "}, {"name": 7}, {"name": "x" * 201}, [], "x"]
)
def test_a_project_without_a_good_name_is_422(session: OrmSession, mine: ProjectsApi, body: Any) -> None:
    status, answer = mine("post", "/projects", body)
    assert (status, answer["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert session.scalars(select(Project)).all() == []


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"name": "a\\u0000b"}', b"[" * 300])
def test_what_is_no_json_is_400(mine: ProjectsApi, data: bytes) -> None:
    answer = mine.raw("post", "/projects", data)
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "INVALID_JSON")


def test_a_brief_is_set_and_read(mine: ProjectsApi) -> None:
    path = f"/projects/{mine.project()}/brief"
    assert mine("get", path) == (200, {"intent": None, "brief": None})
    both = {"intent": "startup", "brief": {**BRIEF, "mvp_features": ["map"]}}
    assert mine("patch", path, both) == (200, both)
    assert mine("get", path) == (200, both)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"intent": "startup"},
        {"brief": BRIEF},
        {"intent": "empire", "brief": {"intent": "empire"}},
        {"intent": "fun", "brief": BRIEF},
        {"intent": "startup", "brief": {}},
        {"intent": "startup", "brief": []},
        {"intent": "startup", "brief": {**BRIEF, "problem": "x" * 70_000}},
    ],
)
def test_wrong_briefs_are_422(mine: ProjectsApi, body: Any) -> None:
    path = f"/projects/{mine.project()}/brief"
    status, answer = mine("patch", path, body)
    assert (status, answer["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert mine("get", path)[1]["intent"] is None


def test_the_status_names_the_last_snapshot_and_event(mine: ProjectsApi) -> None:
    id = mine.project()
    assert mine("get", f"/projects/{id}/status")[1]["last_activity"]["type"] == "project.created"
    snapshot = mine.push(id, mine.tree({"a": "1"}))
    status = mine("get", f"/projects/{id}/status")[1]
    assert (status["last_snapshot_id"], status["last_activity"]["type"]) == (snapshot, "snapshot.pushed")


@pytest.mark.parametrize(("limit", "count"), [("1", 1), ("2", 2), ("9999", 3), ("x", 0), ("0", 0), ("-1", 0)])
def test_events_are_limited(mine: ProjectsApi, limit: str, count: int) -> None:
    id = mine.project()
    mine.workspace(id, "one")
    mine.workspace(id, "two")
    status, body = mine("get", f"/projects/{id}/events?limit={limit}")
    if count:
        assert [each["type"] for each in body["events"]][:1] == ["workspace.created"]
        assert len(body["events"]) == count
    else:
        assert (status, body["error"]["code"]) == (422, "VALIDATION_ERROR")


def test_an_account_has_a_limit_of_projects(
    app: Any, mine: ProjectsApi, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = settings.model_copy(update={"stoa_projects_per_account": 1})
    monkeypatch.setitem(app.extensions, "settings", few)
    mine.project()
    status, answer = mine("post", "/projects", {"name": "Two"})
    assert (status, answer["error"]["code"]) == (409, "PROJECT_LIMIT")


def routes(id: str, workspace: str, operation: str, snapshot: str, hash: str) -> list[tuple[str, str, Any]]:
    """Every route that reads or changes what belongs to a project."""
    decided: dict[str, Any] = {"decisions": {}}
    return [
        ("get", f"/projects/{id}", None),
        ("patch", f"/projects/{id}", {"name": "Mine"}),
        ("get", f"/projects/{id}/status", None),
        ("get", f"/projects/{id}/events", None),
        ("get", f"/projects/{id}/brief", None),
        ("patch", f"/projects/{id}/brief", {"intent": "startup", "brief": BRIEF}),
        ("get", f"/projects/{id}/docs", None),
        ("get", f"/projects/{id}/docs/content?workspace={workspace}&path=README.md", None),
        ("get", f"/projects/{id}/env-vars", None),
        ("post", f"/projects/{id}/env-vars", {"key": "A", "value": "1"}),
        ("put", f"/projects/{id}/env-vars", {"variables": []}),
        ("get", f"/projects/{id}/env-vars/values", None),
        ("delete", f"/projects/{id}/env-vars/A", None),
        ("get", f"/projects/{id}/workspaces", None),
        ("post", f"/projects/{id}/workspaces", {"name": "theirs"}),
        ("get", f"/projects/{id}/snapshots", None),
        ("post", f"/projects/{id}/snapshots", {"manifest_hash": hash}),
        ("get", f"/projects/{id}/operations", None),
        ("get", f"/projects/{id}/merge-base?one={snapshot}&other={snapshot}", None),
        ("get", f"/workspaces/{workspace}", None),
        ("patch", f"/workspaces/{workspace}", {"name": "mine"}),
        ("post", f"/workspaces/{workspace}/heartbeat", None),
        (
            "post",
            f"/workspaces/{workspace}/current-manifest",
            {"manifest_hash": hash, "previous_manifest_hash": hash},
        ),
        ("post", f"/workspaces/{workspace}/set-as-main", None),
        ("get", f"/workspaces/{workspace}/snapshots", None),
        ("post", f"/workspaces/{workspace}/sync/undo", {"snapshot_id": snapshot}),
        ("get", f"/workspaces/{workspace}/operations", None),
        ("get", f"/workspaces/{workspace}/operations/{operation}/undo", None),
        ("post", f"/workspaces/{workspace}/operations/{operation}/undo", decided),
        ("get", f"/snapshots/{snapshot}", None),
        ("get", f"/workspaces/{workspace}/drift", None),
        ("post", f"/workspaces/{workspace}/drift", {"files_added": 1}),
        ("get", f"/workspaces/{workspace}/drift/compare", None),
        ("post", f"/workspaces/{workspace}/drift/compare", None),
        ("post", f"/workspaces/{workspace}/drift/analyze", None),
        ("get", f"/projects/{id}/overlaps", None),
        ("delete", f"/workspaces/{workspace}", None),
        ("post", f"/projects/{id}/restore", None),
        ("delete", f"/projects/{id}", None),
    ]


def filled(api: ProjectsApi, query: str = "") -> list[tuple[str, str, Any]]:
    """A project with everything in it; its routes."""
    id = api.project("Shop", query)
    workspace = api.workspace(id)
    api.blob("hello", query)
    hash = api.manifest(typed({"README.md": "hello"}), query)
    snapshot = api.push(id, hash, workspace_id=workspace)
    api("post", f"/projects/{id}/env-vars", {"key": "A", "value": "1", "is_secret": True})
    operation = api("get", f"/workspaces/{workspace}/operations")[1]["operations"][0]["id"]
    return routes(id, workspace, operation, snapshot, hash)


def test_strangers_find_nothing_and_change_nothing(
    client: FlaskClient, mine: ProjectsApi, mallory: Person, anonymous: Person
) -> None:
    theirs, nobody = ProjectsApi(client, mallory), ProjectsApi(client, anonymous)
    unknown = routes("X" * 26, "Y" * 26, "Z" * 26, "snap-0", "0" * 64)
    for (method, path, body), (_, no_path, _) in zip(filled(mine), unknown, strict=True):
        assert nobody(method, path, body)[0] == 401, path
        status, answer = theirs(method, path, body)
        assert (status, answer["error"]["code"]) == (404, "NOT_FOUND"), path
        assert answer == theirs(method, no_path, body)[1], path
    project = mine("get", "/projects")[1]["projects"][0]
    assert (project["name"], project["intent"]) == ("Shop", None)


def test_the_owner_does_all_of_it(mine: ProjectsApi) -> None:
    for method, path, body in filled(mine):
        if path.endswith("/restore"):
            continue
        status, answer = mine(method, path, body)
        if method == "delete" and "/workspaces/" in path:
            assert status == 409  # it is the main one
        else:
            assert status in (200, 201), (path, answer)


MANAGING = ("/restore", "/env-vars/values")


@pytest.mark.parametrize("role", ["admin", "member", "viewer", "billing", "service"])
def test_roles_of_an_organisation_see_edit_and_manage(
    client: FlaskClient, session: OrmSession, alice: Person, mallory: Person, acme: Org, role: str
) -> None:
    wanted = filled(ProjectsApi(client, alice), f"?org_id={acme.slug}")
    factories.join(acme, mallory.id, role)
    api = ProjectsApi(client, mallory)
    for method, path, body in wanted:
        status, answer = api(method, path, body)
        managing = path.endswith(MANAGING) or (
            method == "delete" and path.count("/") == 2 and "/projects/" in path
        )
        allowed = {"admin": True, "member": not managing, "service": not managing}.get(
            role, method == "get" and not managing
        )
        if role == "billing":
            assert status == 404, path
        elif allowed:
            assert status in (200, 201, 409), (path, answer)
        else:
            assert (status, answer["error"]["code"]) == (403, "FORBIDDEN"), path


def test_an_organisation_owns_its_projects(
    client: FlaskClient, alice: Person, bob: Person, acme: Org
) -> None:
    his = ProjectsApi(client, bob)
    status, body = his("post", "/projects", {"name": "Ours", "org_id": acme.slug})
    assert (status, body["project"]["org_id"]) == (201, acme.id)
    id = body["project"]["id"]
    hers = ProjectsApi(client, alice)
    assert hers("get", "/projects")[1]["projects"] == []
    assert [each["id"] for each in hers("get", f"/projects?org_id={acme.id}")[1]["projects"]] == [id]
    assert hers("get", f"/projects/{id}")[0] == 200


def test_a_key_of_an_organisation_opens_its_projects_alone(
    client: FlaskClient, session: OrmSession, alice: Person, acme: Org
) -> None:
    mine = ProjectsApi(client, alice)
    own = mine.project("Own")
    assert alice.user is not None
    key = factories.token(alice.user, org_id=acme.id)
    theirs = ProjectsApi(
        client, Person(alice.id, alice.user, client, key, {"authorization": f"Bearer {key}"})
    )
    ours = theirs.project("Ours")
    assert [each["id"] for each in theirs("get", "/projects")[1]["projects"]] == [ours]
    assert theirs("get", f"/projects/{own}")[0] == 404
    assert mine("get", f"/projects/{ours}")[0] == 200


def test_a_key_needs_the_scopes(client: FlaskClient, session: OrmSession, alice: Person) -> None:
    assert alice.user is not None
    id = ProjectsApi(client, alice).project()
    for scope, read, write in (
        ("projects:read", 200, 403),
        ("projects:write", 403, 200),
        ("threads:read", 403, 403),
    ):
        key = factories.api_key(alice.user, permissions=(scope,))
        api = ProjectsApi(
            client, Person(alice.id, alice.user, client, key, {"authorization": f"Bearer {key}"})
        )
        assert api("get", f"/projects/{id}")[0] == read
        assert api("patch", f"/projects/{id}", {"name": "New"})[0] == write


@pytest.mark.parametrize("path", ["/projects/x/nothing", "/blobs", "/workspaces/a/b/c", "/snapshots"])
def test_unknown_routes_have_the_envelope(mine: ProjectsApi, path: str) -> None:
    status, answer = mine("get", path)
    assert (status, answer["error"]["code"]) == (404, "NOT_FOUND")
    assert set(answer) == {"error"}


@pytest.mark.parametrize("id", ["%00", "a%00b", "x" * 5_000, "%F0%9F%98%80", "..", "'"])
def test_odd_ids_are_404(mine: ProjectsApi, id: str) -> None:
    for path in (f"/projects/{id}", f"/workspaces/{id}", f"/snapshots/{id}", f"/blobs/download/{id}"):
        assert mine("get", path)[0] == 404, path
