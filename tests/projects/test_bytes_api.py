"""Blobs and manifests: one at a time and in batches, byte for byte, within limits."""

import gzip
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session as OrmSession

from models.core.settings import Settings
from models.projects import Blob, Manifest, Pack, Tree
from models.projects.snapshots.directory_tree import build
from models.projects.snapshots.manifest_store import manifest_entries
from models.projects.snapshots.manifest_text import Entry, read_entries, write_text
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, indented, sha, typed

HELLO = sha("hello")
pytestmark = pytest.mark.usefixtures("proved")


@pytest.mark.parametrize("data", [b"", b"hello", b"\0\xff\r\n" * 9, b"x" * 100_000, bytes(range(256)) * 40])
def test_a_blob_comes_back_as_it_was_sent(mine: ProjectsApi, data: bytes) -> None:
    path = f"/blobs/upload/{sha(data)}"
    for status, created in ((201, True), (200, False)):
        answer = mine.raw("put", path, data)
        assert (answer.status_code, answer.json) == (
            status,
            {"hash": sha(data), "size": len(data), "created": created},
        )
    got = mine.raw("get", f"/blobs/download/{sha(data)}")
    assert (got.data, got.mimetype) == (data, "application/octet-stream")
    assert got.headers["Content-Length"] == str(len(data))
    assert got.headers["Cache-Control"] == "private, max-age=31536000, immutable"


def test_a_compressed_body_is_the_blob_that_it_holds(mine: ProjectsApi) -> None:
    answer = mine.client.put(
        f"/v1/blobs/upload/{HELLO}",
        data=gzip.compress(b"hello"),
        headers={**mine.headers, "Content-Encoding": "gzip"},
    )
    assert (answer.status_code, answer.json["size"]) == (201, 5)


@pytest.mark.parametrize("hash", [sha("other"), HELLO.upper(), "x", HELLO[:-1], "%00"])
@pytest.mark.parametrize("kind", ["upload", "manifests"])
def test_bytes_with_another_hash_are_400(
    session: OrmSession, mine: ProjectsApi, kind: str, hash: str
) -> None:
    answer = mine.raw("put", f"/blobs/{kind}/{hash}", b"hello")
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "HASH_MISMATCH")
    assert session.scalar(select(func.count()).select_from(Pack)) == 0


def test_too_many_bytes_are_413(session: OrmSession, mine: ProjectsApi) -> None:
    data = bytes((25 << 20) + 1)
    for kind in ("upload", "manifests"):
        answer = mine.raw("put", f"/blobs/{kind}/{sha(data)}", data)
        assert (answer.status_code, answer.json["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert session.scalar(select(func.count()).select_from(Blob)) == 0


def test_an_account_has_a_quota(
    app: Flask, mine: ProjectsApi, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = settings.model_copy(update={"stoa_project_bytes_per_account": 300})
    monkeypatch.setitem(app.extensions, "settings", few)
    mine.blob("x" * 200)
    data = b"y" * 101
    for path in (f"/blobs/upload/{sha(data)}", f"/blobs/manifests/{sha(data)}"):
        answer = mine.raw("put", path, data)
        assert (answer.status_code, answer.json["error"]["code"]) == (413, "QUOTA_EXCEEDED")
    mine.blob("x" * 200)


def test_the_first_hundred_hashes_are_looked_at(mine: ProjectsApi) -> None:
    mine.blob("hello")
    hashes = [HELLO, *(f"{number:064x}" for number in range(200))]
    status, body = mine("post", "/blobs/exists", {"hashes": hashes})
    assert (status, body["existing"], body["checked"], len(body["missing"])) == (200, [HELLO], 100, 99)
    status, body = mine("post", "/blobs/presign-upload", {"hashes": hashes})
    assert len(body["urls"]) == 100
    assert body["urls"][HELLO] == f"/v1/blobs/upload/{HELLO}"
    status, body = mine("post", "/blobs/presign-download", {"hashes": [HELLO]})
    assert body == {"urls": {HELLO: f"/v1/blobs/download/{HELLO}"}}
    assert mine("post", "/blobs/missing", {"hashes": hashes})[1]["missing"] == hashes[1:]


@pytest.mark.parametrize(
    "path", ["exists", "presign-upload", "presign-download", "missing", "batch-download"]
)
@pytest.mark.parametrize("body", [{}, {"hashes": "x"}, {"hashes": None}, []])
def test_hashes_must_be_a_list(mine: ProjectsApi, path: str, body: Any) -> None:
    status, answer = mine("post", f"/blobs/{path}", body)
    assert (status, answer["error"]["code"]) == (422, "VALIDATION_ERROR")


def test_bytes_belong_to_an_account(client: FlaskClient, mine: ProjectsApi, mallory: Person) -> None:
    mine.blob("hello")
    hash = mine.manifest(typed({"a": "hello"}))
    theirs = ProjectsApi(client, mallory)
    for path in (f"/blobs/download/{HELLO}", f"/blobs/manifests/{hash}"):
        assert theirs.raw("get", path).status_code == 404
    assert theirs("post", "/blobs/exists", {"hashes": [HELLO]})[1]["missing"] == [HELLO]
    assert theirs.raw("post", "/blobs/batch-download", b'{"hashes": ["%s"]}' % HELLO.encode()).data == b""


TEXTS = {
    "typed": (
        typed(
            {"a&b.txt": "hello", "d/e/f": "", "d/é<x>": "1"},
            Entry("d", "dir", 493),
            Entry("l", "symlink", target="d/e"),
        ),
        "typed",
    ),
    "empty": (typed({}), "typed"),
    "untyped": (
        write_text([Entry("z", "file", 420, HELLO, 5), Entry("a/b", "file", 420, sha(""), 0)], "untyped"),
        "untyped",
    ),
    "untyped, sorted otherwise": (
        indented([{"path": path, "hash": HELLO, "size": 5, "mode": 420} for path in ("a", "B")]),
        "raw",
    ),
    "with times": (
        indented(
            [{"type": "file", "path": "a", "hash": HELLO, "size": 5, "mode": 420, "mod_time": "2026-01-01"}]
        ),
        "raw",
    ),
    "on one line": (b'{"version":"1","files":[{"path":"a","hash":"%s","size":5}]}' % HELLO.encode(), "raw"),
    "with an empty line at its end": (typed({"a": "hello"}) + b"\n", "raw"),
}


@pytest.mark.parametrize(("text", "dialect"), TEXTS.values(), ids=TEXTS)
def test_a_manifest_comes_back_byte_for_byte(
    session: OrmSession, mine: ProjectsApi, alice: Person, text: bytes, dialect: str
) -> None:
    for status, created in ((201, True), (200, False)):
        answer = mine.raw("put", f"/blobs/manifests/{sha(text)}", text)
        assert (answer.status_code, answer.json) == (status, {"hash": sha(text), "created": created})
    got = mine.raw("get", f"/blobs/manifests/{sha(text)}")
    assert (got.data, got.mimetype) == (text, "application/json")
    row = session.get_one(Manifest, (alice.id, sha(text)))
    assert (row.dialect, row.bytes) == (dialect, len(text))
    assert len(manifest_entries(row)) == row.entries == text.count(b'"path"')


def test_hostile_manifests_are_422_and_leave_nothing(session: OrmSession, mine: ProjectsApi) -> None:
    files = [
        [{"path": "../a", "hash": HELLO, "size": 5, "mode": 420}],
        [{"path": "a", "hash": HELLO}, {"path": "a", "hash": HELLO}],
        [{"type": "symlink", "path": "a", "target": "/etc/passwd"}],
    ]
    for text in map(indented, files):
        answer = mine.raw("put", f"/blobs/manifests/{sha(text)}", text)
        assert (answer.status_code, answer.json["error"]["code"]) == (422, "MANIFEST_INVALID")
        assert "files[" in answer.json["error"]["message"] or "twice" in answer.json["error"]["message"]
    million = b'{"version":"1","files":[' + b'{"path":"a"},' * 1_000_000 + b"{}]}"
    assert mine.raw("put", f"/blobs/manifests/{sha(million)}", million).status_code == 413
    assert session.scalars(select(Tree)).all() == []


def test_snapshots_share_the_directories_that_did_not_change(session: OrmSession, mine: ProjectsApi) -> None:
    files = {f"{folder}/{name}": "1" for folder in "abc" for name in "xyz"}
    mine.tree(files)
    before = session.scalar(select(func.count()).select_from(Tree))
    mine.tree({**files, "b/x": "2"})
    # a, b and c are alike: one listing; then b and the root
    assert (before, session.scalar(select(func.count()).select_from(Tree))) == (2, 4)


def batch(*files: bytes) -> bytes:
    return b"".join(b"%s %d\n%s" % (sha(data).encode(), len(data), data) for data in files)


def test_a_batch_is_one_pack(session: OrmSession, mine: ProjectsApi) -> None:
    files = [b"", b"1", b"2\n" * 500, b"\0" * 9]
    mine.blob("1")
    answer = mine.raw("post", "/blobs/batch", batch(*files, b"1"))
    assert answer.json == {"stored": [sha(data) for data in files if data != b"1"], "existing": [sha("1")]}
    assert session.scalar(select(func.count()).select_from(Pack)) == 2
    wanted = [sha(data) for data in files] + ["0" * 64]
    got = mine("post", "/blobs/exists", {"hashes": wanted})[1]
    assert got["missing"] == ["0" * 64]
    answer = mine.client.post("/v1/blobs/batch-download", json={"hashes": wanted}, headers=mine.headers)
    parts = sorted(batch(data) for data in files)
    assert len(answer.data) == sum(map(len, parts))
    assert all(part in answer.data for part in parts)


@pytest.mark.parametrize(
    "body", [b"x", b"0" * 64, b"0" * 64 + b" 5\nabc", batch(b"1") + b"\n", HELLO.encode() + b" -1\n"]
)
def test_what_is_no_batch_is_422(session: OrmSession, mine: ProjectsApi, body: bytes) -> None:
    answer = mine.raw("post", "/blobs/batch", body)
    assert (answer.status_code, answer.json["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert session.scalars(select(Blob)).all() == []


def test_a_batch_with_a_wrong_hash_stores_nothing(session: OrmSession, mine: ProjectsApi) -> None:
    answer = mine.raw("post", "/blobs/batch", batch(b"1") + b"%s 1\n2" % HELLO.encode())
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "HASH_MISMATCH")
    assert session.scalars(select(Blob)).all() == []


def test_the_figures_count_files_and_manifests(mine: ProjectsApi) -> None:
    assert mine("get", "/blobs/stats")[1]["total"] == {"bytes": 0, "mb": 0.0}
    mine.blob("x" * 100_000)
    mine.blob("x" * 100_000)
    text = typed({"a": "x" * 100_000})
    mine.manifest(text)
    found = mine("get", "/blobs/stats")[1]
    assert found["blobs"] == {"count": 1, "bytes": 100_000, "mb": 0.1}
    assert found["manifests"] == {"count": 1, "bytes": len(text), "mb": 0.0}


def test_documents_of_workspaces_are_listed_and_read(mine: ProjectsApi) -> None:
    id = mine.project()
    for name in ("zeta", "main", "alpha", "bare"):
        workspace = mine.workspace(id, name)
        files = (
            {"README": "hello", "d/a.md": "# é", "x.py": "1", "LICENSE.md": "2"}
            if name != "bare"
            else {"x.py": "1"}
        )
        mine("post", f"/workspaces/{workspace}/current-manifest", {"manifest_hash": mine.tree(files)})
    body = mine("get", f"/projects/{id}/docs")[1]
    assert [each["workspace_name"] for each in body["workspaces"]] == ["main", "alpha", "zeta"]
    first = body["workspaces"][0]
    assert [each["path"] for each in first["files"]] == ["LICENSE.md", "README", "d/a.md"]
    assert body["total_files"] == 9
    path = f"/projects/{id}/docs/content?workspace={first['workspace_id']}&path="
    read = mine("get", f"{path}d/a.md")[1]
    assert (read["content"], read["size"], read["workspace_name"]) == ("# é", 4, "main")
    assert mine("get", f"{path}nothing.md")[0] == 404
    assert mine("get", path)[0] == 422
    assert mine("get", f"/projects/{id}/docs/content?workspace=x&path=README")[0] == 404


def test_a_hash_of_unknown_case_does_not_touch_the_time_of_use(
    session: OrmSession, mine: ProjectsApi
) -> None:
    mine.blob("hello")
    session.execute(update(Blob).values(used_at=func.now() - func.make_interval(0, 0, 0, 2)))
    session.commit()
    before = session.scalar(select(Blob.used_at))
    mine("post", "/blobs/exists", {"hashes": [HELLO.upper()]})
    session.rollback()
    assert session.scalar(select(Blob.used_at)) == before
    mine("post", "/blobs/exists", {"hashes": [HELLO]})
    session.rollback()
    after = session.scalar(select(Blob.used_at))
    assert before is not None
    assert after is not None
    assert after > before


OLD = {"a": "1", "src/b": "2", "src/deep/c": "3", "z/d": "4"}


@pytest.mark.parametrize(
    ("new", "more"),
    [
        ({**OLD, "a": "5"}, ()),
        ({**OLD, "src/deep/e": "6", "new/f": "7"}, ()),
        ({"a": "1"}, ()),
        ({"a/below": "1", "src": "2"}, ()),
        ({**OLD, "é & <b>": "8"}, (Entry("link", "symlink", target="src/b"), Entry("empty", "dir", 0o755))),
        ({}, ()),
        (OLD, ()),
    ],
)
def test_a_manifest_is_stored_as_what_changed_in_another(
    session: OrmSession, mine: ProjectsApi, new: dict[str, str], more: tuple[Entry, ...]
) -> None:
    for text in {*OLD.values(), *new.values()}:
        mine.blob(text)
    base, text = mine.manifest(typed(OLD)), typed(new, *more)
    sent = {
        "base": base,
        "files": [
            {"type": "file", "path": path, "hash": sha(each), "size": len(each), "mode": 420}
            for path, each in new.items()
            if OLD.get(path) != each
        ],
        "deleted": [path for path in OLD if path not in new],
    }
    sent["files"] += [
        {
            "type": each.kind,
            "path": each.path,
            **({"target": each.target} if each.target else {"mode": each.mode}),
        }
        for each in more
    ]
    for created in (text != typed(OLD), False):
        status, body = mine("post", f"/blobs/manifests/{sha(text)}/changes", sent)
        assert (status, body) == (201 if created else 200, {"hash": sha(text), "created": created})
    assert mine.raw("get", f"/blobs/manifests/{sha(text)}").data == text
    # as if it had been sent whole
    row = session.scalars(select(Manifest).where(Manifest.hash == sha(text))).one()
    root, listings = build(read_entries(text) or [])
    assert (row.tree_hash, row.entries, row.bytes) == (root, text.count(b'"path"'), len(text))
    assert set(listings) <= set(session.scalars(select(Tree.hash)))


FILE = {"path": "x", "hash": HELLO, "size": 5, "mode": 420}


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"base": sha("none")}, 422, "MANIFEST_NOT_FOUND"),
        ({"base": "\0"}, 400, "INVALID_JSON"),
        ({"base": None}, 422, "VALIDATION_ERROR"),
        ({"base": 7}, 422, "VALIDATION_ERROR"),
        ({"files": "all"}, 422, "VALIDATION_ERROR"),
        ({"files": [FILE] * 20_001}, 422, "VALIDATION_ERROR"),
        ({"files": [FILE, FILE]}, 422, "MANIFEST_INVALID"),
        ({"files": [FILE], "deleted": ["x"]}, 422, "MANIFEST_INVALID"),
        ({"files": [{**FILE, "path": "../x"}]}, 422, "MANIFEST_INVALID"),
        ({"files": [{**FILE, "path": "a/x"}]}, 422, "MANIFEST_INVALID"),
        ({"files": [{"path": "x", "type": "symlink", "target": "/etc"}]}, 422, "MANIFEST_INVALID"),
        ({"files": [7]}, 422, "MANIFEST_INVALID"),
        ({"deleted": [7]}, 422, "VALIDATION_ERROR"),
        ({"deleted": ["nothing/here", "../..", ""]}, 400, "HASH_MISMATCH"),
        ({"files": [FILE]}, 400, "HASH_MISMATCH"),
    ],
)
def test_changes_that_do_not_make_the_manifest_leave_nothing(
    session: OrmSession, mine: ProjectsApi, change: dict[str, Any], status: int, code: str
) -> None:
    base = mine.tree(OLD)
    count = select(func.count()).select_from(Manifest)
    answer = mine("post", f"/blobs/manifests/{sha('other')}/changes", {"base": base, **change})
    assert (answer[0], answer[1]["error"]["code"]) == (status, code)
    assert session.scalar(count) == 1


def test_changes_are_made_to_ones_own_canonical_manifests_alone(
    mine: ProjectsApi, client: FlaskClient, mallory: Person
) -> None:
    mine.blob("1")
    base, text = mine.manifest(typed({"a": "1"})), typed({})
    sent = {"base": base, "deleted": ["a"]}
    theirs = ProjectsApi(client, mallory)
    assert theirs("post", f"/blobs/manifests/{sha(text)}/changes", sent)[0] == 422
    own = mine.manifest(indented([{"path": "a", "hash": sha("1"), "size": 1, "mode": 420}]))
    refused = mine("post", f"/blobs/manifests/{sha(text)}/changes", {**sent, "base": own})
    assert (refused[0], refused[1]["error"]["code"]) == (422, "MANIFEST_NOT_FOUND")
    assert client.post(f"/v1/blobs/manifests/{sha(text)}/changes", json=sent).status_code == 401
