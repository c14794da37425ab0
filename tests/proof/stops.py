"""Running calls of an organisation, spread over all workers, end when somebody stops its agents."""

import asyncio
import http.client
import json
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from models import ledger
from models.core.db import db
from models.ledger import Account
from tests import factories
from tests.proof.load import Outcome, call, run_in_thread
from tests.proof.stage import Result, Stage
from tests.proof.upstream import Script

MODEL = "openai/proof"
MAX_SECONDS = 1.0


def stops(stage: Stage, *, calls: int = 20, rounds: int = 3, max_seconds: float = MAX_SECONDS) -> Result:
    """A third of the calls are whole answers, the others streams. They end within `max_seconds` of the stop in at least one of
    the rounds (the machine is shared), what they produced is settled, no hold is left, and new calls are refused until the
    organisation is resumed."""
    found = [_stop_and_resume(stage, calls) for _ in range(rounds)]
    fastest = min(found)
    assert fastest.settled < max_seconds, f"a call was settled {fastest.settled:.2f} s after the stop"
    stage.prove()
    return Result(
        "stops",
        f"{rounds} times {calls} running calls of an organisation, streams and whole answers, are stopped",
        f"{fastest.workers} workers; the last call was settled {', '.join(f'{each.settled:.2f}' for each in found)} s after the"
        f" stop; {', '.join(f'{each.told:.2f}' for each in found)} s after the click its client had the error",
    )


@dataclass(order=True)
class Stopped:
    """One round: seconds from the stop to the last settlement, and from the click to the last client's error."""

    settled: float
    told: float
    workers: int


def _stop_and_resume(stage: Stage, calls: int) -> Stopped:
    slug, org_id, key, cookie = _organisation(stage)

    def scripts_arrived(seen: dict[str, Any], scripts: list[Script]) -> bool:
        return all(script.id in seen for script in scripts)

    async def run() -> tuple[list[tuple[Outcome, float]], float, int]:
        async def one(index: int, script: Script) -> tuple[Outcome, float]:
            outcome = await call(
                stage.address, key, script, model=MODEL, stream=index % 3 != 0, max_tokens=100_000
            )
            return outcome, time.monotonic()

        running: list[asyncio.Task[tuple[Outcome, float]]] = []
        workers = 0
        # one worker may accept a whole batch
        while workers < 2 and len(running) < 10 * calls:
            scripts = [_script() for _ in range(calls)]
            running += [asyncio.create_task(one(index, script)) for index, script in enumerate(scripts)]
            while not scripts_arrived(await asyncio.to_thread(stage.upstream.seen), scripts):
                await asyncio.sleep(0.2)
            # each has sent something
            await asyncio.sleep(1)
            workers = await asyncio.to_thread(
                stage.number, "SELECT count(DISTINCT worker) FROM credit_hold WHERE state = 'live'"
            )
        click = await asyncio.to_thread(_form, stage, cookie, f"/orgs/{slug}/stop")
        clicked = time.monotonic()
        await asyncio.to_thread(click)
        return await asyncio.gather(*running), clicked, workers

    ended, clicked, workers = run_in_thread(run())
    assert workers > 1, "all calls were in one worker"
    assert stage.live_holds() == 0
    for outcome, _ in ended:
        error = json.loads(_last_event(outcome))["error"]
        assert error["code"] == "account_stopped", outcome.body[-300:]
        assert outcome.status == (200 if outcome.body.startswith(b"data:") else 403)
    rows = stage.rows(
        "SELECT c.state, c.error, c.credits, extract(epoch FROM c.finished_at - s.stopped_at) AS seconds"
        " FROM gateway_call c JOIN account_stop s ON s.account_id = c.account_id WHERE c.account_id = :id",
        id=org_id,
    )
    assert len(rows) == len(ended)
    assert all(row.state == "settled" and row.error == "account_stopped" and row.credits for row in rows)
    refused = run_in_thread(call(stage.address, key, Script("refused"), model=MODEL))
    assert (refused.status, refused.json["error"]["code"]) == (403, "account_stopped")
    _form(stage, cookie, f"/orgs/{slug}/stop/end")()
    served = run_in_thread(call(stage.address, key, Script(factories.new_id("resumed-")), model=MODEL))
    assert served.status == 200, served.body
    return Stopped(max(float(row.seconds) for row in rows), max(at for _, at in ended) - clicked, workers)


def _script() -> Script:
    return Script(factories.new_id("stop-"), words=1000, pace=0.05)


def _last_event(outcome: Outcome) -> bytes:
    if not outcome.body.startswith(b"data:"):
        return outcome.body
    return outcome.body.rstrip().rpartition(b"data: ")[2]


def _organisation(stage: Stage) -> tuple[str, str, str, str]:
    """An organisation with credits: its slug and id, its owner's key and browser session."""
    with stage.session():
        owner = factories.user(factories.new_id("owner-"))
        org = factories.org(owner, factories.new_id("Stopped "), members=())
        key = factories.token(owner, org_id=org.id)
        cookie = factories.token(owner, type="web")
        ledger.grant(Account(org_id=org.id), 100_000, "organization", operation_id=factories.new_id("proof-"))
        db.session.commit()
        return org.slug, org.id, key, cookie


def _form(stage: Stage, cookie: str, path: str) -> Callable[[], None]:
    """A form of a page: call it to post it, as a browser does."""
    session = f"next-auth.session-token={cookie}"
    address = urllib.parse.urlsplit(stage.address)

    def send(method: str, path: str, body: str, cookies: str) -> tuple[int, bytes, list[str]]:
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        headers = {"Cookie": cookies, "Referer": stage.address, "Origin": stage.address}
        if body:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = answer.status, answer.read(), answer.headers.get_all("Set-Cookie") or []
        connection.close()
        return found

    _, body, set_cookies = send("GET", "/api/auth/csrf", "", session)
    cookies = "; ".join([session, *(line.split(";")[0] for line in set_cookies)])
    fields = urllib.parse.urlencode({"csrf_token": json.loads(body)["csrfToken"]})

    def post() -> None:
        status, body, _ = send("POST", path, fields, cookies)
        assert status == 303, body[-500:]

    return post
