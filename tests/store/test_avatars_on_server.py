"""Avatars on the real server: a slow bucket does not block other requests of the same workers."""

import http.client
import io
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from flask import Flask
from PIL import Image
from sqlalchemy.orm import Session as OrmSession

from models.accounts import User
from models.store.catalogue import pictures
from tests import factories
from tests.factories import Person
from tests.fakes.bucket import Bucket, bucket
from tests.server import running

UPLOADS = 6


def ask(address: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=40)
    try:
        connection.request(method, path, body=body or None, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def form(colour: int) -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (900, 700), (colour, 0, 0)).save(picture, "PNG")
    head = b'--b\r\nContent-Disposition: form-data; name="avatar"; filename="a"\r\nContent-Type: image/png\r\n\r\n'
    return head + picture.getvalue() + b"\r\n--b--\r\n"


@pytest.fixture(scope="module")
def store() -> Iterator[Bucket]:
    with bucket() as store:
        yield store


@pytest.fixture(scope="module")
def address(
    app: Flask, postgres_url: str, store: Bucket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A server of one worker. Its log is checked when it ends."""
    files = {
        "STOA_FILES_URL": "s3://stoa",
        "S3_ENDPOINT": store.address,
        "S3_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "S3_SECRET_ACCESS_KEY": "secret-of-the-bucket",
    }
    with running(postgres_url, tmp_path_factory.mktemp("avatars"), workers=1, **files) as address:
        yield address


def test_a_rejected_picture_is_not_logged(address: str, session: OrmSession, alice: Person) -> None:
    token = factories.token(session.get_one(User, alice.id), type="web")
    headers = {
        "Content-Type": "multipart/form-data; boundary=b",
        "Cookie": f"next-auth.session-token={token}",
    }
    status, output = ask(address, "POST", "/api/upload/avatar", form(9).replace(b"IHDR", b"RHID"), **headers)
    assert status == 400
    assert pictures.UNREADABLE in output.decode()


def test_a_slow_bucket_does_not_block_other_requests(
    address: str, store: Bucket, session: OrmSession, alice: Person
) -> None:
    cookie = f"next-auth.session-token={factories.token(session.get_one(User, alice.id), type='web')}"
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Cookie": cookie}
    store.open.clear()
    answers: list[tuple[int, bytes]] = []

    def upload(number: int) -> None:
        answers.append(ask(address, "POST", "/api/upload/avatar", form(number * 40), **headers))

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(UPLOADS)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        assert ask(address, "GET", "/api/healthz")[0] == 200
        assert ask(address, "GET", "/readyz")[0] == 200
    assert answers == [], "the bucket has not answered yet"
    store.open.set()
    for thread in threads:
        thread.join()
    assert [status for status, _ in answers] == [200] * UPLOADS, answers
    assert len(store.objects) == UPLOADS
    path = next(iter(store.objects)).removeprefix("/stoa")
    assert ask(address, "GET", path) == (200, store.objects[f"/stoa{path}"])
