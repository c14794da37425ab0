"""Pages of projects: the list and its steps, workspaces, history, files, comparison, undo, variables, settings; by each of the cast."""

import re
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.accounts import Session as SessionRow
from models.ledger import Account
from models.orgs import Org
from models.orgs.single_sign_on import ARRIVAL_VALID, OrgSsoSession
from models.projects import Project, Snapshot, Workspace, WorkspaceOperation
from models.projects.environment import EnvironmentVariable
from models.projects.project_editing import create_project
from models.projects.workspaces.workspace_editing import create_workspace
from tests import factories
from tests.factories import Person
from tests.projects.project_rows import caller_of, project_rows, pushed

HTMX = {"HX-Request": "true"}
TABS = (
    *("", "/workspaces", "/history", "/files", "/operations", "/environment", "/activity", "/settings"),
    *("/comparison", "/snapshot", "/deletion", "/file"),
)


def send(who: Person, path: str, *, headers: Any = None, **data: Any) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token, **data}, headers=headers or {})


def rows(session: OrmSession, who: Person, org: Org | None = None) -> dict[str, str]:
    """The rows of a project with everything, of a person's account or an organisation's."""
    found = project_rows(who.id, Account(org_id=org.id) if org else Account(user_id=who.id))
    session.commit()
    return found


def fresh(session: OrmSession, table: type[Any]) -> list[Any]:
    session.rollback()
    return list(session.scalars(select(table)))


def test_a_project_is_made_in_three_steps(session: OrmSession, alice: Person) -> None:
    assert "No projects yet" in alice.browser.get("/projects").text
    assert 'name="step" value="2"' in alice.browser.get("/projects/new").text
    assert alice.browser.get("/projects/new?step=2&name=").status_code == 422
    assert 'value="open_source"' in alice.browser.get("/projects/new?step=2&name=Pier").text
    last = alice.browser.get("/projects/new?step=3&name=Pier&intent=fun").text
    assert 'name="intent" value="fun"' in last
    made = send(alice, "/projects", name="Pier", intent="fun", problem="Rain", features="roof\r\n\r\nbench")
    assert made.status_code == 303, made.text
    (project,) = fresh(session, Project)
    assert made.headers["Location"] == f"/projects/{project.id}"
    assert (project.name, project.account_id, project.intent) == ("Pier", alice.id, "fun")
    assert project.brief == {"intent": "fun", "problem": "Rain", "mvp_features": ["roof", "bench"]}
    page = alice.browser.get(f"/projects/{project.id}").text
    for text in ("Pier", "Rain", "bench", f"stoa.pyz clone {project.id}"):
        assert text in page


@pytest.mark.parametrize(
    ("entered", "message"),
    [
        ({"name": ""}, "Enter a name."),
        ({"name": " \0 "}, "Enter a name."),
        ({"name": "x" * 201}, "1 to 200 characters"),
        ({"name": "Pier", "problem": "Rain"}, "Choose what the project is for."),
        ({"name": "Pier", "intent": "empire", "problem": "Rain"}, "Choose what the project is for."),
        ({"name": "Pier", "intent": "fun", "problem": "x" * 4001}, "at most 4000 characters"),
    ],
)
def test_a_wrong_project_is_refused_with_what_was_entered(
    session: OrmSession, alice: Person, entered: dict[str, str], message: str
) -> None:
    answer = send(alice, "/projects", **entered)
    assert answer.status_code == 422
    assert message in answer.text
    assert fresh(session, Project) == []


def test_the_list_searches_pages_and_restores(session: OrmSession, alice: Person) -> None:
    caller = caller_of(alice.id, Account(user_id=alice.id))
    for number in range(32):
        create_project(caller, caller.account, f"Pier {number:02}%")
    session.commit()
    page = alice.browser.get("/projects").text
    assert page.count("row-link__a") == 30
    more = re.search(r'href="([^"]*before=[^"]*)"', page)
    assert more
    rest = alice.browser.get(more[1].replace("&amp;", "&"), headers=HTMX).text
    assert rest.count("row-link__a") == 2
    assert "<h1" not in rest
    assert alice.browser.get("/projects?q=pier+07%25").text.count("row-link__a") == 1
    assert "No project has" in alice.browser.get("/projects?q=%25%25").text
    id = fresh(session, Project)[0].id
    assert send(alice, f"/projects/{id}/deletion").status_code == 303
    assert alice.browser.get(f"/projects/{id}").status_code == 404
    assert "Restore" in alice.browser.get("/projects?deleted=1").text
    assert send(alice, f"/projects/{id}/restoration").status_code == 303
    assert alice.browser.get(f"/projects/{id}").status_code == 200


def test_every_page_of_a_project_opens_for_its_owner_alone(
    session: OrmSession, alice: Person, mallory: Person, anonymous: Person
) -> None:
    start = f"/projects/{rows(session, alice)['project_id']}"
    for tab in TABS:
        assert alice.browser.get(start + tab).status_code == (303 if tab == "/file" else 200), tab
        assert mallory.browser.get(start + tab).status_code == 404, tab
        assert anonymous.browser.get(start + tab).status_code == 302, tab


@pytest.mark.parametrize(
    "path",
    ["?q=%00", "/new?step=9", "/%00", "/x", "?before=x", "/new?name=" + "x" * 5000],
)
def test_odd_addresses_are_answered(session: OrmSession, alice: Person, path: str) -> None:
    assert alice.browser.get(f"/projects{path}").status_code in (200, 404, 422)


@pytest.mark.parametrize(
    "query",
    [
        *("/files?path=no", "/files?path=" + "a/" * 300, "/files?path=" + "x" * 5000, "/files?at=no"),
        *("/files?workspace=no", "/files?path=README.md/x", "/files?path=%00", "/snapshot?id=no"),
        *("/snapshot?id=%00", "/snapshot?id=" + "x" * 200, "/comparison?before=no", "/comparison?after=no"),
        *("/file?path=src", "/file?path=no", "/environment/NO/removal", "/operations/no/undo"),
        *("/workspaces/no/deletion", "/operations/%00/undo"),
    ],
)
def test_what_is_not_there_is_404_or_the_root(session: OrmSession, alice: Person, query: str) -> None:
    start = f"/projects/{rows(session, alice)['project_id']}"
    nul = query in ("/files?path=%00", "/snapshot?id=%00")
    assert alice.browser.get(start + query).status_code == (200 if nul else 404)


def test_history_is_a_graph_and_a_list(session: OrmSession, alice: Person) -> None:
    found = rows(session, alice)
    page = alice.browser.get(f"/projects/{found['project_id']}/history").text
    assert page.count('<svg class="history__graph"') == 4
    assert page.count('<circle class="lane-') == 4
    assert "merges “Count them”, “Twice as many" in page
    assert "first snapshot" in page
    ids = re.findall(r"/snapshot\?id=([^\"]+)\"", page)
    assert len(set(ids)) == 4


def test_two_snapshots_are_compared_line_by_line(session: OrmSession, alice: Person) -> None:
    found = rows(session, alice)
    start = f"/projects/{found['project_id']}"
    page = alice.browser.get(f"{start}/snapshot?id={found['snapshot_id']}").text
    for text in ("2 files changed", "README.md", "Twelve columns.", "pier.toml", "Count them"):
        assert text in page
    newest = alice.browser.get(f"{start}/snapshot").text
    assert "Twice as many" in newest
    assert "no text" in newest
    both = f"before={found['snapshot_id']}&after={found['snapshot_id']}"
    assert "Both have the same files." in alice.browser.get(f"{start}/comparison?{both}").text


def test_files_are_read_of_a_workspace_and_of_a_snapshot(session: OrmSession, alice: Person) -> None:
    found = rows(session, alice)
    start = f"/projects/{found['project_id']}"
    root = alice.browser.get(f"{start}/files").text
    for text in ("README.md", "src/", "docs/", "blob.bin"):
        assert text in root
    code = alice.browser.get(f"{start}/files?path=src/columns.py&workspace={found['workspace_id']}").text
    assert '<span class="k">def</span>' in code
    assert '<span class="v">24</span>' in code
    assert '<span class="c"># a stoa is open to everybody</span>' in code
    old = alice.browser.get(f"{start}/files?path=src/columns.py&at={found['snapshot_id']}").text
    assert '<span class="v">12</span>' in old
    assert "no text" in alice.browser.get(f"{start}/files?path=blob.bin").text
    sent = alice.browser.get(f"{start}/file?path=blob.bin")
    assert (sent.data, sent.mimetype) == (b"\0\1", "application/octet-stream")
    assert sent.headers["Content-Disposition"] == 'attachment; filename="blob.bin"'


def test_a_long_folder_has_pages_and_a_search(session: OrmSession, alice: Person) -> None:
    caller = caller_of(alice.id, Account(user_id=alice.id))
    project = create_project(caller, caller.account, "Pier")
    main = create_workspace(caller, project.id, "main")
    pushed(caller, project.id, main.id, {f"many/{number:04}.txt": "x" for number in range(1_203)}, "many")
    session.commit()
    start = f"/projects/{project.id}/files?path=many"
    page = alice.browser.get(start).text
    assert page.count("row-link__a") == 1_000
    more = re.search(r'href="([^"]*from=1000[^"]*)"', page)
    assert more
    rest = alice.browser.get(more[1].replace("&amp;", "&"), headers=HTMX).text
    assert rest.count("row-link__a") == 203
    assert "<h1" not in rest
    assert alice.browser.get(f"{start}&from=1000").text.count("row-link__a") == 203
    assert alice.browser.get(f"{start}&q=0777.TXT").text.count("row-link__a") == 1
    assert "No name has" in alice.browser.get(f"{start}&q=nothing").text
    for odd in ("&from=x", "&from=-1", "&from=%00", "&from=99999999999", "&q=%00", "&from=²"):
        assert alice.browser.get(start + odd).text.count("row-link__a") == 1_000, odd
    assert alice.browser.get(f"{start}&from=9999").text.count("row-link__a") == 0


@pytest.mark.parametrize(
    ("text", "lines", "told"),
    [
        ("x" * 2_000, 1, ""),
        ("x" * 2_001, 1, "longer than this"),
        ("x\n" * 3_000, 3_000, ""),
        ("x\n" * 3_001, 3_000, "longer than this"),
        ("x\n" * 300_000, 0, "too large to show"),
        ("", 0, "is empty"),
    ],
)
def test_a_long_file_is_shown_in_part(
    session: OrmSession, alice: Person, text: str, lines: int, told: str
) -> None:
    caller = caller_of(alice.id, Account(user_id=alice.id))
    project = create_project(caller, caller.account, "Pier")
    main = create_workspace(caller, project.id, "main")
    pushed(caller, project.id, main.id, {"a.txt": text}, "a")
    session.commit()
    page = alice.browser.get(f"/projects/{project.id}/files?path=a.txt").text
    assert page.count('<tr id="L') == lines
    assert told in page
    assert "x" * 2_001 not in page


def test_many_heads_of_one_snapshot_are_counted(session: OrmSession, alice: Person) -> None:
    caller = caller_of(alice.id, Account(user_id=alice.id))
    project = create_project(caller, caller.account, "Pier")
    main = create_workspace(caller, project.id, "main")
    first = pushed(caller, project.id, main.id, {"a": "1"}, "first")
    for number in range(9):
        create_workspace(caller, project.id, f"agent-{number}", base_snapshot_id=first)
    session.commit()
    for tab in ("/history", "/snapshot"):
        page = alice.browser.get(f"/projects/{project.id}{tab}").text
        assert page.count("#branch") - alice.browser.get("/projects").text.count("#branch") == 4
        assert "and 6 more" in page
    names = re.findall(
        r"/files\?workspace=[^\"]+\">([^<]+)<", alice.browser.get(f"/projects/{project.id}/workspaces").text
    )
    assert names[0] == "main"
    assert len(names) == 10


def test_activity_says_where_a_snapshot_was_pushed(session: OrmSession, alice: Person) -> None:
    start = f"/projects/{rows(session, alice)['project_id']}"
    for tab in ("", "/activity"):
        page = alice.browser.get(start + tab).text
        assert re.search("pushed a snapshot to “agent”", page), tab
    assert "{&#34;deep&#34;: 1}" in alice.browser.get(start).text


def test_single_sign_on_closes_pages_of_projects(
    app: Flask, session: OrmSession, acme: Org, alice: Person, bob: Person
) -> None:
    found = rows(session, alice, acme)
    own = rows(session, bob)
    start = f"/orgs/acme/projects/{found['project_id']}"
    inside = session.scalars(
        select(SessionRow).where(SessionRow.user_id == alice.id, SessionRow.type == "web")
    ).one()
    acme.sso_enforced_at = factories.now()
    session.add(OrgSsoSession(session_token=inside.session_token, org_id=acme.id, created_at=factories.now()))
    session.commit()
    for tab in TABS:
        assert bob.browser.get(start + tab).status_code == 403, tab
        assert alice.browser.get(start + tab).status_code == (303 if tab == "/file" else 200), tab
    for path, form, _ in CHANGES:
        assert send(bob, start + path.format_map(found), **form).status_code == 403, path
    # nor by the addresses of one's own projects, which stay open
    assert bob.browser.get(f"/projects/{found['project_id']}").status_code in (403, 404)
    assert bob.browser.get(f"/projects/{own['project_id']}").status_code == 200
    # nor below an organisation that does not enforce it
    factories.org(bob.user, "Newco")
    assert bob.browser.get(f"/orgs/newco/projects/{found['project_id']}").status_code in (403, 404)
    assert bob.browser.get(f"/orgs/newco/projects/{own['project_id']}").status_code == 404
    # the mark of a session holds for a day
    mark = session.get_one(OrgSsoSession, (inside.session_token, acme.id))
    mark.created_at = factories.now() - ARRIVAL_VALID
    session.commit()
    assert alice.browser.get(start).status_code == 403


def test_an_operation_that_was_taken_back_says_so(session: OrmSession, alice: Person) -> None:
    found = rows(session, alice)
    start = f"/projects/{found['project_id']}/operations"
    assert "taken back later" not in alice.browser.get(start).text
    assert send(alice, f"{start}/{found['operation_id']}/undo").status_code == 303
    assert alice.browser.get(start).text.count("taken back later") == 1


def test_markup_in_files_and_names_is_text(session: OrmSession, alice: Person) -> None:
    caller = caller_of(alice.id, Account(user_id=alice.id))
    project = create_project(caller, caller.account, "<b>bold</b>")
    main = create_workspace(caller, project.id, "<i>main</i>")
    pushed(caller, project.id, main.id, {"<u>.js": "'<script>'"}, "<s>gone</s>")
    session.commit()
    pages = [alice.browser.get(f"/projects/{project.id}{tab}").text for tab in TABS[:-2]]
    pages.append(alice.browser.get(f"/projects/{project.id}/files", query_string={"path": "<u>.js"}).text)
    for page in pages:
        assert not re.search(r"<b>bold|<i>main|<u>\.js|<s>gone|'<script>", page)


def test_the_last_operation_is_undone_exactly(session: OrmSession, alice: Person) -> None:
    found = rows(session, alice)
    path = f"/projects/{found['project_id']}/operations/{found['operation_id']}/undo"
    preview = alice.browser.get(path).text
    assert "goes back to where it was" in preview
    version = re.search(r'name="version" value="(\d+)"', preview)
    assert version
    assert send(alice, path, version="1").headers["Location"] == path
    assert send(alice, path, version=version[1]).status_code == 303
    done = max(fresh(session, WorkspaceOperation), key=lambda each: each.created_at)
    assert (done.kind, done.actor, done.undoes) == ("undo", "web", found["operation_id"])
    listed = alice.browser.get(f"/projects/{found['project_id']}/operations").text
    assert "undid an operation of “main”" in listed
    assert "takes back" in listed


def test_an_older_operation_needs_a_choice_for_each_file_that_changed_since(
    session: OrmSession, alice: Person
) -> None:
    caller = caller_of(alice.id, Account(user_id=alice.id))
    project = create_project(caller, caller.account, "Pier")
    main = create_workspace(caller, project.id, "main")
    parents: tuple[str, ...] = ()
    for text in ("one", "two", "three"):
        parents = (
            pushed(
                caller, project.id, main.id, {"a": text, "b": parents[0] if parents else "-"}, text, *parents
            ),
        )
    session.commit()
    second = next(each for each in fresh(session, WorkspaceOperation) if each.version == 3)
    path = f"/projects/{project.id}/operations/{second.id}/undo"
    preview = alice.browser.get(path).text
    assert "Changed again since" in preview
    refused = send(alice, path, **{"path-1": "a", "choice-1": "keep", "path-2": "b"})
    assert refused.status_code == 422
    assert "Choose for each file" in refused.text
    assert re.search(r'name="choice-1" value="keep" checked', refused.text)
    odd = send(alice, path, **{"path-1": "a", "choice-1": "burn", "path-2": "b", "choice-2": "keep"})
    assert odd.status_code == 422
    choices = {"path-1": "a", "choice-1": "undo", "path-2": "b", "choice-2": "keep"}
    assert send(alice, path, **choices).status_code == 303
    page = alice.browser.get(f"/projects/{project.id}/files?path=a").text
    assert "<code>one</code>" in page


def test_workspaces_are_made_chosen_and_deleted(session: OrmSession, alice: Person) -> None:
    found = rows(session, alice)
    start = f"/projects/{found['project_id']}/workspaces"
    for name, message in (("", "Enter a name."), ("MAIN", "has a workspace named"), ("x" * 201, "1 to 200")):
        refused = send(alice, start, name=name, headers=HTMX)
        assert (refused.status_code, message in refused.text) == (422, True), name
        assert "<h1" not in refused.text
    assert send(alice, start, name="third", base=found["workspace_id"]).status_code == 303
    third = next(each for each in fresh(session, Workspace) if each.name == "third")
    assert third.current_snapshot_id
    assert (
        "columns.py"
        in alice.browser.get(f"/projects/{found['project_id']}/files?workspace={third.id}&path=src").text
    )
    assert send(alice, f"{start}/{third.id}/main").status_code == 303
    assert send(alice, f"{start}/{third.id}/deletion").status_code == 303
    assert fresh(session, Project)[0].main_workspace_id == third.id
    assert send(alice, f"{start}/{found['workspace_id']}/deletion").status_code == 303
    assert "agent" not in re.findall(r">([^<>]*)</a>", alice.browser.get(start).text)


def test_variables_are_set_masked_and_removed(session: OrmSession, alice: Person) -> None:
    start = f"/projects/{rows(session, alice)['project_id']}/environment"
    assert "****6789" in alice.browser.get(start).text
    for key in ("", "1A", "A B", "x" * 201):
        refused = send(alice, start, key=key, value="hidden-value", headers=HTMX)
        assert refused.status_code == 422
        assert "hidden-value" not in refused.text
    assert send(alice, start, key="A", value="x" * 70_000).status_code == 422
    assert send(alice, start, key="PORT", value="8080").status_code == 303
    assert send(alice, start, key="DATABASE_URL", value="another-secret", secret="1").status_code == 303
    page = alice.browser.get(start)
    assert "8080" in page.text
    assert "****cret" in page.text
    assert "another-secret" not in page.text
    assert page.headers["Cache-Control"] == "no-store"
    assert alice.browser.get(f"{start}/PORT/removal").status_code == 200
    assert send(alice, f"{start}/PORT/removal").status_code == 303
    assert [each.key for each in fresh(session, EnvironmentVariable)] == ["DATABASE_URL"]


def test_a_workspace_has_its_own_value_of_a_variable(session: OrmSession, alice: Person) -> None:
    found = rows(session, alice)
    start, id = f"/projects/{found['project_id']}/environment", found["workspace_id"]
    assert send(alice, start, key="PORT", value="8080", workspace=id).status_code == 303
    assert send(alice, start, key="PORT", value="9090").status_code == 303
    page = alice.browser.get(start).text
    assert ("8080" in page, "9090" in page) == (True, True)
    removal = f"{start}/PORT/removal?workspace={id}"
    assert "of this workspace" in alice.browser.get(removal).text
    assert send(alice, removal).status_code == 303
    assert alice.browser.get(removal).status_code == 404
    assert sorted(each.key for each in fresh(session, EnvironmentVariable)) == ["DATABASE_URL", "PORT"]
    assert send(alice, start, key="PORT", value="1", workspace="x").status_code == 404


def test_settings_keep_what_clients_wrote_into_the_brief(session: OrmSession, alice: Person) -> None:
    start = f"/projects/{rows(session, alice)['project_id']}/settings"
    refused = send(alice, start, name=" ", intent="fun", headers=HTMX)
    assert (refused.status_code, "Enter a name." in refused.text) == (422, True)
    assert send(alice, start, name="Quay", intent="fun", audience="Walkers").status_code == 303
    (project,) = fresh(session, Project)
    assert (project.name, project.intent) == ("Quay", "fun")
    assert project.brief == {"intent": "fun", "audience": "Walkers", "other": {"deep": 1}}
    # the keys of the former purpose go, those of a client stay
    texts = {"problem": "Rain", "audience": "Walkers\r\nSitters", "features": "roof"}
    assert send(alice, start, name="Quay", intent="startup", **texts).status_code == 303
    (project,) = fresh(session, Project)
    assert project.brief == {
        **{"intent": "startup", "problem": "Rain", "target_users": ["Walkers", "Sitters"]},
        **{"mvp_features": ["roof"], "other": {"deep": 1}},
    }
    page = alice.browser.get(start).text
    assert "Target users" in page
    assert "Walkers\nSitters" in page


@pytest.mark.parametrize("intent", ["startup", "personal_tool"])
def test_a_brief_that_was_begun_needs_what_its_purpose_asks_for(
    session: OrmSession, alice: Person, intent: str
) -> None:
    refused = send(alice, "/projects", name="Pier", intent=intent, problem="Rain")
    assert refused.status_code == 422
    assert "leave the whole brief empty" in refused.text
    assert send(alice, "/projects", name="Pier", intent=intent).status_code == 303
    (project,) = fresh(session, Project)
    assert project.brief == {"intent": intent}
    # what a client wrote is no hindrance to another name
    project.brief = {"intent": intent, "problem": "Rain"}
    session.commit()
    settings = f"/projects/{project.id}/settings"
    assert send(alice, settings, name="Quay", intent=intent, problem="Rain").status_code == 303
    assert send(alice, settings, name="Quay", intent=intent, problem="Snow").status_code == 422


CHANGES: tuple[tuple[str, dict[str, str], str], ...] = (
    ("/workspaces", {"name": "new"}, "edit"),
    ("/workspaces/{workspace_id}/main", {}, "edit"),
    ("/workspaces/{workspace_id}/deletion", {}, "edit"),
    ("/operations/{operation_id}/undo", {}, "edit"),
    ("/environment", {"key": "A", "value": "b"}, "edit"),
    ("/environment/DATABASE_URL/removal", {}, "edit"),
    ("/settings", {"name": "Quay", "intent": "fun"}, "edit"),
    ("/deletion", {}, "manage"),
    ("/restoration", {}, "manage"),
)


def test_changes_need_the_role(
    app: Flask, session: OrmSession, acme: Org, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    vic = factories.person(app, "vic")
    factories.join(acme, vic.id, "viewer")
    biller = factories.person(app, "biller")
    factories.join(acme, biller.id, "billing")
    found = rows(session, alice, acme)
    start = f"/orgs/acme/projects/{found['project_id']}"
    assert vic.browser.get(start).status_code == 200
    assert biller.browser.get(start).status_code == 403
    assert "Make main" not in vic.browser.get(f"{start}/workspaces").text
    # in one's own account it does not exist
    assert alice.browser.get(start.removeprefix("/orgs/acme")).status_code == 404
    for path, form, needs in CHANGES:
        address = start + path.format_map(found)
        assert send(mallory, address, **form).status_code == 404, path
        assert send(anonymous, address, **form).status_code in (303, 400), path
        assert send(vic, address, **form).status_code == 403, path
        assert send(biller, address, **form).status_code == 403, path
        if needs == "manage":
            assert send(bob, address, **form).status_code == 403, path
    before = len(fresh(session, WorkspaceOperation))
    for path, form, needs in CHANGES:
        who = alice if needs == "manage" else bob
        assert send(who, start + path.format_map(found), **form).status_code == 303, path
    # the main workspace cannot be deleted, and stays
    assert len(fresh(session, WorkspaceOperation)) > before
    assert {each.name for each in fresh(session, Workspace)} == {"main", "agent", "new"}


def statements(engine: Engine, who: Person, path: str) -> int:
    """How many statements a page takes."""
    found: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        found.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        assert who.browser.get(path).status_code == 200
    finally:
        event.remove(engine, "before_cursor_execute", note)
    return len(found)


def test_pages_take_as_many_statements_for_many_rows_as_for_one(
    session: OrmSession, engine: Engine, alice: Person
) -> None:
    caller = caller_of(alice.id, Account(user_id=alice.id))
    project = create_project(caller, caller.account, "Pier")
    main = create_workspace(caller, project.id, "main")
    parent = pushed(caller, project.id, main.id, {"a": "1"}, "first")
    session.commit()
    paths = ["/projects", *(f"/projects/{project.id}{tab}" for tab in TABS[:8])]
    statements(engine, alice, paths[0])  # notes that the session is in use
    first = [statements(engine, alice, path) for path in paths]
    for number in range(5):
        create_project(caller, caller.account, str(number))
        create_workspace(caller, project.id, str(number), base_snapshot_id=parent)
        parent = pushed(caller, project.id, main.id, {"a": "1"}, str(number), parent)
    session.commit()
    assert [statements(engine, alice, path) for path in paths] == first


def test_snapshots_are_counted_on_the_overview(session: OrmSession, alice: Person) -> None:
    found = rows(session, alice)
    page = alice.browser.get(f"/projects/{found['project_id']}").text
    assert f"<dt>Snapshots</dt><dd>{len(fresh(session, Snapshot))}</dd>" in page
