"""Programs that are deployed: built, started, reached by the host of their site, replaced without a failed request, rolled back, ended."""

import socket
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask

from models.core import jobs
from models.core.db import now
from models.deployments.process_release import fail_unstarted
from models.deployments.process_requests import is_listening
from models.deployments.provider_deploying import fail_silent
from tests.deployments.deployment_calls import SiteCalls, fetch, host_of
from tests.deployments.program_calls import ProgramCalls
from tests.factories import Person
from tests.projects.test_projects_pages import send
from views.deployments.pages import site_proxy


def test_a_program_is_deployed_replaced_rolled_back_and_taken_offline(
    program: ProgramCalls, alice: Person
) -> None:
    client, api = program.pier.client, program.pier.api
    project = program.pier.project
    assert api("post", f"/projects/{project}/env-vars", {"key": "WORD", "value": "first-word"})[0] < 300
    first = program.push()
    with program.hosting() as host:
        old = program.deploy()
        live = program.ended(old)
        assert live["error"] is None
        assert (live["state"], live["status"], live["error"]) == ("live", "success", None)
        site = host_of(live["url"])
        assert fetch(client, site, "/a?b=1").text == "first-word /a?b=1"
        assert "listens" in program.output(old)
        assert api("post", f"/projects/{project}/env-vars", {"key": "WORD", "value": "second-word"})[0] < 300
        program.push({"more.txt": "x"}, [first])
        new = program.deploy()
        # until the new one is healthy, the old one answers
        assert fetch(client, site, "/").text in ("first-word /", "second-word /")
        assert program.ended(new)["state"] == "live"
        assert fetch(client, site, "/").text == "second-word /"
        assert (program.shown(old)["state"], program.shown(old)["status"]) == ("stopped", "success")
        status, body = api("post", f"/infrastructure/deployments/{old}/release")
        assert (status, body["deployment"]["status"]) == (200, "deploying")
        assert fetch(client, site, "/").status_code == 200
        assert program.ended(old)["state"] == "live"
        assert program.shown(new)["state"] == "rolled_back"
        assert program.shown(new)["status"] == "failed"
        assert api("post", f"/infrastructure/deployments/{old}/release")[1]["deployment"]["state"] == "live"
        home = f"/projects/{project}/ship"
        assert send(alice, f"{home}/offline", workspace=program.pier.workspace).status_code == 303
        assert fetch(client, site, "/").status_code == 404
        assert program.shown(old)["state"] == "stopped"
        program.until(lambda: not host.running)
    for text in ("first-word", "second-word"):
        assert text not in program.log(old) + program.log(new) + program.output(old)


def test_requests_pass_with_nothing_of_the_console_in_either_direction(program: ProgramCalls) -> None:
    client = program.app.test_client(use_cookies=False)
    program.push()
    with program.hosting():
        id = program.deploy()
        host = host_of(program.ended(id)["url"])
        posted = client.post("/x", headers={"Host": host}, data=b"b" * 300_000)
        assert (posted.status_code, posted.data) == (201, b"b" * 300_000)
        slow = fetch(client, host, "/slow")
        assert (slow.text, "Transfer-Encoding" in slow.headers) == ("0\n1\n2\n", False)
        head = fetch(client, host, "/", "HEAD")
        assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", "6")
        answer = fetch(client, host, "/%C3%A9?q=%2F&a b")
        assert answer.headers["X-Own"] == "yes"
        assert answer.headers.getlist("Set-Cookie") == ["a=1; Path=/; HttpOnly"]
        assert "Alt-Svc" not in answer.headers
        cookies = "__Host-next-auth.session-token=mine; b=2; stoa-zone=x; next-auth.session-token=m"
        sent = fetch(
            client,
            host,
            "/headers",
            Cookie=cookies,
            Connection="close, X-Secret",
            X_Secret="hop",
            X_Forwarded_For="6.6.6.6",
            Te="trailers",
        ).text
        assert "Cookie: b=2\n" in sent
        for text in ("mine", "stoa-zone", "hop", "6.6.6.6", "Te:"):
            assert text not in sent
        assert f"Host: {host}\n" in sent
        assert "X-Forwarded-Proto: http\n" in sent
        assert fetch(client, host, "/", Upgrade="websocket", Connection="Upgrade").status_code == 501
        assert fetch(client, host, "/", "TRACE").status_code == 405
        assert (
            client.post("/x", headers={"Host": host}, data=bytes(21 << 20), buffered=True).status_code == 413
        )
        with pytest.raises(ConnectionResetError):
            fetch(client, host, "/short")
        env = fetch(client, host, "/env").text.splitlines()
        assert "PORT=8080" in env
        assert not [each for each in env if "STOA" in each or "DATABASE" in each]
        assert site_proxy._open[id] == 0
        for _ in range(site_proxy.AT_ONCE):
            site_proxy._open[id] += 1
        busy = fetch(client, host)
        assert (busy.status_code, busy.headers["Retry-After"]) == (503, "2")
        del site_proxy._open[id]


def test_a_socket_that_a_program_replaced_by_a_link_leads_nowhere(tmp_path: Path) -> None:
    database = socket.socket(socket.AF_UNIX)
    database.bind(str(tmp_path / "database.sock"))
    database.listen()
    (tmp_path / "served.sock").symlink_to("database.sock")
    assert is_listening(str(tmp_path / "database.sock"))
    assert not is_listening(str(tmp_path / "served.sock"))
    (tmp_path / "file").touch()
    assert not is_listening(str(tmp_path / "file"))
    database.close()


def test_an_account_runs_only_so_many_programs_and_a_program_needs_a_command(
    program: ProgramCalls, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = app.extensions["settings"].model_copy(update={"stoa_processes_per_account": 1})
    monkeypatch.setitem(app.extensions, "settings", few)
    program.push(start_command=None)
    assert "No start command was found" in program.pier.deploy()["error"]
    program.pier.change(start_command="sleep 9")
    assert program.pier.deploy()["status"] == "deploying"
    other = ProgramCalls(app, SiteCalls(program.pier.api))
    other.push()
    assert "1 programs of this account run already" in other.pier.deploy()["error"]


def test_a_program_without_a_host_fails_after_a_while(program: ProgramCalls) -> None:
    program.push()
    id = program.deploy()
    assert program.shown(id)["state"] == "releasing"
    with program.app.app_context(), jobs.transaction():
        fail_silent(now() + timedelta(hours=2))
        fail_unstarted(now())
    assert program.shown(id)["state"] == "releasing"
    with program.app.app_context(), jobs.transaction():
        fail_unstarted(now() + timedelta(hours=2))
    assert "Nobody started its process" in program.shown(id)["error"]
