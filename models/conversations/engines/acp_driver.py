"""The process that talks with one agent by the Agent Client Protocol: JSON lines with the turn on stdin and stdout, the protocol on two pipes.

Started by its path with the numbers of the agent's stdout and stdin (`acp_talk`), because asyncio and the server's greenlets do not mix. The first
line that it reads is `{root, session, prompt, fresh, only_again}`; then come `{reply, …}` to what it asks, and `{cancel: true}`. It writes `{session, how}`,
`{text}`, `{thinking}`, `{tool}`, `{plan}`, `{ask, kind, …}` and at last `{end}`, `{failed}`, or `{gone}` if with `only_again` the session cannot be opened again.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import acp
from acp.schema import (
    AgentMessageChunk,
    AgentPlanUpdate,
    AgentThoughtChunk,
    AllowedOutcome,
    ClientCapabilities,
    ContentToolCallContent,
    DeniedOutcome,
    FileEditToolCallContent,
    FileSystemCapabilities,
    Implementation,
    InitializeResponse,
    PermissionOption,
    ReadTextFileResponse,
    RequestPermissionResponse,
    TextContentBlock,
    ToolCallProgress,
    ToolCallStart,
    ToolCallUpdate,
    WriteTextFileResponse,
)

MAX_LINE = 8 << 20
MAX_TEXT = 20_000
"""Characters of a tool's input or output that are told."""
HANDSHAKE_SECONDS = 60.0
"""How long the agent may take for each step before the prompt: many download nothing, but start slowly."""
CANCEL_SECONDS = 5.0
"""How long a cancelled agent may take to end by itself."""
AUTH_REQUIRED = -32000


class AgentUnusable(Exception):
    """Why the agent cannot be used. The message is for the person."""


class SessionNotOpened(Exception):
    """The agent does not open the session again, and no new one is wanted."""


class TurnLines:
    """The lines of the turn, and what is asked of it."""

    def __init__(self) -> None:
        self._reader = asyncio.StreamReader(limit=MAX_LINE)
        self._waiting: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._count = 0

    async def open(self) -> None:
        """Read stdin from now on."""
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._reader), sys.stdin)

    async def next(self) -> dict[str, Any] | None:
        """The next line; None at the end."""
        line = await self._reader.readline()
        found: dict[str, Any] | None = json.loads(line) if line else None
        return found

    def tell(self, **line: Any) -> None:
        """Write a line. Blocks while the turn is behind: then the agent waits too."""
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    async def ask(self, kind: str, **what: Any) -> Mapping[str, Any]:
        """Ask the turn, and wait for its reply."""
        self._count += 1
        number = self._count
        future: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self.tell(ask=number, kind=kind, **what)
        return await future

    def replied(self, line: Mapping[str, Any]) -> None:
        """A reply came."""
        future = self._waiting.pop(line["reply"], None)
        if future is not None and not future.done():
            future.set_result(line)

    def give_up(self) -> None:
        """Nothing is answered any more: the turn was stopped."""
        for number in list(self._waiting):
            self.replied({"reply": number, "error": "The turn was stopped."})


class TurnClient:
    """What the agent asks of its client, and tells it. `live`: what it tells is new, not a session's past that it replays."""

    def __init__(self, lines: TurnLines) -> None:
        self.lines = lines
        self.live = False

    async def session_update(self, session_id: str, update: Any, **kwargs: Any) -> None:
        """Tell the turn what the agent does."""
        if not self.live:
            return
        match update:
            case AgentMessageChunk():
                self.lines.tell(text=_text(update.content))
            case AgentThoughtChunk():
                self.lines.tell(thinking=_text(update.content))
            case ToolCallStart() | ToolCallProgress():
                self.lines.tell(tool=_tool(update))
            case AgentPlanUpdate():
                entries = [{"content": each.content, "status": each.status} for each in update.entries]
                self.lines.tell(plan=entries)

    async def request_permission(
        self, session_id: str, tool_call: ToolCallUpdate, options: list[PermissionOption], **kwargs: Any
    ) -> RequestPermissionResponse:
        """Let a person choose."""
        offered = [{"id": each.option_id, "name": each.name, "kind": each.kind} for each in options]
        reply = await self.lines.ask("permission", tool=_tool(tool_call), options=offered)
        chosen = reply.get("option")
        if chosen is None:
            return RequestPermissionResponse(outcome=DeniedOutcome(outcome="cancelled"))
        return RequestPermissionResponse(outcome=AllowedOutcome(outcome="selected", option_id=chosen))

    async def read_text_file(
        self, session_id: str, path: str, line: int | None = None, limit: int | None = None, **kwargs: Any
    ) -> ReadTextFileResponse:
        """Read a file of the tree."""
        reply = await self.lines.ask("read", path=path, line=line, limit=limit)
        if "error" in reply:
            raise acp.RequestError.invalid_params({"details": reply["error"]})
        return ReadTextFileResponse(content=reply["content"])

    async def write_text_file(
        self, session_id: str, path: str, content: str, **kwargs: Any
    ) -> WriteTextFileResponse:
        """Write a file of the tree."""
        reply = await self.lines.ask("write", path=path, content=content)
        if "error" in reply:
            raise acp.RequestError.invalid_params({"details": reply["error"]})
        return WriteTextFileResponse()

    async def ext_method(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """There are no extensions."""
        raise acp.RequestError.method_not_found(f"_{method}")

    async def ext_notification(self, method: str, params: dict[str, Any]) -> None:
        """Extensions are ignored."""


class AcpPrompt:
    """One prompt and its answer."""

    def __init__(self, lines: TurnLines, wanted: Mapping[str, Any], agent: Any, client: TurnClient) -> None:
        self.lines, self.wanted, self.agent, self.client = lines, wanted, agent, client
        self._root: str = wanted["root"]

    async def run(self) -> None:
        """Shake hands, open the session, send the prompt. Raises AgentUnusable, RequestError, ConnectionError."""
        hello = await self._in_time(
            self.agent.initialize(
                protocol_version=acp.PROTOCOL_VERSION,
                client_capabilities=ClientCapabilities(
                    fs=FileSystemCapabilities(read_text_file=True, write_text_file=True), terminal=False
                ),
                client_info=Implementation(name="stoa", title="Stoa", version="1"),
            ),
            "to the handshake",
        )
        if hello.protocol_version != acp.PROTOCOL_VERSION:
            raise AgentUnusable(
                f"The agent speaks version {hello.protocol_version} of the Agent Client Protocol; this server speaks {acp.PROTOCOL_VERSION}."
            )
        session, how = await self._session(hello)
        self.lines.tell(session=session, how=how)
        self.client.live = True
        prompt = self.wanted["fresh" if how == "new" else "prompt"]
        answer = asyncio.ensure_future(
            self.agent.prompt(session_id=session, prompt=[TextContentBlock(type="text", text=prompt)])
        )
        hearing = asyncio.ensure_future(self._hear(session, answer))
        try:
            response = await answer
        finally:
            hearing.cancel()
        self.lines.tell(end=response.stop_reason)

    async def _session(self, hello: InitializeResponse) -> tuple[str, str]:
        """The session, and how it was opened: `resume` is preferred to `load`, which tells all that was said before, and both to a new one."""
        known: str | None = self.wanted.get("session")
        able = hello.agent_capabilities
        if known and able is not None:
            ways = []
            if able.session_capabilities and able.session_capabilities.resume is not None:
                ways.append(("resume", self.agent.resume_session))
            if able.load_session:
                ways.append(("load", self.agent.load_session))
            for how, open_again in ways:
                # some name a way that they do not have; a session that is gone begins anew, with what was said as text
                with suppress(acp.RequestError):
                    again = open_again(session_id=known, cwd=self._root, mcp_servers=[])
                    await self._in_time(again, "to the session")
                    return known, how
        if self.wanted.get("only_again"):
            raise SessionNotOpened
        made = await self._in_time(
            self.agent.new_session(cwd=self._root, mcp_servers=[]), "to the new session"
        )
        return made.session_id, "new"

    async def _hear(self, session: str, answer: "asyncio.Future[Any]") -> None:
        """Pass on replies and the wish to stop, until the turn is gone."""
        while (line := await self.lines.next()) is not None:
            if "reply" in line:
                self.lines.replied(line)
            elif line.get("cancel"):
                with suppress(Exception):
                    await self.agent.cancel(session_id=session)
                self.lines.give_up()
                await asyncio.sleep(CANCEL_SECONDS)
                answer.cancel()
        answer.cancel()

    @staticmethod
    async def _in_time(step: Any, to_what: str) -> Any:
        try:
            return await asyncio.wait_for(step, HANDSHAKE_SECONDS)
        except TimeoutError:
            raise AgentUnusable(
                f"The agent did not answer {to_what} within {HANDSHAKE_SECONDS:g} seconds."
            ) from None


def _text(content: Any) -> str:
    return content.text if isinstance(content, TextContentBlock) else f"[{content.type}]"


def _tool(update: ToolCallStart | ToolCallProgress | ToolCallUpdate) -> dict[str, Any]:
    """A tool call as the turn knows it; what is None did not change."""
    pieces = []
    for each in update.content or ():
        if isinstance(each, ContentToolCallContent):
            pieces.append(_text(each.content))
        elif isinstance(each, FileEditToolCallContent):
            pieces.append(f"Changed {each.path}")
    output = "\n".join(pieces) or _short(update.raw_output)
    return {
        "id": update.tool_call_id[:200],
        "title": (update.title or "")[:300] or None,
        "kind": update.kind,
        "status": update.status,
        "input": _short(update.raw_input),
        "output": output[:MAX_TEXT] if output else None,
    }


def _short(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text[:MAX_TEXT]


def _problem(error: acp.RequestError) -> str:
    if error.code == AUTH_REQUIRED:
        return "The agent wants to be signed in. An operator names the variables with its key in STOA_ACP_AGENTS."
    return f"The agent refused: {str(error)[:500] or 'no reason given'}"


async def _streams(output: int, input: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The agent's stdout to read, and its stdin to write."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0))
    unread = asyncio.StreamReader()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(unread), os.fdopen(input, "wb", 0)
    )
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)


async def main(output: int, input: int) -> None:
    """Talk until the prompt is answered. The last line says how it ended."""
    lines = TurnLines()
    await lines.open()
    wanted = await lines.next()
    if wanted is None:
        return
    reader, writer = await _streams(output, input)
    client = TurnClient(lines)
    known: Any = client
    agent = acp.connect_to_agent(known, writer, reader)
    try:
        await AcpPrompt(lines, wanted, agent, client).run()
    except asyncio.CancelledError:
        lines.tell(end="cancelled")
    except SessionNotOpened:
        lines.tell(gone=True)
    except AgentUnusable as error:
        lines.tell(failed=str(error))
    except acp.RequestError as error:
        lines.tell(failed=_problem(error))
    except ConnectionError:
        lines.tell(failed="The agent ended before it had answered.")
    except Exception as error:
        lines.tell(failed=f"The agent sent what the protocol does not allow ({type(error).__name__}).")
    finally:
        with suppress(Exception):
            await asyncio.wait_for(agent.close(), 2)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
