"""Open WebSockets on `/v1/responses`, each with turns that continue one another, on one worker: `--only sockets`."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect

from bench import stoa
from bench.load import PROMPT

SOCKETS = 500
TURNS = 4
KEYS = 20
AT_A_TIME = 50
"""Handshakes and turns that are started together."""


@dataclass(slots=True)
class SocketResult:
    """Result of all connections. Times in seconds, memory in bytes."""

    open: int = 0
    complete: int = 0
    failed: int = 0
    settled: int = 0
    holds: int = 0
    seconds: float = 0.0
    turns: list[float] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)
    """Of the worker, before and with all connections open after their turns."""


def measure(folder: Path, upstream_port: int, *, sockets: int = SOCKETS, turns: int = TURNS) -> SocketResult:
    """Start a server with one worker and measure it."""
    with stoa.running(folder / "data", upstream_port, {"STOA_WORKERS": "1"}) as server:
        keys = stoa.open_accounts(server, KEYS, "socket")
        asyncio.run(_run(server, keys, sockets=KEYS, turns=1))  # loads the code
        before = stoa.LedgerCounts.read(server)
        (memory,) = server.memory()
        result = asyncio.run(_run(server, keys, sockets=sockets, turns=turns))
        result.memory = memory, result.memory[1]
        time.sleep(1)
        after = stoa.LedgerCounts.read(server)
        result.settled, result.holds = after.settled - before.settled, after.holds
        return result


async def _run(server: stoa.Stoa, keys: list[str], *, sockets: int, turns: int) -> SocketResult:
    result = SocketResult()
    limit = asyncio.Semaphore(AT_A_TIME)
    everybody = asyncio.Barrier(sockets)

    async def client(number: int) -> None:
        headers = {"Authorization": f"Bearer {keys[number % len(keys)]}"}
        address = f"ws://127.0.0.1:{server.port}/v1/responses"
        async with limit:
            connection = await connect(address, additional_headers=headers, open_timeout=60)
        async with connection:
            result.open += 1
            await everybody.wait()
            previous: str | None = None
            for turn in range(turns):
                async with limit:
                    started = time.monotonic()
                    previous = await _turn(connection, previous, turn)
                    result.turns.append(time.monotonic() - started)
                result.complete += previous is not None
                result.failed += previous is None
            await everybody.wait()
            if not result.memory[1]:
                result.memory = 0, server.memory()[0]

    started = time.monotonic()
    await asyncio.gather(*map(client, range(sockets)))
    result.seconds = time.monotonic() - started
    return result


async def _turn(connection: ClientConnection, previous: str | None, turn: int) -> str | None:
    """Create a response that continues another one. Returns its id; None if it failed."""
    frame = {"type": "response.create", "model": stoa.MODEL, "store": False, "input": f"{turn}: {PROMPT}"}
    if previous is not None:
        frame["previous_response_id"] = previous
    await connection.send(json.dumps(frame))
    async for message in connection:
        event = json.loads(message)
        if event["type"] == "response.completed":
            return str(event["response"]["id"])
        if event["type"] in ("error", "response.failed", "response.incomplete"):
            return None
    return None
