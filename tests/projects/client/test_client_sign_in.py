"""Sign-in by device, the stored token, syncs and drift by script, and servers that answer badly."""

import io
import json
import stat
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.factories import Person
from tests.projects.client.client_shell import URL, Shell, Wire, module
from views.web import client_archive

DEVICE = {
    "device_code": "d" * 32,
    "user_code": "ABCD-1234",
    "verification_uri": f"{URL}/device",
    "verification_uri_complete": f"{URL}/device?code=ABCD-1234",
    "expires_in": 900,
    "interval": 5,
}


def said(code: str) -> tuple[int, dict[str, str]]:
    return 400, {"error": code, "error_description": code}


@pytest.fixture
def computer(wire: Wire, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A computer on which nobody is signed in."""
    return Shell(tmp_path / "computer", capsys)


def test_login_waits_for_the_user_and_keeps_the_token(
    computer: Shell, wire: Wire, home: Path, alice: Person
) -> None:
    token = alice.headers["authorization"].partition(" ")[2]
    granted = {"access_token": token, "token_type": "Bearer", "user": {"id": "1", "email": "alice@x.test"}}
    wire.scripted["POST", "/v1/oauth/device"] = [(200, DEVICE)]
    wire.scripted["POST", "/v1/oauth/token"] = [
        said("authorization_pending"),
        said("slow_down"),
        (429, {}),
        (200, granted),
    ]
    text = computer.text("login")
    assert "ABCD-1234" in text
    assert "alice@x.test" in text
    assert token not in text
    place = home / "stoa" / "tokens.json"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    computer.put("a", "1")
    assert computer("init")["sent"]
    assert computer("logout")["signed_out"]
    assert json.loads(place.read_text()) == {}
    assert computer("sync", code=3)["error"]["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize("code", ["access_denied", "expired_token", "invalid_grant"])
def test_a_login_that_is_refused_ends(computer: Shell, wire: Wire, code: str) -> None:
    wire.scripted["POST", "/v1/oauth/device"] = [(200, DEVICE)]
    wire.scripted["POST", "/v1/oauth/token"] = [said("authorization_pending"), said(code)]
    assert computer("login", code=3)["error"]["code"] == code


def test_every_command_explains_itself(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = module("terminal")
    for name in terminal.COMMANDS:
        with pytest.raises(SystemExit) as ended:
            terminal.run([name, "--help"])
        text = capsys.readouterr().out
        assert ended.value.code == 0
        assert f"usage: stoa.pyz {name}" in text
        assert "--json" in text
        assert len(text.split("options:")[0].splitlines()) > 2, name
    with pytest.raises(SystemExit) as ended:
        terminal.run(["--help"])
    listed = capsys.readouterr().out
    assert [name for name in terminal.COMMANDS if f"    {name} " not in listed] == []
    for wrong in ([], ["clon"], ["status", "--nothing"], ["log", "--limit", "x"]):
        with pytest.raises(SystemExit) as ended:
            terminal.run(wrong)
        assert ended.value.code == 2


@pytest.mark.parametrize("url", ["x", "ftp://x", "http://", "http://a@b", "http://x:99999", "http://x y"])
def test_what_is_no_address_is_refused(computer: Shell, url: str) -> None:
    assert computer("login", "--url", url, code=2)["error"]["code"] == "USAGE"


def test_no_redirect_is_followed_with_the_key() -> None:
    handler = module("server_calls").no_redirects()
    request = urllib.request.Request(URL, headers={"Authorization": "Bearer x"})
    answer = handler.redirect_request(request, io.BytesIO(), 302, "", {}, "http://evil.test")
    assert answer is None


@pytest.mark.parametrize(
    ("status", "body", "code", "exit"),
    [
        (502, b"<html>", "UNREACHABLE", 5),
        (302, b"", "HTTP_302", 1),
        (401, b'{"error": {"code": "UNAUTHORIZED", "message": "No."}}', "UNAUTHORIZED", 3),
        (402, b"{}", "HTTP_402", 4),
        (500, b'{"error": "x"}', "x", 1),
        (404, b"[]", "HTTP_404", 1),
    ],
)
def test_every_refusal_has_a_code_and_an_exit_code(
    home: Path, status: int, body: bytes, code: str, exit: int
) -> None:
    calls = module("server_calls")
    error = calls.refusal(calls.Reply(status, {}, body))
    assert (error.code, error.exit_code) == (code, exit)


def test_what_may_pass_is_tried_again_but_nothing_is_done_twice(wire: Wire) -> None:
    server = module("server_calls").Server(URL, None)
    wire.scripted["GET", "/x"] = [(503, {}), (429, {}), (200, {"a": 1})]
    wire.scripted["POST", "/x"] = [(503, {}), (200, {"a": 1})]
    assert server.get("/x") == {"a": 1}
    with pytest.raises(module("failures").Unreachable):
        server.post("/x")
    assert server.post("/x", again=True) == {"a": 1}
    wire.scripted["POST", "/y"] = [(429, {}), (200, {"a": 1})]
    assert server.post("/y") == {"a": 1}


def test_a_wait_is_as_long_as_the_server_says_or_none(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = module("server_calls")
    waits: list[float] = []
    monkeypatch.setattr(calls.Server, "sleep", lambda self, seconds: waits.append(seconds))
    for after, expected in (("7", [7, 7, 7]), ("600", []), ("x", [1, 2, 4]), ("²", [1, 2, 4])):
        waits.clear()
        reply = calls.Reply(429, {"Retry-After": after}, b"{}")
        monkeypatch.setattr(calls.Server, "send", lambda *_, reply=reply: reply)
        with pytest.raises(module("failures").Refused):
            calls.Server(URL).post("/x")
        assert waits == expected


def test_text_of_the_server_does_not_steer_the_terminal(computer: Shell, wire: Wire) -> None:
    wire.scripted["POST", "/v1/oauth/device"] = [(400, {"error": {"code": "X", "message": "\x1b[2Jgone"}})]
    assert "\x1b" not in computer.text("login", code=1)


def preview(**more: Any) -> dict[str, Any]:
    return {
        "preview": {
            "id": "p1",
            "auto_actions": [{"path": "b", "action": "copy_from_main", "description": "As in main"}],
            "decisions_needed": [],
            "warnings": [{"path": "b", "line": 3, "message": "Look here", "kind": "removed_name_used"}],
            **more,
        }
    }


@pytest.fixture
def shop(shell: Shell) -> tuple[Shell, str]:
    shell.put("a", "1")
    made = shell("init")
    return shell, f"/v1/workspaces/{made['workspace_id']}"


def test_a_sync_merges_main_with_the_decisions(
    shop: tuple[Shell, str], wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell, workspace = shop
    conflicts = [{"path": each, "options": [], "conflict_reason": "Both."} for each in ("a", "c=d", "e")]
    conflicts[0]["options"] = [
        {"id": id, "resulting_content": text} for id, text in (("use_main", "x\n"), ("use_workspace", "y\n"))
    ]
    wire.scripted["POST", f"{workspace}/sync/prepare"] = [(200, preview(decisions_needed=conflicts))]
    wire.scripted["POST", f"{workspace}/sync/execute"] = [(200, {"success": True, "errors": []})]
    shown = shell.text("sync", "--dry-run")
    assert "e: needs a decision. Both." in shown
    assert "    -y\n    +x\n" in shown
    missing = shell("sync", "--decide", "a=main", code=1)["error"]
    assert (missing["code"], missing["details"]["missing"]) == ("MISSING_DECISIONS", ["c=d", "e"])
    bodies = []
    server = module("server_calls").Server
    json_of = server.json

    def recorded(self: Any, method: str, path: str, body: Any = None, **options: Any) -> Any:
        if path.endswith("/execute"):
            bodies.append(body)
        return json_of(self, method, path, body, **options)

    monkeypatch.setattr(server, "json", recorded)
    text = shell.put("../merged.txt", "both")
    said = shell.text("sync", "--take", "mine", "--decide", "c=d=main", "--decide", f"e=@{text}")
    assert "b:3: Look here" in said
    decisions = {"a": "use_workspace", "c=d": "use_main", "e": "custom"}
    assert bodies == [{"preview_id": "p1", "decisions": decisions, "custom_values": {"e": "both"}}]


def test_a_stale_preview_is_told(shop: tuple[Shell, str], wire: Wire) -> None:
    shell, workspace = shop
    wire.scripted["POST", f"{workspace}/sync/prepare"] = [(200, preview())]
    stale = {"error": {"code": "PREVIEW_STALE", "message": "A head moved."}}
    wire.scripted["POST", f"{workspace}/sync/execute"] = [(409, stale)]
    assert shell("sync", code=1)["error"]["code"] == "PREVIEW_STALE"


def test_drift_exits_with_1_if_there_is_any(shop: tuple[Shell, str], wire: Wire) -> None:
    shell, workspace = shop
    lists = {
        "source_only": ["n"],
        "workspace_only": [],
        "both_same": [],
        "both_different": ["a"],
        "risk_level": "medium",
    }
    source = {"id": "w", "name": "main"}
    wire.scripted["GET", f"{workspace}/drift/compare"] = [(200, {"drift": lists, "source_workspace": source})]
    text = shell.text("drift", code=1)
    assert "risk medium" in text
    assert "M  a" in text
    none: dict[str, Any] = {key: [] for key in ("source_only", "workspace_only", "both_different")}
    wire.scripted["GET", f"{workspace}/drift/compare"] = [(200, {"drift": {**none, "risk_level": "low"}})]
    shell("drift")
    wire.scripted["GET", f"{workspace}/drift/compare"] = [(200, {"drift": None, "is_main_workspace": True})]
    assert "main workspace" in shell.text("drift")


def test_what_the_server_sends_is_checked(home: Path) -> None:
    exchange, failure = module("project_exchange"), module("failures").Failure
    hash = "0" * 64
    for body in (b"x", b"%s 9\nx" % hash.encode(), b"%s 1\nx" % hash.encode()):
        with pytest.raises(failure):
            list(exchange.batch_parts(body))
    sent = {
        "id": hash,
        "manifest_hash": hash,
        "parent_snapshot_ids": [],
        "client_created_at": "2024-01-01T00:00:00Z",
        "created_at": "2024-01-01T00:00:00Z",
    }
    with pytest.raises(failure, match="not what its id says"):
        exchange.checked_record(sent)
    assert exchange.checked_record({**sent, "id": "snap-1"})["id"] == "snap-1"


def test_the_file_knows_its_server_and_is_the_same_each_time(client: FlaskClient) -> None:
    answer = client.get("/clients/stoa.pyz")
    assert (answer.status_code, answer.mimetype) == (200, "application/zip")
    assert answer.data.startswith(b"#!/usr/bin/env python3\n")
    tag = answer.headers["ETag"]
    assert client.get("/clients/stoa.pyz", headers={"If-None-Match": tag}).status_code == 304
    client_archive.client_archive.cache_clear()
    assert client.get("/clients/stoa.pyz").data == answer.data


@pytest.mark.parametrize("url", ['http://x/"; import os #', "http://x/\\", "http://x/\n\u2028"])
def test_a_hostile_address_stays_text(app: Flask, url: str) -> None:
    source = client_archive._filled(client_archive.UNFILLED, url, "1", "d")
    found: dict[str, Any] = {}
    exec(source, found)
    assert found["SERVED"] == {"url": url, "version": "1", "digest": "d"}
