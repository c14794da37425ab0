"""Remote avatars: fetched once, re-encoded and served locally; not shown until then or on failure."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession

from models.core import jobs
from models.core.db import db
from models.core.files import Files, files
from models.core.safe_fetch import FetchPolicy, is_public
from models.core.settings import Settings
from models.store import Publisher, RemotePicture, publishers
from models.store.catalogue import pictures, remote_pictures
from tests import factories
from tests.factories import Person, now
from tests.fakes.pictures import HOST, Pictures, pictures_server

PAGES = ("/store", "/publishers/acme", "/publishers/acme/agents/reviewer/1.0.0")
Transaction = Callable[[], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pictures]:
    with pictures_server(tmp_path_factory.mktemp("tls")) as made:
        yield made


@pytest.fixture
def storage(settings: Settings) -> Files:
    return files(settings)


@pytest.fixture
def transaction(app: Flask) -> Transaction:
    @contextmanager
    def begin() -> Iterator[None]:
        with app.app_context():
            yield
            db.session.commit()

    return begin


@pytest.fixture
def guard(server: Pictures) -> FetchPolicy:
    return FetchPolicy(
        lambda host, port: ["127.0.0.1"] if host == HOST else ["10.0.0.1"],
        lambda address: address == "127.0.0.1" or is_public(address),
        server.context,
    )


def drawn(color: str = "red", format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), color).save(buffer, format)
    return buffer.getvalue()


def publish(session: OrmSession, alice: Person, avatar_url: str | None, id: str = "acme") -> Publisher:
    assert alice.user is not None
    made = factories.publisher(alice.user, id, avatar_url=avatar_url)
    factories.agent(made)
    return made


def images(client: FlaskClient, path: str) -> set[str]:
    page = client.get(path)
    assert page.status_code == 200
    return set(re.findall(r'<img[^>]+src="([^"]+)"', page.text))


def test_it_is_fetched_once_and_shown_from_here(
    server: Pictures, guard: FetchPolicy, storage: Files, transaction: Transaction, session: OrmSession,
    alice: Person, client: FlaskClient,
) -> None:  # fmt: skip
    address = server.serve("/me.png", drawn())
    publish(session, alice, address)
    publish(session, alice, address, "again")
    for path in PAGES:
        assert images(client, path) == set(), path
    server.requests.clear()
    assert remote_pictures.fetch_due(transaction, storage, now(), guard=guard) == 1
    assert remote_pictures.fetch_due(transaction, storage, now(), guard=guard) == 0
    assert [path for path, _ in server.requests] == ["/me.png"]
    row = session.scalars(select(RemotePicture)).one()
    assert (row.tries, row.problem) == (1, None)
    assert pictures.ADDRESS.fullmatch(row.picture or "")
    for path in (*PAGES, "/publishers/again"):
        assert images(client, path) == {row.picture}, path
    assert client.get(row.picture or "").mimetype == "image/webp"
    for path in ("/publishers", "/publishers/acme/edit"):
        assert images(alice.browser, path) == {row.picture}, path
    assert f'og:image" content="http://localhost:8000{row.picture}"' in client.get("/publishers/acme").text
    # the compatible API returns the original URL
    assert client.get("/api/agents").get_json()[0]["publisher"]["avatar_url"] == address
    mine = alice.browser.get("/api/publishers").get_json()
    assert [each["avatar_url"] for each in mine] == [address, address]


def test_another_address_is_another_picture(
    server: Pictures, guard: FetchPolicy, storage: Files, transaction: Transaction, session: OrmSession,
    alice: Person, client: FlaskClient,
) -> None:  # fmt: skip
    publish(session, alice, server.serve("/a.png", drawn("red")))
    remote_pictures.fetch_due(transaction, storage, now(), guard=guard)
    (first,) = images(client, "/publishers/acme")
    changed = alice.browser.patch(
        "/api/publishers/acme", json={"avatar_url": server.serve("/b.png", drawn("blue"))}
    )
    assert changed.status_code == 200
    for path in PAGES:
        assert images(client, path) == set(), "what was fetched from another address is not shown"
    remote_pictures.fetch_due(transaction, storage, now(), guard=guard)
    (second,) = images(client, "/publishers/acme")
    assert second != first


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<svg onload=alert(1)>", "not a complete JPEG, PNG or WebP"),
        (b"", "not a complete JPEG, PNG or WebP"),
        (b"x" * (pictures.MAX_BYTES + 1), "larger than"),
    ],
)
def test_what_is_no_picture_is_not_shown(
    server: Pictures, guard: FetchPolicy, storage: Files, transaction: Transaction, session: OrmSession,
    alice: Person, client: FlaskClient, body: bytes, says: str,
) -> None:  # fmt: skip
    publish(session, alice, server.serve("/fake.png", body, Content_Type="image/png"))
    assert remote_pictures.fetch_due(transaction, storage, now(), guard=guard) == 1
    row = session.scalars(select(RemotePicture)).one()
    assert row.picture is None
    assert says in (row.problem or "")
    assert images(client, "/publishers/acme") == set()


@pytest.mark.parametrize(
    "address",
    [
        "https://inside.example/a.png",
        "https://169.254.169.254/latest",
        "https://x y/",
        "https://u:p@pictures.example/",
    ],
)
def test_forbidden_addresses_are_given_up_after_three_attempts(
    server: Pictures, guard: FetchPolicy, storage: Files, transaction: Transaction, session: OrmSession, alice: Person, address: str
) -> None:  # fmt: skip
    publish(session, alice, address)
    moment = now()
    hours = [0, 0.9, 1.1, 20, 25.5, 26, 1000]
    tried = [
        remote_pictures.fetch_due(transaction, storage, moment + timedelta(hours=hour), guard=guard)
        for hour in hours
    ]
    assert tried == [1, 0, 1, 0, 1, 0, 0]
    row = session.scalars(select(RemotePicture)).one()
    assert row.tries == 3
    assert (row.problem or "").startswith("Not fetched: ")


@pytest.mark.parametrize(
    "address", [None, "/uploads/avatars/x.webp", "http://pictures.example/a.png", "not one", ""]
)
def test_only_https_addresses_are_asked(
    guard: FetchPolicy, storage: Files, transaction: Transaction, session: OrmSession, alice: Person, address: str | None
) -> None:  # fmt: skip
    publish(session, alice, address)
    assert remote_pictures.fetch_due(transaction, storage, now(), guard=guard) == 0


def test_a_slow_server_does_not_block_other_pictures(
    server: Pictures, guard: FetchPolicy, storage: Files, transaction: Transaction, session: OrmSession, alice: Person
) -> None:  # fmt: skip
    for number in range(3):
        publish(session, alice, f"https://inside.example/{number}.png", f"bad-{number}")
    publish(session, alice, server.serve("/good.png", drawn()), "good")
    assert remote_pictures.fetch_due(transaction, storage, now(), guard=guard) == 4
    assert (
        len(session.scalars(select(RemotePicture.picture).where(RemotePicture.picture.is_not(None))).all())
        == 1
    )


def test_an_address_is_claimed_by_one_worker(
    server: Pictures, storage: Files, transaction: Transaction, session: OrmSession, alice: Person
) -> None:  # fmt: skip
    address = server.serve("/claimed.png", drawn())
    publish(session, alice, address)
    beside: list[int] = []

    def resolve(host: str, port: int) -> list[str]:
        beside.append(remote_pictures.fetch_due(transaction, storage, now()))
        return ["127.0.0.1"]

    watched = FetchPolicy(resolve, lambda _: True, server.context)
    assert remote_pictures.fetch_due(transaction, storage, now(), guard=watched) == 1
    assert beside == [0]


def test_unused_addresses_are_deleted(
    server: Pictures, guard: FetchPolicy, storage: Files, transaction: Transaction, session: OrmSession, alice: Person
) -> None:  # fmt: skip
    harbor = publish(session, alice, server.serve("/night.png", drawn("green")))
    remote_pictures.fetch_due(transaction, storage, now(), guard=guard)
    picture = session.scalars(select(RemotePicture.picture)).one()
    assert publishers.pictures_in_use([picture or ""]) == {picture}
    later = now() + timedelta(days=2)
    remote_pictures.delete_unused(later)
    assert session.scalars(select(RemotePicture.picture)).all() == [picture]
    harbor.avatar_url = None
    session.flush()
    remote_pictures.delete_unused(now())
    assert session.scalars(select(RemotePicture.picture)).all() == [picture]
    remote_pictures.delete_unused(later)
    assert session.scalars(select(RemotePicture.picture)).all() == []
    assert publishers.pictures_in_use([picture or ""]) == set()


@pytest.mark.parametrize("requested", [True, False])
def test_a_setting_disables_fetching(
    settings: Settings, session: OrmSession, alice: Person, monkeypatch: pytest.MonkeyPatch, requested: bool
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(remote_pictures, "fetch_due", lambda *args: asked.append(args))
    own = settings.model_copy(update={"stoa_remote_avatars": requested})
    monkeypatch.setattr(jobs, "get_settings", lambda: own)
    jobs.fetch_pictures(0)
    assert len(asked) == requested


def test_no_page_loads_from_another_server(app: Flask, client: FlaskClient, session: OrmSession) -> None:
    for path in ("/", "/store", "/login", "/docs/api", "/no-such-page"):
        policy = client.get(path).headers["Content-Security-Policy"]
        (sources,) = re.findall(r"img-src ([^;]+)", policy)
        assert sources == "'self' data:", path


def test_a_fetched_picture_is_shown_at_once(session: OrmSession, alice: Person, client: FlaskClient) -> None:
    """It changes the store version, so that no worker keeps showing initials."""
    publish(session, alice, "https://pictures.example/a.png")
    assert images(client, "/store") == set()
    picture = f"/uploads/avatars/{'a' * 64}.webp"
    session.execute(
        text(
            "INSERT INTO remote_picture (address, picture) VALUES ('https://pictures.example/a.png', :picture)"
        ),
        {"picture": picture},
    )
    session.commit()
    assert images(client, "/store") == {picture}
