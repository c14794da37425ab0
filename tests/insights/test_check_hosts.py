"""The hosts that the checks of a project may reach: who sets them, what is refused, and what an install gets."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db
from models.core.errors import Invalid
from models.insights import ActionItemRun
from models.ledger import Account
from models.orgs import Org
from models.projects import Project
from models.projects.project_editing import create_project
from models.runners import isolation_levels
from models.runners.check_hosts import checked_hosts, set_check_hosts
from models.runners.workplace import Workplace
from models.turns import TurnEngine
from tests import factories
from tests.factories import Person
from tests.insights.item_run_rows import MENDED, ItemPlace, Start, ended, item_place, use_agent
from tests.insights.test_item_run_routes import send
from tests.projects.project_calls import ProjectsApi
from tests.projects.project_rows import caller_of

NODE = {"package.json": '{"dependencies": {"a": "1"}, "scripts": {"test": "x"}}', "add.py": "x = 1\n"}


@pytest.mark.parametrize(
    ("hosts", "found"),
    [
        ([], []),
        (["", " "], []),
        (["PyPI.org.", "pypi.org", "*.example.com"], ["*.example.com", "pypi.org"]),
        (["xn--bcher-kva.example"], ["xn--bcher-kva.example"]),
    ],
)
def test_names_are_stored_once_and_sorted(hosts: list[str], found: list[str]) -> None:
    assert checked_hosts(hosts) == found


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("https://pypi.org", "is an address"),
        ("pypi.org/simple", "is an address"),
        ("pypi.org:8443", "has a port"),
        ("localhost", "no public name"),
        ("*.com", "no public name"),
        ("127.0.0.1", "no public name"),
        ("*", "no name of a host"),
        ("a b.example", "no name of a host"),
        ("a..example", "no name of a host"),
        ("-a.example", "no name of a host"),
        ("*.*.example.com", "no name of a host"),
        ("b\u00fccher.example", "no name of a host"),
        ("x" * 300 + ".example", "no name of a host"),
    ],
)
def test_what_is_no_host_is_refused(host: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        checked_hosts([host])


def test_there_are_few() -> None:
    with pytest.raises(Invalid, match="at most 20"):
        checked_hosts(f"h{number}.example" for number in range(21))


@pytest.fixture
def project_id(session: OrmSession, alice: Person) -> str:
    account = Account(user_id=alice.id)
    made = item_place(caller_of(alice.id, account), account, NODE)
    session.get_one(Project, made.project_id).main_workspace_id = made.workspace_id
    session.commit()
    return made.project_id


def test_hosts_over_the_api(
    client: FlaskClient, project_id: str, alice: Person, mallory: Person, anonymous: Person
) -> None:
    path, mine = f"/projects/{project_id}/check-hosts", ProjectsApi(client, alice)
    status, body = mine("get", path)
    assert (status, body["hosts"], body["suggested"]) == (200, [], ["registry.npmjs.org"])
    assert [each["kind"] for each in body["checks"]] == ["install", "test"]
    status, body = mine("put", path, {"hosts": ["Registry.npmjs.org"]})
    assert (status, body["hosts"]) == (200, ["registry.npmjs.org"])
    wrong: list[Any] = [{}, {"hosts": None}, {"hosts": "a"}, {"hosts": [1]}, {"hosts": ["localhost"]}, []]
    for sent in wrong:
        assert mine("put", path, sent)[0] == 422
    assert mine("put", path, {"hosts": ["a\0b.example"]})[0] in (400, 422)
    assert mine("get", path)[1]["hosts"] == ["registry.npmjs.org"]
    assert mine("put", path, {"hosts": []})[1]["hosts"] == []
    for method, sent in (("get", None), ("put", {"hosts": []})):
        theirs = ProjectsApi(client, mallory)(method, path, sent)
        assert theirs == ProjectsApi(client, mallory)(method, "/projects/none/check-hosts", sent)
        assert theirs[0] == 404
        assert ProjectsApi(client, anonymous)(method, path, sent)[0] == 401


def test_members_read_hosts_and_admins_set_them(
    client: FlaskClient, session: OrmSession, acme: Org, alice: Person, bob: Person
) -> None:
    account = Account(org_id=acme.id)
    id = create_project(caller_of(alice.id, account), account, "Pier").id
    session.commit()
    path = f"/projects/{id}/check-hosts"
    assert ProjectsApi(client, bob)("get", path)[0] == 200
    assert ProjectsApi(client, bob)("put", path, {"hosts": []})[0] == 403
    assert ProjectsApi(client, alice)("put", path, {"hosts": ["a.example"]})[0] == 200
    factories.membership(acme, bob.id).role = "admin"
    session.commit()
    assert ProjectsApi(client, bob)("put", path, {"hosts": []})[0] == 200


def test_hosts_on_the_page(project_id: str, alice: Person, mallory: Person) -> None:
    address = f"/projects/{project_id}/checks"
    page = alice.browser.get(address).text
    assert "offline" in page
    assert "Save with registry.npmjs.org" in page
    assert "npm run test" in page
    refused = send(alice, address, hosts="localhost")
    assert (refused.status_code, "is no public name" in refused.text) == (422, True)
    assert send(alice, address, hosts="a.example, b.example", add="registry.npmjs.org").status_code == 303
    assert db.session.get_one(Project, project_id, populate_existing=True).check_hosts == [
        "a.example",
        "b.example",
        "registry.npmjs.org",
    ]
    assert "Save with" not in alice.browser.get(address).text
    assert send(alice, address, hosts="").status_code == 303
    assert mallory.browser.get(address).status_code == 404
    assert send(mallory, address, hosts="").status_code == 404


@pytest.mark.usefixtures("processes")
def test_an_install_gets_the_hosts_and_each_is_told(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine, place: ItemPlace, caller: Any
) -> None:
    set_check_hosts(caller, place.project_id, ["pypi.org"])
    db.session.commit()
    opened, inner = [], isolation_levels._OPEN["process"]

    def open_it(wanted: Any) -> Workplace:
        opened.append(wanted.hosts)
        wanted.on_host("pypi.org", True)
        wanted.on_host("evil.example", False)
        return inner(wanted)

    use_agent(monkeypatch, {"add.py": MENDED})
    with monkeypatch.context() as patch:
        patch.setitem(isolation_levels._OPEN, "process", open_it)
        run: ActionItemRun = ended(engine_of_turns, start())
    assert (run.status, opened) == ("ready", [("pypi.org",)])
    asked = [{"host": "pypi.org", "allowed": True}, {"host": "evil.example", "allowed": False}]
    assert run.attempts[0]["hosts"] == asked
