"""Large files: sent in parts that resume, stored in chunks that versions share, read back as they were."""

import random
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session as OrmSession

from models.core.settings import Settings
from models.projects import Blob, Manifest, PartUpload
from models.projects.snapshots import blob_garbage
from models.projects.snapshots.manifest_text import Entry, write_text
from models.projects.storage_proof import prove_account
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, sha

pytestmark = pytest.mark.usefixtures("proved")
PART = 16 << 20
NINE = random.Random(1).randbytes(9 << 20)
"""Nine megabytes: a large file that one request may have."""


def send(api: ProjectsApi, data: bytes, *, part: int = PART, parts: int = 99, hash: str = "") -> Any:
    """Send a file from where the server says, at most so many parts; the last answer."""
    path = f"/blobs/parts/{hash or sha(data)}"
    at, answer = api("get", path)[1]["received"], None
    for _ in range(parts):
        answer = api.raw("put", f"{path}?offset={at}&size={len(data)}", data[at : at + part])
        if answer.status_code != 200 or answer.json["complete"]:
            break
        at = answer.json["received"]
    return answer


def chunks(session: OrmSession) -> set[str]:
    session.rollback()
    return set(session.scalars(select(Blob.sha256).where(Blob.codec != "chunks")))


def push_file(api: ProjectsApi, data: bytes) -> None:
    entry = Entry("big.bin", "file", 420, sha(data), len(data))
    api.push(api.project(), api.manifest(write_text([entry], "typed")))


def days_pass(session: OrmSession, days: int = 2) -> None:
    for table, column in (
        (Blob, Blob.used_at),
        (Manifest, Manifest.used_at),
        (PartUpload, PartUpload.updated_at),
    ):
        session.execute(update(table).values({column: column - func.make_interval(0, 0, 0, days)}))
    session.commit()


def collect(session: OrmSession, person: Person) -> None:
    blob_garbage.collect(person.id, dry_run=False)
    session.commit()


def test_sixty_megabytes_come_back_and_a_byte_more_stores_little(
    session: OrmSession, mine: ProjectsApi
) -> None:
    data = random.Random(2).randbytes(60 << 20)
    assert send(mine, data).status_code == 201
    before = chunks(session)
    assert len(before) > 30
    longer = data[: 30 << 20] + b"!" + data[30 << 20 :]
    assert send(mine, longer).status_code == 201
    assert len(chunks(session) - before) <= 3
    for each in (data, longer):
        got = mine.raw("get", f"/blobs/download/{sha(each)}")
        assert int(got.headers["Content-Length"]) == len(each)
        assert got.data == each
    assert session.scalars(select(PartUpload)).all() == []
    # one request never holds a file of this size
    body = {"hashes": [sha(data)]}
    assert mine.client.post("/v1/blobs/batch-download", json=body, headers=mine.headers).data == b""
    stored = mine("get", "/blobs/stats")[1]["blobs"]["bytes"]
    assert len(data) < stored < len(data) + (16 << 20)


def test_a_client_goes_on_where_another_was_killed(session: OrmSession, mine: ProjectsApi) -> None:
    for parts in (1, 1, 2):
        assert send(mine, NINE, part=2 << 20, parts=parts).status_code == 200
    assert mine("get", f"/blobs/parts/{sha(NINE)}")[1] == {"received": 8 << 20, "complete": False}
    assert send(mine, NINE).status_code == 201
    assert mine("get", f"/blobs/parts/{sha(NINE)}")[1] == {"received": len(NINE), "complete": True}
    # the answer to the last part was lost
    last = mine.raw("put", f"/blobs/parts/{sha(NINE)}?offset={8 << 20}&size={len(NINE)}", NINE[8 << 20 :])
    assert (last.status_code, last.json["complete"]) == (200, True)
    assert mine.raw("get", f"/blobs/download/{sha(NINE)}").data == NINE
    # parts of any size make the same chunks
    assert not mine.raw("put", f"/blobs/upload/{sha(NINE)}", NINE).json["created"]
    before = chunks(session)
    mine.blob(NINE + b"!")
    assert len(chunks(session) - before) == 1


def test_a_part_that_begins_elsewhere_is_409(mine: ProjectsApi) -> None:
    send(mine, NINE, part=2 << 20, parts=1)
    for offset in (0, 1, 4 << 20):
        answer = mine.raw("put", f"/blobs/parts/{sha(NINE)}?offset={offset}&size={len(NINE)}", b"x")
        assert (answer.status_code, answer.json["error"]["code"]) == (409, "OTHER_PART")
        assert answer.json["error"]["details"] == {"received": 2 << 20}
    # another size is another file
    answer = mine.raw("put", f"/blobs/parts/{sha(NINE)}?offset=0&size=7", b"x")
    assert (answer.status_code, answer.json["received"]) == (200, 1)


def test_parts_with_another_hash_are_400_and_can_be_sent_again(
    session: OrmSession, mine: ProjectsApi
) -> None:
    wrong = NINE[:-1] + b"?"
    answer = send(mine, wrong, hash=sha(NINE))
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "HASH_MISMATCH")
    assert mine.raw("get", f"/blobs/download/{sha(NINE)}").status_code == 404
    assert send(mine, NINE).status_code == 201


@pytest.mark.parametrize(
    "query",
    ["", "offset=0", "size=5", "offset=-1&size=5", "offset=0&size=x", "offset=4&size=5", "offset=0&size=0"],
)
def test_wrong_parts_are_422(mine: ProjectsApi, query: str) -> None:
    answer = mine.raw("put", f"/blobs/parts/{sha('hello')}?{query}", b"hello")
    assert (answer.status_code, answer.json["error"]["code"]) == (422, "VALIDATION_ERROR")
    for hash in ("x", "%00", sha("x").upper()):
        assert mine.raw("put", f"/blobs/parts/{hash}?offset=0&size=5", b"hello").status_code == 422
        assert mine("get", f"/blobs/parts/{hash}")[1] == {"received": 0, "complete": False}


def test_a_file_has_a_greatest_size(
    app: Flask, mine: ProjectsApi, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"stoa_project_file_bytes": 1000, "stoa_project_bytes_per_account": 10}
    monkeypatch.setitem(app.extensions, "settings", settings.model_copy(update=changes))
    for size, code in ((1001, "PAYLOAD_TOO_LARGE"), (1000, "QUOTA_EXCEEDED")):
        data = bytes(size)
        answer = mine.raw("put", f"/blobs/parts/{sha(data)}?offset=0&size={size}", data)
        assert (answer.status_code, answer.json["error"]["code"]) == (413, code)


def test_parts_belong_to_an_account(client: FlaskClient, mine: ProjectsApi, mallory: Person) -> None:
    send(mine, NINE, part=2 << 20, parts=1)
    theirs = ProjectsApi(client, mallory)
    assert theirs("get", f"/blobs/parts/{sha(NINE)}")[1]["received"] == 0
    send(mine, NINE)
    assert theirs.raw("get", f"/blobs/download/{sha(NINE)}").status_code == 404
    anonymous = client.put(f"/v1/blobs/parts/{sha(NINE)}?offset=0&size=5", data=b"hello")
    assert anonymous.status_code == 401


def test_a_file_of_some_megabytes_shares_chunks_with_its_next_version(
    session: OrmSession, mine: ProjectsApi
) -> None:
    mine.blob(NINE)
    before = chunks(session)
    longer = NINE[:5_000_000] + b"!" + NINE[5_000_000:]
    mine.blob(longer)
    assert len(chunks(session) - before) <= 3
    body = {"hashes": [sha(longer), sha(NINE)]}
    got = mine.client.post("/v1/blobs/batch-download", json=body, headers=mine.headers).data
    assert NINE in got or longer in got


def test_garbage_leaves_the_chunks_of_what_is_named(
    session: OrmSession, mine: ProjectsApi, alice: Person
) -> None:
    longer = NINE[:5_000_000] + b"!" + NINE[5_000_000:]
    mine.blob(NINE)
    mine.blob(longer)
    push_file(mine, NINE)
    days_pass(session)
    collect(session, alice)
    assert mine.raw("get", f"/blobs/download/{sha(longer)}").status_code == 404
    assert mine.raw("get", f"/blobs/download/{sha(NINE)}").data == NINE
    assert mine("get", "/blobs/stats")[1]["blobs"]["bytes"] == len(NINE)


def test_garbage_leaves_files_that_are_used_or_being_sent(
    session: OrmSession, mine: ProjectsApi, alice: Person
) -> None:
    other = NINE[::-1]
    mine.blob(NINE)
    send(mine, other, part=3 << 20, parts=2)
    days_pass(session)
    session.execute(update(PartUpload).values(updated_at=func.now()))
    session.commit()
    # only the file is asked for, not its chunks
    assert mine("post", "/blobs/missing", {"hashes": [sha(NINE)]})[1]["missing"] == []
    collect(session, alice)
    assert mine.raw("get", f"/blobs/download/{sha(NINE)}").data == NINE
    assert send(mine, other).status_code == 201
    assert mine.raw("get", f"/blobs/download/{sha(other)}").data == other


def test_garbage_takes_files_that_nothing_names_with_their_chunks(
    session: OrmSession, mine: ProjectsApi, alice: Person
) -> None:
    mine.blob(NINE)
    send(mine, NINE[::-1], part=3 << 20, parts=2)
    days_pass(session)
    dry = mine("post", "/blobs/gc", {})[1]
    assert dry["orphanedBlobs"] == dry["scannedBlobs"] - len(session.scalars(select(PartUpload)).one().chunks)
    collect(session, alice)
    assert (chunks(session), session.scalars(select(PartUpload)).all()) == (set(), [])
    assert mine("get", "/blobs/stats")[1]["total"]["bytes"] == 0


def test_part_of_a_collection_never_takes_a_chunk_of_a_file_that_stays(
    session: OrmSession, mine: ProjectsApi, alice: Person
) -> None:
    mine.blob(NINE)
    mine.blob(NINE[::-1])
    for _ in range(30):
        days_pass(session)
        blob_garbage.collect(alice.id, dry_run=False, most=1)
        session.commit()
        for each in (NINE, NINE[::-1]):
            assert mine.raw("get", f"/blobs/download/{sha(each)}").status_code in (200, 404)
    assert chunks(session) == set()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE blob SET chunks = chunks[2:] WHERE codec = 'chunks'",
        "UPDATE blob SET size = size + 1 WHERE codec = 'chunks'",
        "DELETE FROM blob WHERE sha256 = (SELECT chunks[2] FROM blob WHERE codec = 'chunks')",
    ],
)
def test_the_proof_reads_large_files(
    session: OrmSession, mine: ProjectsApi, alice: Person, change: str
) -> None:
    mine.blob(NINE)
    push_file(mine, NINE)
    assert prove_account(alice.id)[1] == []
    session.execute(text(change))
    problems = prove_account(alice.id)[1]
    assert any(sha(NINE) in each for each in problems), problems
    session.rollback()
