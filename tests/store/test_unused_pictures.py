"""Deletion of unused uploaded pictures; pictures in use are kept."""

import io
import os
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from PIL import Image
from sqlalchemy.orm import Session as OrmSession

from models.core import jobs
from models.core.db import now
from models.core.files import Files, FilesUnavailable, files
from models.core.settings import Settings, load_settings
from models.store import Publisher, publishers
from models.store.catalogue import pictures
from tests import factories
from tests.factories import Person
from tests.fakes.bucket import bucket
from tests.store.listings import post

DAY = timedelta(days=1)
LATER = timedelta(days=1, minutes=1)


@pytest.fixture
def store(tmp_path: Path) -> Files:
    return files(load_settings(_env_file=None, stoa_data_dir=tmp_path))


def stored(store: Files, colour: int = 9) -> str:
    """Store a picture and return its file name."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(picture, "PNG")
    return pictures.store(store, picture.getvalue()).rpartition("/")[2]


def address(name: str) -> str:
    return f"/{pictures.FOLDER}/{name}"


class Shown(set[str]):
    """The pictures in use, by name."""

    def __call__(self, addresses: Collection[str]) -> set[str]:
        return {each for each in addresses if each.rpartition("/")[2] in self}


def where(store: Files, name: str) -> str:
    folders = {"kept": pictures.FOLDER, "aside": pictures.UNUSED_FOLDER}
    return " ".join(word for word, folder in folders.items() if name in store.names(folder)) or "gone"


def test_an_unused_picture_is_deleted_after_two_nights(store: Files) -> None:
    name, shown = stored(store), Shown()
    pictures.delete_unused(store, shown, now() + DAY - timedelta(minutes=1))
    assert where(store, name) == "kept"
    pictures.delete_unused(store, shown, now() + LATER)
    assert where(store, name) == "aside"
    assert pictures.read(store, name), "it is still shown"
    pictures.delete_unused(store, shown, now() + DAY - timedelta(minutes=1))
    assert where(store, name) == "aside"
    pictures.delete_unused(store, shown, now() + LATER)
    assert where(store, name) == "gone"
    assert pictures.read(store, name) is None


def test_a_picture_in_use_is_kept(store: Files) -> None:
    name, other = stored(store), stored(store, 200)
    for _ in range(3):
        pictures.delete_unused(store, Shown([name]), now() + LATER)
    assert (where(store, name), where(store, other)) == ("kept", "gone")


def test_other_files_are_left_alone(store: Files) -> None:
    for folder in (pictures.FOLDER, pictures.UNUSED_FOLDER):
        store.write(f"{folder}/notes.txt", b"x")
    for _ in range(2):
        pictures.delete_unused(store, Shown(), now() + LATER)
    assert where(store, "notes.txt") == "kept aside"


def test_a_picture_used_while_it_is_moved_is_restored(store: Files) -> None:
    name, shown = stored(store), Shown()

    def used_too_late(addresses: Collection[str]) -> set[str]:
        nobody = shown(addresses)
        stored(store)
        shown.add(name)  # committed after the check
        return nobody

    pictures.delete_unused(store, used_too_late, now() + LATER)
    assert pictures.read(store, name)
    pictures.delete_unused(store, shown, now() + LATER)
    assert where(store, name) == "kept"


def test_a_picture_used_while_it_is_deleted_is_restored(store: Files) -> None:
    name, shown = stored(store), Shown()
    pictures.delete_unused(store, shown, now() + LATER)
    asked = 0

    def used_after_the_first_check(addresses: Collection[str]) -> set[str]:
        nonlocal asked
        asked += 1
        nobody = shown(addresses)
        shown.add(name)
        return nobody

    pictures.delete_unused(store, used_after_the_first_check, now() + LATER)
    assert asked == 2
    assert where(store, name) == "kept"


def test_uploading_an_unused_picture_again_keeps_it(store: Files) -> None:
    name, shown = stored(store), Shown()
    pictures.delete_unused(store, shown, now() + LATER)
    assert stored(store) == name
    shown.add(name)
    for _ in range(2):
        pictures.delete_unused(store, shown, now() + LATER)
    assert where(store, name) == "kept"


@pytest.mark.parametrize("dies", ["write", "remove"])
def test_an_interrupted_run_is_completed_by_the_next(
    store: Files, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    name, other, shown = stored(store), stored(store, 200), Shown()
    shown.add(other)
    with monkeypatch.context() as broken:

        def refuse(self: Files, *rest: object) -> None:
            raise FilesUnavailable("No.")

        broken.setattr(Files, dies, refuse)
        with pytest.raises(FilesUnavailable):
            pictures.delete_unused(store, shown, now() + LATER)
    assert pictures.read(store, name)
    for _ in range(3):
        pictures.delete_unused(store, shown, now() + LATER)
    assert (where(store, name), where(store, other)) == ("gone", "kept")


def test_a_bucket_is_cleaned_like_a_folder(tmp_path: Path) -> None:
    with bucket() as server:
        store = files(
            load_settings(
                _env_file=None,
                stoa_data_dir=tmp_path,
                stoa_files_url="s3://stoa/pictures",
                s3_endpoint=server.address,
                s3_access_key_id="AKIAEXAMPLE",
                s3_secret_access_key="secret-of-the-bucket",
            )
        )
        name, other = stored(store), stored(store, 200)
        moment = store.names(pictures.FOLDER)[name] + LATER
        pictures.delete_unused(store, Shown([other]), moment)
        assert (where(store, name), where(store, other)) == ("aside", "kept")
        pictures.delete_unused(store, Shown([other]), moment)
        assert list(server.objects) == [f"/stoa/pictures{address(other)}"]
        server.broken = True
        with pytest.raises(FilesUnavailable):
            pictures.delete_unused(store, Shown(), moment)
        with pytest.raises(FilesUnavailable):
            store.remove("uploads/avatars/none")


def test_the_job_asks_the_publishers(
    app: Flask, settings: Settings, session: OrmSession, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert alice.user is not None
    store = files(settings)
    mine, nobodys, fresh = stored(store, 1), stored(store, 80), stored(store, 160)
    long_ago = (now() - 3 * DAY).timestamp()
    for name in (mine, nobodys):
        os.utime(settings.data_dir / "files" / pictures.FOLDER / name, (long_ago, long_ago))
    factories.publisher(alice.user, avatar_url=address(mine))
    monkeypatch.setattr(jobs, "get_settings", lambda: settings)
    jobs.forget_pictures(0)
    assert [where(store, name) for name in (mine, nobodys, fresh)] == ["kept", "aside", "kept"]
    assert alice.browser.get(address(nobodys)).status_code == 200


def test_publishers_say_which_pictures_they_show(session: OrmSession, alice: Person) -> None:
    assert alice.user is not None
    factories.publisher(alice.user, avatar_url=address("a"))
    factories.publisher(alice.user, "bare")
    assert publishers.pictures_in_use([address("a"), address("b")]) == {address("a")}
    assert publishers.pictures_in_use([]) == set()


def test_a_stale_form_reports_its_expired_picture(
    app: Flask, settings: Settings, session: OrmSession, alice: Person
) -> None:
    name = stored(files(settings), 42)
    output = {"publisher": "harbor", "name": "Harbor", "avatar_url": address(name)}
    files(settings).remove(f"{pictures.FOLDER}/{name}")
    answer = post(alice, "/publishers/new", **output)
    assert answer.status_code == 422
    assert "Choose it again." in answer.text
    assert name not in answer.text
    assert stored(files(settings), 42) == name
    assert post(alice, "/publishers/new", **output).status_code == 303
    assert session.get_one(Publisher, "harbor").avatar_url == address(name)
