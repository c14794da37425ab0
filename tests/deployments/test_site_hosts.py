"""Hosts of sites: the right file with the right type and headers, nothing of the console, and releases that no reader notices."""

import hashlib
import threading

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from models.core.db import now
from models.core.settings import SettingsError, load_settings
from models.projects import Workspace
from models.projects.snapshots import blob_packs
from tests.deployments.deployment_calls import INDEX, SITE, SiteCalls, fetch
from tests.factories import Person
from views.deployments.pages import site_host

PATHS = [
    ("/", 200, INDEX, "text/html; charset=utf-8"),
    ("/?a=1", 200, INDEX, "text/html; charset=utf-8"),
    ("/index.html", 200, INDEX, "text/html; charset=utf-8"),
    ("/about", 200, "<p>about", "text/html; charset=utf-8"),
    ("/docs/", 200, "<p>docs", "text/html; charset=utf-8"),
    ("/style.css", 200, "p{}", "text/css; charset=utf-8"),
    ("/p%C3%ADer.js", 200, "1", "text/javascript; charset=utf-8"),
    ("/a%20b.json", 200, "{}", "application/json; charset=utf-8"),
    ("/photo.webp", 200, "w", "image/webp"),
    ("/odd.zzz", 200, "z", "application/octet-stream"),
    ("/data.csv.gz", 200, "gz", "application/octet-stream"),
    ("/.well-known/security.txt", 200, "s", "text/plain; charset=utf-8"),
    ("/nothing", 404, "<p>lost", "text/html; charset=utf-8"),
    ("/.env", 404, "<p>lost", "text/html; charset=utf-8"),
    ("/.git/config", 404, "<p>lost", "text/html; charset=utf-8"),
    ("/docs/../index.html", 404, "<p>lost", "text/html; charset=utf-8"),
    ("//style.css", 404, "<p>lost", "text/html; charset=utf-8"),
    ("/style.css/", 404, "<p>lost", "text/html; charset=utf-8"),
    ("/" + "d/" * 300, 404, "<p>lost", "text/html; charset=utf-8"),
    ("/%00", 404, "There is nothing here.\n", "text/plain; charset=utf-8"),
]


def test_a_path_shows_the_file_that_stands_there(pier: SiteCalls) -> None:
    more = {"404.html": "<p>lost", "píer.js": "1", "a b.json": "{}", "photo.webp": "w", "odd.zzz": "z"}
    hidden = {".env": "SECRET=1", ".git/config": "x", ".well-known/security.txt": "s", "data.csv.gz": "gz"}
    host = pier.live(SITE | more | hidden)
    for path, status, body, kind in PATHS:
        answer = fetch(pier.client, host, path)
        assert (answer.status_code, answer.text, answer.headers["Content-Type"]) == (status, body, kind), path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in answer.headers
        head = fetch(pier.client, host, path, "HEAD")
        assert (head.status_code, head.data) == (status, b"")
        assert head.headers["Content-Length"] == str(len(body.encode()))


def test_a_folder_is_left_for_its_address_on_the_same_host(pier: SiteCalls) -> None:
    host = pier.live(SITE | {"evil.example/index.html": "e"})
    for path, target in (
        ("/docs", "/docs/"),
        ("/docs?q=1", "/docs/?q=1"),
        ("/evil.example", "/evil.example/"),
    ):
        answer = fetch(pier.client, host, path)
        assert (answer.status_code, answer.headers["Location"]) == (308, target)
    assert fetch(pier.client, host, "//evil.example").status_code == 404


def test_a_file_is_not_sent_again_and_comes_in_ranges(pier: SiteCalls) -> None:
    host = pier.live(SITE)
    tag = f'"{hashlib.sha256(INDEX.encode()).hexdigest()}"'
    first = fetch(pier.client, host)
    assert first.headers["ETag"] == tag
    assert fetch(pier.client, host, If_None_Match=tag).status_code == 304
    assert fetch(pier.client, host, If_None_Match='"other"').status_code == 200
    part = fetch(pier.client, host, Range="bytes=2-9")
    assert (part.status_code, part.text) == (206, INDEX[2:10])
    assert part.headers["Content-Range"] == f"bytes 2-9/{len(INDEX)}"
    assert fetch(pier.client, host, Range="bytes=-3").text == "one"
    assert fetch(pier.client, host, Range="bytes=2-9", If_Range='"other"').text == INDEX
    past = fetch(pier.client, host, Range="bytes=999-")
    assert (past.status_code, past.headers["Content-Range"]) == (416, f"bytes */{len(INDEX)}")
    assert fetch(pier.client, host, Range="bytes=0-1,3-4").text == INDEX


def test_a_large_file_is_read_from_any_byte(
    pier: SiteCalls, monkeypatch: pytest.MonkeyPatch, session: OrmSession
) -> None:
    monkeypatch.setattr(site_host, "MAX_BLOB", 10)
    monkeypatch.setattr(blob_packs, "LARGE", 1 << 20)
    data = b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(150_000)).hex()
    host = pier.live(SITE | {"big.txt": data})
    assert fetch(pier.client, host, "/big.txt").text == data
    for start, end in ((0, 9), (3_000_000, 3_000_010), (len(data) - 5, len(data) - 1)):
        part = fetch(pier.client, host, "/big.txt", Range=f"bytes={start}-{end}")
        assert (part.status_code, part.text) == (206, data[start : end + 1])


def test_sites_are_read_only(pier: SiteCalls) -> None:
    host = pier.live(SITE)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        answer = fetch(pier.client, host, "/", method)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_host_of_a_site_reaches_nothing_of_the_console_and_reads_no_cookie(
    pier: SiteCalls, alice: Person, session: OrmSession
) -> None:
    host = pier.live(SITE)
    name = host.partition(".")[0]
    for path in (
        "/projects",
        "/v1/projects",
        "/login",
        "/healthz",
        "/v1/chat/completions",
        "/static/css/base.css",
    ):
        answer = alice.browser.get(path, headers={"Host": host, **alice.headers})
        assert (answer.status_code, answer.text) == (404, "There is nothing here.\n")
        assert "Set-Cookie" not in answer.headers
    strange = (
        *(
            f"nothing.{host.partition('.')[2]}",
            host.partition(".")[2],
            f"{name}.{host}",
            f"{host}.evil.example",
        ),
        *(
            f"localhost,{host}",
            f"{name}..sites.localhost",
            f"%00.{host.partition('.')[2]}",
            "x" * 300 + "." + host,
        ),
    )
    for other in strange:
        for path in ("/", "/login"):
            answer = fetch(pier.client, other, path)
            assert (answer.status_code, answer.text) == (404, "There is nothing here.\n"), other
    for same in (host.upper(), host.partition(":")[0] + ".", host.partition(":")[0] + ":1"):
        assert fetch(pier.client, same).text == INDEX
    console = pier.client.get("/login", headers={"Host": "localhost", "X-Forwarded-Host": host})
    assert INDEX not in console.text
    assert console.status_code == 200


def test_a_deleted_project_a_suspended_owner_and_an_offline_site_show_nothing(
    pier: SiteCalls, alice: Person, session: OrmSession
) -> None:
    host = pier.live(SITE)
    assert alice.user
    alice.user.banned = True
    session.commit()
    assert fetch(pier.client, host).status_code == 404
    alice.user.banned = False
    session.commit()
    assert fetch(pier.client, host).status_code == 200
    workspace = session.get_one(Workspace, pier.workspace)
    workspace.deleted_at = now()
    session.commit()
    assert fetch(pier.client, host).status_code == 404
    workspace.deleted_at = None
    session.commit()
    assert fetch(pier.client, host).status_code == 200
    pier.api("delete", f"/projects/{pier.project}")
    assert fetch(pier.client, host).status_code == 404


def test_no_request_fails_while_releases_switch(app: Flask, pier: SiteCalls, session: OrmSession) -> None:
    first = pier.push(SITE)
    site = pier.deploy()
    pier.push(SITE | {"index.html": INDEX.replace("one", "two")}, [first])
    second = pier.deploy()
    host = site["url"].removeprefix("http://").removesuffix("/")
    ids, seen, failed = (site["deployment_id"], second["deployment_id"]), set(), []
    done = threading.Event()

    def read() -> None:
        client = app.test_client()
        while not done.is_set():
            answer = fetch(client, host)
            seen.add(answer.text)
            if answer.status_code != 200 or answer.text not in (INDEX, INDEX.replace("one", "two")):
                failed.append((answer.status_code, answer.text))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(20):
        status, body = pier.api("post", f"/infrastructure/deployments/{ids[number % 2]}/release")
        assert (status, body["deployment"]["state"]) == (200, "live")
        assert fetch(pier.client, host).text == (INDEX if number % 2 == 0 else INDEX.replace("one", "two"))
    done.set()
    for reader in readers:
        reader.join()
    assert failed == []
    assert len(seen) == 2


def test_lost_bytes_are_an_error_without_words_of_the_console(
    pier: SiteCalls, session: OrmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = pier.live(SITE)
    monkeypatch.setattr(site_host, "blob_bytes", lambda *_: None)
    answer = fetch(pier.client, host)
    assert (answer.status_code, answer.text) == (500, "This file is damaged.\n")


@pytest.mark.parametrize(
    ("base", "sites", "problem"),
    [
        ("https://stoa.example.org", "https://{name}.example.org", "would share the host"),
        ("https://stoa.example.org", "https://sites.example.org", "begins with {name}"),
        ("https://stoa.example.org", "{name}.sites.example.org", "begins with {name}"),
        ("https://stoa.example.org", "https://{name}.sites.example.org/x", "begins with {name}"),
        ("https://stoa.example.org", "https://a.{name}.org", "begins with {name}"),
        ("https://sites.example.net", "https://{name}.sites.example.net", "would share the host"),
    ],
)
def test_sites_have_another_host_than_the_console(base: str, sites: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem.replace("{", r"\{")):
        load_settings(stoa_base_url=base, stoa_sites_url=sites)


def test_sites_are_served_on_localhost_without_a_setting_and_nowhere_else() -> None:
    assert load_settings(port=8139).sites_url == "http://{name}.sites.localhost:8139"
    assert load_settings(stoa_base_url="https://stoa.example.org").sites_url == ""
    assert load_settings(stoa_sites_url="none").sites_url == ""
    mixed = load_settings(
        stoa_base_url="https://stoa.example.org", stoa_sites_url="https://{name}.sites.example.org"
    )
    assert any("share the domain example.org" in each for each in mixed.warnings())
    apart = load_settings(stoa_base_url="https://stoa.example.org", stoa_sites_url="https://{name}.pier.site")
    assert not any("STOA_SITES_URL" in each for each in apart.warnings())
