"""The runner program fetches each file once, checks what it kept, and does several works at once if told so."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db
from models.projects.snapshots.blob_packs import sizes_of
from models.runners import RunnerWork, Workplace, open_workplace, work_queue
from tests.factories import Person
from tests.projects.client.client_shell import module
from tests.projects.project_calls import ProjectsApi, sha
from tests.runners.runner_calls import RunnerCalls, made_runner
from tests.runners.test_machine_workplace import Program, connected, token_of
from tests.runners.test_runner_processes import program as archive  # noqa: F401  (fixture)
from tests.server import serving
from views.runners.api import work_routes, work_tree_routes

TREE = {"a.txt": "one\n", "b/c.txt": "two\n", "b/same.txt": "one\n"}


class Served:
    """A server with a runner of alice, and what was asked of it."""

    def __init__(self, url: str, folder: Path, token: str, asked: list[Any]) -> None:
        self.url, self.folder, self.token, self.asked = url, folder, token, asked

    def program(self, session: OrmSession, *arguments: str) -> Program:
        found = Program(self.url, self.folder, self.token, *arguments)
        assert connected(session), found.said()
        return found


@pytest.fixture
def served(
    app: Flask,
    session: OrmSession,
    client: FlaskClient,
    alice: Person,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Served]:
    asked: list[Any] = []

    def note(account_id: str, hashes: list[str]) -> Any:
        asked.append(hashes)
        return sizes_of(account_id, hashes)

    monkeypatch.setattr(work_tree_routes, "sizes_of", note)
    with serving(app) as url:
        yield Served(url, tmp_path, token_of(made_runner(alice, client)), asked)


def contents(place: Workplace) -> dict[str, str]:
    return {path: place.read(path).decode() for path in TREE}


def test_only_missing_files_are_fetched_and_damaged_ones_again(
    session: OrmSession, mine: ProjectsApi, served: Served, alice: Person
) -> None:
    program = served.program(session)
    try:
        manifest = mine.tree(TREE)
        for changed, wanted in (
            ({}, {sha("one\n"), sha("two\n")}),
            ({}, set()),
            ({"b/c.txt": "three\n"}, {sha("three\n")}),
        ):
            served.asked.clear()
            place = open_workplace("machine", alice.id, mine.tree({**TREE, **changed}))
            assert contents(place) == {**TREE, **changed}
            place.close()
            assert {hash for hashes in served.asked for hash in hashes} == wanted
        kept = program.work_folder / "files"
        [one] = kept.glob(f"*/{sha('one' + chr(10))}")
        one.write_text("evil\n")
        served.asked.clear()
        place = open_workplace("machine", alice.id, manifest)
        assert contents(place) == TREE
        place.close()
        assert served.asked == [[sha("one\n")]]
        assert program.end() == 0, program.said()
    finally:
        program.process.kill()
        program.process.wait()
        program.log.close()


def test_a_runner_does_several_works_at_once(session: OrmSession, served: Served, alice: Person) -> None:
    program = served.program(session, "--parallel", "2", "--cache-mb", "0")
    try:
        places = [open_workplace("machine", alice.id, None) for _ in range(2)]
        meeting = served.folder / "meeting"
        meeting.mkdir()
        done: list[Any] = []

        def meet(place: Workplace, me: int) -> None:
            # each waits for the other one, so both must run at once
            wait = f"touch {meeting}/{me}; until [ -e {meeting}/{1 - me} ]; do sleep 0.05; done; pwd"
            done.append(place.run(wait, seconds=60))

        threads = [threading.Thread(target=meet, args=(place, me)) for me, place in enumerate(places)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(90)
        assert [each.exit_code for each in done] == [0, 0]
        assert len({each.output for each in done}) == 2
        places[0].close()
        assert program.end() == 0, program.said()
        assert [*program.work_folder.glob("work*")] == []
    finally:
        for place in places:
            place.close()
        program.process.kill()
        program.process.wait()
        program.log.close()
    session.rollback()
    assert session.scalar(select(func.count()).where(RunnerWork.state == "running")) == 0


@pytest.mark.parametrize(
    ("option", "value"), [("--parallel", "0"), ("--parallel", "65"), ("--cache-mb", "-1")]
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, option: str, value: str) -> None:
    program = Program("http://127.0.0.1:9", tmp_path, "sk_live_x", option, value)
    assert program.process.wait(60) == 2
    assert option in program.said()
    program.log.close()


def test_the_cache_keeps_what_was_read_last_within_its_bound(archive: Path, tmp_path: Path) -> None:  # noqa: F811
    cache = module("blob_cache").BlobCache(tmp_path / "files", 250)
    texts = [str(number) * 100 for number in range(4)]
    for number, text in enumerate(texts):
        cache.put(sha(text), text.encode())
        os.utime(tmp_path / "files" / sha(text)[:2] / sha(text), (number, number))
    assert cache.get(sha(texts[0])) == texts[0].encode()
    cache.trim()
    assert [cache.has(sha(text)) for text in texts] == [True, False, False, True]
    place = tmp_path / "files" / sha(texts[3])[:2] / sha(texts[3])
    place.write_text("changed")
    assert cache.get(sha(texts[3])) is None
    assert not place.exists()


# -- news ----------------------------------------------------------------------------------------------------------


def test_a_waiting_poll_and_a_waiting_exchange_hear_of_work_at_once(
    app: Flask, session: OrmSession, client: FlaskClient, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without news both would wait until they give up
    monkeypatch.setattr(work_routes, "LOOK_SECONDS", 60.0)
    runner = made_runner(alice, client)
    assert runner.poll() is None
    news = app.extensions["work_news"]

    def after_it_waits(subject: str, act: Any) -> None:
        with app.app_context():
            while not news._waiting.get(subject):
                threading.Event().wait(0.02)
            act()

    def open_one() -> None:
        work_queue.open_work(alice.id, "workplace", {"manifest_hash": None, "limits": {}}, ())
        db.session.commit()

    helper = threading.Thread(target=after_it_waits, args=(alice.id, open_one))
    helper.start()
    work = RunnerCalls(app.test_client(), token_of(runner)).poll(wait_seconds=20)
    helper.join()
    assert work is not None
    assert runner.about(work, "ack")[0] == 200

    def ask() -> None:
        work_queue.ask_action(work["id"], "list", {"folder": "", "limit": 5})
        db.session.commit()

    helper = threading.Thread(target=after_it_waits, args=(work["id"], ask))
    helper.start()
    status, found = runner.about(work, "actions", wait_seconds=20)
    helper.join()
    assert status == 200
    assert [each["verb"] for each in found["actions"]] == ["list"]
    assert news._waiting == {}
