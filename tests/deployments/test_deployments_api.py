"""Deployments over the API: what is deployed and refused, idempotency, roll back, settings, who may, and what others see."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession

from models.core import jobs
from models.deployments import Deployment, deployment_checks, deployment_finished, failed_deployments
from models.deployments.auto_deploying import deploy_operation
from models.deployments.deployment_listing import log_lines
from models.projects import ActivityEvent, Project, WorkspaceOperation
from models.runners import Check, CheckResult, LevelState
from tests.deployments.deployment_calls import INDEX, SITE, SiteCalls, fetch, host_of
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi


def rows(session: OrmSession) -> list[Deployment]:
    session.rollback()
    return list(session.scalars(select(Deployment).order_by(Deployment.started_at, Deployment.id)))


def test_a_workspace_is_deployed_told_and_logged(pier: SiteCalls, session: OrmSession) -> None:
    assert pier.api("post", f"/workspaces/{pier.workspace}/deploy")[1]["error"]["code"] == "NO_SNAPSHOT"
    told: list[str] = []

    def hear(deployment: Deployment) -> None:
        told.append(deployment.state)

    with deployment_finished.connected_to(hear):
        snapshot = pier.push(SITE)
        made = pier.deploy()
    assert made["snapshot_id"] == snapshot
    assert made["deploymentId"] == made["deployment_id"]
    assert told == ["live"]
    path = f"/infrastructure/workspaces/{pier.workspace}/deployments"
    (listed,) = pier.api("get", f"{path}?limit=0")[1]["deployments"]
    assert {each: listed[each] for each in ("status", "trigger", "adapter", "error", "state")} == {
        **{"status": "success", "trigger": "manual", "adapter": "static"},
        **{"error": None, "state": "live"},
    }
    assert pier.api("get", f"/infrastructure/deployments/{listed['id']}")[1]["deployment"] == listed
    log = pier.api("get", f"/infrastructure/deployments/{listed['id']}/logs")[1]["log"]
    contents = [each["content"] for each in log["entries"]]
    assert contents[0] == f"Deploys the snapshot {snapshot} of the workspace main."
    assert contents[-1] == f"Live at {listed['url']}"
    after = pier.api("get", f"/infrastructure/deployments/{listed['id']}/logs?after=1")[1]["log"]["entries"]
    assert [each["line"] for each in after] == list(range(2, len(contents) + 1))
    assert pier.api("get", f"/infrastructure/deployments/{listed['id']}/logs?after=x")[0] == 422
    figures = pier.api("get", f"/projects/{pier.project}")[1]["snapshot_insights"]
    assert figures["last_deploy_at"] == listed["started_at"]
    assert figures["snapshots_since_last_deploy"] == 0
    assert session.scalars(select(ActivityEvent).where(ActivityEvent.type == "deployment.live")).one()


@pytest.mark.parametrize(
    ("files", "chosen", "found"),
    [
        ({"dist/index.html": "d", "index.html": "r"}, {}, "d"),
        ({"public/index.html": "p", "readme.md": "r"}, {}, "p"),
        ({"index.html": "r", "src/index.html": "s"}, {"folder": "src"}, "s"),
        ({"index.html": "r", "dist/index.html": "d"}, {"folder": "/./"}, "r"),
        ({"a/b/index.html": "deep"}, {"folder": "a/b/"}, "deep"),
        ({"readme.md": "r"}, {}, "No site was found"),
        ({"package.json": "{}"}, {}, "No built site was found"),
        ({"index.html": "r"}, {"folder": "dist"}, "The snapshot has no folder dist."),
        ({"index.html": "r", "dist": "file"}, {"folder": "dist"}, "The snapshot has no folder dist."),
        ({"index.html": "r", "dist/a": "file"}, {"folder": "dist"}, "The folder dist has no index.html."),
    ],
)
def test_the_folder_of_the_site_is_found_or_its_absence_explained(
    pier: SiteCalls, session: OrmSession, files: dict[str, str], chosen: dict[str, str], found: str
) -> None:
    if chosen:
        assert pier.change(**chosen)[0] == 200
    pier.push(files)
    made = pier.deploy()
    if made["status"] == "success":
        assert fetch(pier.client, host_of(made["url"])).text == found
    else:
        assert made["error"].startswith(found)
        session.rollback()
        (failed,) = failed_deployments(session.get_one(Project, pier.project))
        assert failed.id == made["deployment_id"]
        entries = pier.api("get", f"/infrastructure/deployments/{failed.id}/logs")[1]["log"]["entries"]
        assert (entries[-1]["stream"], entries[-1]["content"]) == ("stderr", made["error"])


def test_a_failed_deployment_leaves_what_was_live(pier: SiteCalls, session: OrmSession) -> None:
    first = pier.push(SITE)
    host = host_of(pier.deploy()["url"])
    pier.push({"readme.md": "no site"}, [first])
    assert pier.deploy()["status"] == "failed"
    assert fetch(pier.client, host).text == INDEX
    assert [each.state for each in rows(session)] == ["live", "failed"]


def test_the_same_key_deploys_once_and_roll_back_gives_the_same_bytes(
    pier: SiteCalls, session: OrmSession
) -> None:
    first_snapshot = pier.push(SITE)
    once = {"Idempotency-Key": "run 7"}
    first = pier.deploy(headers=once)
    assert pier.deploy(headers=once)["deployment_id"] == first["deployment_id"]
    assert (
        pier.api("post", f"/workspaces/{pier.workspace}/deploy", headers={"Idempotency-Key": "x" * 201})[0]
        == 422
    )
    pier.push(SITE | {"index.html": "two"}, [first_snapshot])
    second = pier.deploy()
    host = host_of(second["url"])
    assert host == host_of(first["url"])
    assert fetch(pier.client, host).text == "two"
    path = f"/infrastructure/deployments/{first['deployment_id']}/release"
    for _ in range(2):
        assert pier.api("post", path)[1]["deployment"]["state"] == "live"
    assert fetch(pier.client, host).text == INDEX
    assert [(each.state, each.status) for each in rows(session)] == [
        ("live", "success"),
        ("rolled_back", "failed"),
    ]
    back = pier.api("post", f"/infrastructure/deployments/{second['deployment_id']}/release")
    assert back[1]["deployment"]["error"] is None
    assert fetch(pier.client, host).text == "two"
    pier.push({"a": "b"})
    failed = pier.deploy()["deployment_id"]
    assert (
        pier.api("post", f"/infrastructure/deployments/{failed}/release")[1]["error"]["code"]
        == "NOT_RELEASABLE"
    )


def test_a_manifest_of_a_snapshot_is_deployed(pier: SiteCalls, session: OrmSession) -> None:
    hash = pier.api.tree(SITE)
    path = f"/infrastructure/projects/{pier.project}/deploy"
    assert pier.api("post", path, {"manifest_hash": hash})[0] == 422
    pier.push(SITE)
    status, body = pier.api("post", path, {"manifest_hash": hash, "source": "chat", "message": "Ship it"})
    assert (status, body["success"], body["error"], body["resources"]) == (200, True, None, [])
    again = pier.api("post", path, {"manifest_hash": hash})[1]
    assert again["deployment_id"] == body["deployment_id"]
    forced = pier.api("post", path, {"manifest_hash": hash, "force": True, "source": "odd"})[1]
    assert forced["deployment_id"] != body["deployment_id"]
    assert [each.trigger for each in rows(session)] == ["chat", "manual"]
    other = pier.api.project("Other")
    strange = {"manifest_hash": hash, "workspace_id": pier.workspace}
    assert pier.api("post", f"/infrastructure/projects/{other}/deploy", strange)[0] in (404, 422)


WRONG_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"adapter": "moon"}, "'adapter'"),
    ({"runtime_override": "cobol"}, "'runtime_override'"),
    ({"folder": "../x"}, "'folder'"),
    ({"folder": "a\\b"}, "'folder'"),
    ({"folder": "x" * 501}, "'folder'"),
    ({"build_command": "x" * 2_001}, "'build_command'"),
    ({"auto_deploy": "yes"}, "auto_deploy"),
    ({"webhook_url": "ftp://x"}, "'webhook_url'"),
    ({"webhook_url": "https://a:b@ci.example.org"}, "'webhook_url'"),
    ({"webhook_secret": "short"}, "'webhook_secret'"),
    ({"adapter": "webhook"}, "'webhook_url'"),
    ({"adapter": "webhook", "webhook_url": "https://ci.example.org"}, "'webhook_secret'"),
]


def test_a_wrong_setting_is_named(pier: SiteCalls) -> None:
    for changes, named in WRONG_SETTINGS:
        status, body = pier.change(**changes)
        assert (status, body["error"]["code"]) == (422, "VALIDATION_ERROR")
        assert named in body["error"]["message"]


def test_settings_are_kept_and_null_clears(pier: SiteCalls) -> None:
    path = f"/infrastructure/workspaces/{pier.workspace}/deployment-settings"
    before = pier.api("get", path)[1]["settings"]
    assert (before["auto_deploy"], before["adapter"], before["build_command"]) == (False, "static", None)
    more = {
        "build_command": "make",
        "start_command": "serve",
        "runtime_override": "node",
        "auto_deploy": True,
    }
    pier.change(**more, webhook_secret="s" * 16, unknown=1)
    assert pier.change(build_command=None, runtime_override="")[0] == 200
    after = pier.api("get", path)[1]["settings"]
    assert (after["build_command"], after["start_command"], after["runtime_override"]) == (
        None,
        "serve",
        None,
    )
    assert (after["auto_deploy"], after["has_webhook_secret"]) == (True, True)
    assert "s" * 16 not in str(after)


def test_a_moved_head_deploys_by_itself_once(pier: SiteCalls, session: OrmSession, alice: Person) -> None:
    first = pier.push(SITE)
    pier.change(auto_deploy=True)
    queued = "SELECT args FROM procrastinate_jobs WHERE task_name = 'deployments.follow_head'"
    pier.push(SITE | {"index.html": "two"}, [first])
    session.rollback()
    (args,) = session.execute(text(queued)).scalars().all()
    for _ in range(2):
        deploy_operation(args["operation_id"])
        session.commit()
    (row,) = rows(session)
    assert (row.trigger, row.state, row.user_id) == ("auto", "live", alice.id)
    older = session.scalars(
        select(WorkspaceOperation.id).where(WorkspaceOperation.after_snapshot_id == first)
    ).one()
    deploy_operation(older)
    assert len(rows(session)) == 1


def test_a_moved_head_deploys_only_if_its_checks_pass(
    pier: SiteCalls, session: OrmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Place:
        closed = 0

        def close(self) -> None:
            Place.closed += 1

    checks = [Check("test", "pytest")]
    state = LevelState(True, "It works.")
    monkeypatch.setattr(deployment_checks, "level_state", lambda *_: state)
    monkeypatch.setattr(deployment_checks, "open_workplace", lambda *_: Place())
    monkeypatch.setattr(deployment_checks, "detect_checks", lambda _: checks)
    pier.change(auto_deploy=True, run_checks=True)
    head: list[str] = []
    outcomes: list[tuple[bool, LevelState, str | None]] = [
        (True, LevelState(True, "It works."), None),
        (False, LevelState(True, "It works."), "The test check failed: pytest"),
        (True, LevelState(False, "No sandbox here."), "The checks cannot run here. No sandbox here."),
    ]
    for number, (passes, state, reason) in enumerate(outcomes):
        found = [CheckResult("test", "pytest", passes, "1 test", 0.5)]
        monkeypatch.setattr(deployment_checks, "run_checks", lambda *_, found=found: found)
        head = [pier.push(SITE | {"index.html": f"{number}"}, head)]
        session.rollback()
        moved = select(WorkspaceOperation.id).where(WorkspaceOperation.after_snapshot_id == head[0])
        deploy_operation(session.scalars(moved).one())
        row = rows(session)[-1]
        assert (row.state, row.error) == ("failed" if reason else "live", reason)
        lines = [each.content for each in log_lines(row)]
        assert ("1 test" in lines) == state.available
    assert Place.closed == 2


def test_only_those_who_may_deploy_and_strangers_see_nothing(
    session: OrmSession, client: FlaskClient, alice: Person, mallory: Person
) -> None:
    pier = SiteCalls(ProjectsApi(client, alice))
    pier.push(SITE)
    made = pier.deploy()["deployment_id"]
    calls: list[tuple[str, str, Any]] = [
        ("post", f"/workspaces/{pier.workspace}/deploy", None),
        ("post", f"/infrastructure/projects/{pier.project}/deploy", {"manifest_hash": "a"}),
        ("post", f"/infrastructure/deployments/{made}/release", None),
        ("post", f"/infrastructure/deployments/{made}/status", {"status": "failed"}),
        ("get", f"/infrastructure/deployments/{made}", None),
        ("get", f"/infrastructure/deployments/{made}/logs", None),
        ("get", f"/infrastructure/workspaces/{pier.workspace}/deployment-settings", None),
        ("put", f"/infrastructure/workspaces/{pier.workspace}/deployment-settings", {"auto_deploy": True}),
        ("get", f"/infrastructure/workspaces/{pier.workspace}/deployments", None),
        ("get", f"/infrastructure/projects/{pier.project}/resources", None),
        ("get", f"/infrastructure/projects/{pier.project}/resources/res_1", None),
        ("delete", f"/infrastructure/projects/{pier.project}/resources/res_1", None),
        ("get", f"/infrastructure/projects/{pier.project}/detect", None),
    ]
    stranger = ProjectsApi(client, mallory)
    for method, path, body in calls:
        status, seen = stranger(method, path, body)
        missing = (
            path.replace(made, "0" * 26).replace(pier.workspace, "0" * 26).replace(pier.project, "0" * 26)
        )
        assert (status, seen) == stranger(method, missing, body), path
        assert status == 404
        assert client.open(f"/v1{path}", method=method, json=body).status_code == 401
    assert pier.api("post", f"/infrastructure/deployments/{made}/status", {"status": "failed"})[0] == 409


def test_detection_reads_the_files_of_the_project(pier: SiteCalls) -> None:
    path = f"/infrastructure/projects/{pier.project}/detect"
    assert pier.api("get", path)[1]["requirements"]["runtime"] is None
    package = '{"dependencies": {"express": "1", "pg": "8"}, "scripts": {"build": "b", "start": "s"}}'
    pier.push({"package.json": package, "a.js": "", "Dockerfile": "", "Procfile": "web: node a.js\n"})
    found = pier.api("get", path)[1]
    assert found["requirements"] == {
        **{"runtime": "node", "runtimeVersion": None, "framework": "express", "isEdgeCompatible": False},
        **{"databases": [{"type": "postgres", "envVar": "DATABASE_URL"}], "needsStorage": False},
        **{"buildCommand": "npm run build", "startCommand": "node a.js"},
    }
    assert [each["type"] for each in found["suggested_resources"]] == ["compute", "database:postgres"]
    assert (found["detection"]["confidence"], found["detection"]["source"]) == (1.0, "rules")
    assert len(found["declined"]) == 1
    assert pier.api("get", f"{path}?manifest_hash=none")[0] == 404


def test_jobs_of_deployments_do_nothing_for_what_is_gone(session: OrmSession) -> None:
    jobs.deploy_moved_head(operation_id="gone")
    jobs.run_deployment(id="gone")
    jobs.sweep_deployments(timestamp=0)
