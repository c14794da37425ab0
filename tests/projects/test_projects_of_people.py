"""What the export of a person's data holds of projects, and what the erasure of an account leaves."""

from datetime import timedelta

from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts.account_deletion import account_erasing
from models.core.db import now
from models.core.personal_export import export_files
from models.orgs import Org, org_erased
from models.projects import (
    ActivityEvent,
    Blob,
    Manifest,
    Pack,
    Project,
    ProjectStorage,
    Snapshot,
    Tree,
    Workspace,
    WorkspaceOperation,
)
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, typed

TABLES = (Project, Workspace, Snapshot, WorkspaceOperation, ActivityEvent)
BYTES = (Blob, Pack, Tree, Manifest, ProjectStorage)


def make(api: ProjectsApi, name: str, query: str = "") -> str:
    """A project with all that it may have, twice pushed and once undone."""
    project = api.project(name, query)
    workspace = api.workspace(project)
    api.blob("hello", query)
    for text in (typed({"a": "hello"}), typed({"b": "hello"})):
        hash = api.manifest(text, query)
        api.push(project, hash, workspace_id=workspace, message=f"Push of {name}")
    operation = api("get", f"/workspaces/{workspace}/operations")[1]["operations"][0]["id"]
    assert api("post", f"/workspaces/{workspace}/operations/{operation}/undo")[0] == 200
    secret = {"key": "A", "value": "not-to-be-exported", "is_secret": True}
    assert api("post", f"/projects/{project}/env-vars", secret)[0] == 200
    return project


def test_the_export_holds_own_projects_and_no_secret(
    client: FlaskClient, session: OrmSession, acme: Org, alice: Person, mallory: Person
) -> None:
    make(ProjectsApi(client, alice), "Shop")
    make(ProjectsApi(client, alice), "Ours", f"?org_id={acme.id}")
    files = {each.name: "".join(each.chunks(alice.id)) for each in export_files()}
    assert "Shop" in files["projects.csv"]
    assert files["snapshots.csv"].count("Push of Shop") == 2
    assert "Ours" not in files["projects.csv"] + files["snapshots.csv"]
    assert "not-to-be-exported" not in str(files)
    theirs = "".join(
        "".join(each.chunks(mallory.id))
        for each in export_files()
        if each.name in ("projects.csv", "snapshots.csv")
    )
    assert "Shop" not in theirs


def test_an_erased_account_leaves_only_what_the_organisation_owns(
    client: FlaskClient, session: OrmSession, acme: Org, bob: Person
) -> None:
    make(ProjectsApi(client, bob), "Own")
    kept = make(ProjectsApi(client, bob), "Ours", f"?org_id={acme.id}")
    account_erasing.send(bob.user, now=now() + timedelta(days=14))
    session.commit()
    assert session.scalars(select(Project.id)).all() == [kept]
    for table in TABLES[1:]:
        assert set(session.scalars(select(table.project_id))) == {kept}
    for table in BYTES:
        assert set(session.scalars(select(table.account_id))) == {acme.id}
    org_erased.send(acme.id)
    session.commit()
    for table in (*TABLES, *BYTES):
        assert session.scalars(select(table)).all() == []
