"""Documents are stored once, copied, deleted and removed; exports and erasures have them."""

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session as OrmSession

from models import index
from models.accounts.account_deletion import account_erasing
from models.core.db import Base, db, now
from models.core.files import Files, files
from models.core.job_queue import transaction
from models.core.personal_export import export_files
from models.index import Chunk, Document, DocumentSource, IndexScope, SourceTerm, document_parsing, vectors
from models.index.document_parsing import embed_missing, parse_document
from models.index.document_purge import purge_documents
from models.index.documents import blob_path, plain_name
from models.orgs import Org, org_erased
from tests.factories import Person
from tests.index.conftest import Upload

pytestmark = pytest.mark.usefixtures("no_process")


@pytest.fixture
def storage(app: Flask) -> Files:
    return files(app.extensions["settings"])


def count(table: type[Base]) -> int:
    return db.session.scalar(select(func.count()).select_from(table)) or 0


def test_the_same_bytes_are_parsed_once_an_account(
    upload: Upload, bob: Person, session: OrmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = upload("a.txt", "copper")

    def unexpected(*_: Any) -> Any:
        raise AssertionError("parsed again")

    monkeypatch.setattr(document_parsing, "run_parser", unexpected)
    second = upload("b.txt", "copper", kind="thread", scope="t1")
    session.refresh(first)
    assert second.state == "ready"
    assert (second.source_id, second.report) == (first.source_id, first.report)
    assert upload("c.txt", "copper", account=bob.id, parse=False).state == "queued"


def test_waiting_copies_become_ready_together(upload: Upload, session: OrmSession) -> None:
    first, second = upload("a.txt", "copper", parse=False), upload("b.txt", "copper", parse=False)
    for document in (first, second, first):
        parse_document(transaction, document.id)
    assert first.state == second.state == "ready"
    assert count(DocumentSource) == 1


def test_a_parser_that_fails_leaves_the_reason(
    upload: Upload, session: OrmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = document_parsing.ParserOutput(notes=["Page 1 is a picture: no text."], parts=[""], unit="page")
    monkeypatch.setattr(document_parsing, "run_parser", lambda *_: output)
    document = upload("a.txt", "x")
    session.refresh(document)
    assert document.state == "failed"
    assert document.report["error"] == "Page 1 is a picture: no text. No text was found in this file."


def test_a_file_that_is_gone_fails(upload: Upload, session: OrmSession, storage: Files) -> None:
    document = upload("a.txt", "copper", parse=False)
    storage.remove(blob_path(document.sha256))
    parse_document(transaction, document.id)
    session.refresh(document)
    assert document.state == "failed"
    parse_document(transaction, document.id)
    parse_document(transaction, "file-unknown")


def test_copies_belong_to_the_new_scope(
    upload: Upload, alice: Person, bob: Person, session: OrmSession
) -> None:
    upload("a.txt", "copper", kind="thread", scope="t1")
    upload("b.txt", "zinc", kind="thread", scope="t1")
    source = IndexScope(alice.id, "thread", "t1")
    own, theirs = IndexScope(alice.id, "thread", "t2"), IndexScope(bob.id, "thread", "t3")
    assert len(index.copy_documents(source, own, alice.id)) == 2
    copies = index.copy_documents(source, theirs, bob.id)
    db.session.commit()
    assert [document.state for document in index.documents_of("thread", "t2")] == ["ready", "ready"]
    for id in copies.values():
        parse_document(transaction, id)
    assert [hit.name for hit in index.search([theirs], "copper").hits] == ["a.txt"]
    index.delete_scope("thread", "t1")
    db.session.commit()
    assert index.documents_of("thread", "t1") == []
    assert index.search([source], "copper").nothing_found
    assert index.search([theirs], "copper").hits
    assert index.copy_documents(source, own) == {}
    assert index.copy_documents(IndexScope(bob.id, "thread", "t2"), theirs) == {}


def test_the_purge_removes_what_was_deleted_a_week_ago(
    upload: Upload, session: OrmSession, storage: Files
) -> None:
    gone, kept = upload("a.txt", "copper"), upload("b.txt", "zinc")
    session.refresh(gone)
    index.delete_document(gone)
    db.session.commit()
    paths = [blob_path(each.sha256) for each in (gone, kept)]
    purge_documents(transaction, storage, now())
    assert count(Document) == 2
    purge_documents(transaction, storage, now() + timedelta(days=8))
    purge_documents(transaction, storage, now() + timedelta(days=8))
    assert [each.name for each in session.scalars(select(Document))] == ["b.txt"]
    assert (count(DocumentSource), count(Chunk), count(SourceTerm)) == (1, 1, 1)
    assert [storage.read(path) is None for path in paths] == [True, False]
    if vectors.vector_schema():
        assert session.execute(text("SELECT count(*) FROM chunk_vector")).scalar() == 1


def test_the_purge_keeps_bytes_that_another_document_has(
    upload: Upload, bob: Person, session: OrmSession, storage: Files
) -> None:
    gone = upload("a.txt", "copper")
    upload("b.txt", "copper", account=bob.id)
    session.refresh(gone)
    path = blob_path(gone.sha256)
    index.delete_document(gone)
    db.session.commit()
    purge_documents(transaction, storage, now() + timedelta(days=8))
    assert storage.read(path) == b"copper"
    assert count(DocumentSource) == 1


def test_the_purge_removes_files_whose_upload_was_rolled_back(
    upload: Upload, session: OrmSession, storage: Files
) -> None:
    path = blob_path(upload("a.txt", "copper", parse=False).sha256)
    session.execute(text("DELETE FROM document"))
    db.session.commit()
    purge_documents(transaction, storage, now())
    assert storage.read(path) is not None
    purge_documents(transaction, storage, now() + timedelta(days=2))
    assert storage.read(path) is None


def test_a_document_whose_job_was_lost_fails_after_a_day(
    upload: Upload, session: OrmSession, storage: Files
) -> None:
    document = upload("a.txt", "copper", parse=False)
    purge_documents(transaction, storage, now() + timedelta(days=2))
    session.refresh(document)
    assert (document.state, document.report["error"]) == (
        "failed",
        "This file could not be read: its job was lost. Upload it again.",
    )


def test_the_export_lists_them(upload: Upload, alice: Person, mallory: Person, session: OrmSession) -> None:
    upload("a.txt", "copper")
    upload("b.txt", "zinc", kind="thread", scope="t1")
    file = next(each for each in export_files() if each.name == "documents.csv")
    lines = "".join(file.chunks(alice.id)).splitlines()
    assert len(lines) == 3
    assert "a.txt" in lines[1] + lines[2]
    assert len("".join(file.chunks(mallory.id)).splitlines()) == 1


def test_erased_accounts_have_none(
    upload: Upload, mallory: Person, acme: Org, bob: Person, session: OrmSession
) -> None:
    upload("a.txt", "copper", account=mallory.id)
    upload("b.txt", "zinc", account=acme.id)
    upload("c.txt", "lead", account=bob.id)
    account_erasing.send(mallory.user, now=now())
    db.session.commit()
    assert {each.name for each in session.scalars(select(Document))} == {"b.txt", "c.txt"}
    org_erased.send(acme.id)
    db.session.commit()
    assert [each.name for each in session.scalars(select(Document))] == ["c.txt"]
    assert count(DocumentSource) == 1


def test_vectors_are_made_for_texts_that_lack_them(upload: Upload, session: OrmSession) -> None:
    if vectors.vector_schema() is None:
        pytest.skip("PostgreSQL has no pgvector")
    upload("a.txt", "copper")
    session.execute(text("DELETE FROM chunk_vector"))
    db.session.commit()
    embed_missing(transaction)
    embed_missing(transaction)
    assert session.execute(text("SELECT count(*) FROM chunk_vector")).scalar() == 1


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a.txt", "a.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\docs\\a.pdf", "a.pdf"),
        ("", "document"),
        ("..", "document"),
        ("a\x00\n\u2028b\ud800.txt", "ab.txt"),
        ("x" * 300 + ".pdf", "x" * 188 + "….pdf"),
        ("x" * 300, "x" * 200),
    ],
)
def test_names_are_plain(name: str, plain: str) -> None:
    assert plain_name(name) == plain
