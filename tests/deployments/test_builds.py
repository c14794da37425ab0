"""Sites that are built in the sandbox: served from what the build made, or failed with one sentence while what is live stays."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from models.core.db import db
from models.deployments import Deployment, build_running
from models.projects.snapshots.blob_garbage import collect
from tests.deployments.deployment_calls import SiteCalls, fetch, host_of
from tests.deployments.program_calls import ProgramCalls
from tests.factories import Person

BUILD = "mkdir -p dist/a && echo built by $CI > dist/index.html && echo x > dist/a/b.css && ln -s /etc/passwd dist/out"
Deploy = Callable[..., dict[str, Any]]


@pytest.fixture
def built(program: ProgramCalls) -> Deploy:
    """Pushes files with settings and deploys them; the deployment on the wire, once its build has ended."""
    parents: list[str] = []

    def deploy(files: dict[str, str], **settings: Any) -> dict[str, Any]:
        assert program.pier.change(**settings)[0] == 200
        parents[:] = [program.pier.push(files, parents or None)]
        return program.shown(program.deploy())

    return deploy


def test_a_site_is_served_from_what_its_build_made(
    built: Deploy, pier: SiteCalls, program: ProgramCalls, alice: Person, app: Flask
) -> None:
    assert (
        pier.api("post", f"/projects/{pier.project}/env-vars", {"key": "TOKEN", "value": "s3cret-of-alice"})[
            0
        ]
        < 300
    )
    files = {"index.html": "the source", "src/a.js": "1"}
    shown = built(
        files, build_command=f"echo $TOKEN; {BUILD}", build_hosts=["Registry.npmjs.org", "*.example.org"]
    )
    assert (shown["state"], shown["error"]) == ("live", None)
    host = host_of(shown["url"])
    assert fetch(pier.client, host).text == "built by 1\n"
    assert fetch(pier.client, host, "/a/b.css").text == "x\n"
    assert fetch(pier.client, host, "/out").status_code == 404
    log = program.log(shown["id"])
    for text in ("Variables, by name: TOKEN.", "Left out dist/out", "Built 2 files", "Done after"):
        assert text in log
    assert "s3cret-of-alice" not in log
    again = built(files | {"more": "x"}, build_command=BUILD.replace("built by", "again by"))
    assert fetch(pier.client, host).text == "again by 1\n"
    assert pier.api("post", f"/infrastructure/deployments/{shown['id']}/release")[0] == 200
    assert fetch(pier.client, host).text == "built by 1\n"
    assert program.shown(again["id"])["state"] == "rolled_back"
    with app.app_context():
        # what was built is no garbage
        kept = db.session.get_one(Deployment, again["id"]).built_manifest
        assert collect(alice.id, dry_run=True).orphaned == 0
        assert kept


def test_a_build_that_fails_leaves_what_is_live(
    built: Deploy, pier: SiteCalls, program: ProgramCalls
) -> None:
    shown = built({"index.html": "plain"})
    host = host_of(shown["url"])
    wrong = [
        ({"build_command": "echo before; exit 3"}, "ended with code 3."),
        ({"build_command": "true", "folder": "site"}, "there is no index.html in the folder site"),
        (
            {"build_command": "true", "folder": None},
            "there is no index.html in dist, build, out, public or _site",
        ),
        ({"install_command": "false", "build_command": BUILD}, "`false` ended with code 1."),
    ]
    for settings, reason in wrong:
        failed = built({"index.html": "plain", "n": reason}, **settings)
        assert (failed["status"], reason in failed["error"]) == ("failed", True), failed
        assert fetch(pier.client, host).text == "plain"
    assert "before" in program.log(pier.api("get", _list(pier))[1]["deployments"][3]["id"])


def test_a_build_that_is_repeated_or_of_a_deleted_workspace_ends_well(
    built: Deploy, pier: SiteCalls, app: Flask, program: ProgramCalls
) -> None:
    shown = built({"a": "b"}, build_command=BUILD)
    with app.app_context():
        build_running.run_build(shown["id"])
        build_running.run_build("none")
    assert program.shown(shown["id"]) == shown
    pier.push({"c": "d"})
    waiting = pier.deploy()
    assert pier.api("delete", f"/projects/{pier.project}")[0] < 300
    with app.app_context():
        build_running.run_build(str(waiting["deploymentId"]))
        row = db.session.get_one(Deployment, str(waiting["deploymentId"]))
        assert (row.state, "deleted while it was built" in (row.error or "")) == ("failed", True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("build_hosts", ["http://x.example"]),
        ("build_hosts", ["localhost"]),
        ("build_hosts", ["a.example"] * 1 + [f"h{n}.example" for n in range(20)]),
        ("health_path", "healthz"),
        ("health_path", "//evil.example"),
        ("health_path", "/a b"),
        ("health_path", "/" + "x" * 600),
        ("install_command", "x" * 2_001),
    ],
)
def test_settings_of_builds_are_checked(pier: SiteCalls, name: str, value: Any) -> None:
    status, body = pier.change(**{name: value})
    assert status == 422
    assert f"'{name}'" in body["error"]["message"]
    assert pier.change(**{name: None})[0] == 200


def _list(pier: SiteCalls) -> str:
    return f"/infrastructure/workspaces/{pier.workspace}/deployments"
