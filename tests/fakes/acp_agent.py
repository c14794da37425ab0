"""An agent that speaks the Agent Client Protocol with the real package, for tests: `python tests/fakes/acp_agent.py [what it is like …]`.

Arguments: `resume`, `load` (it can open sessions again), `boastful` (it says that it can resume, and cannot), `silent` (never answers), `newer` (speaks another version), `locked` (wants to be signed
in). What it does is what the prompt says, a line each: `say WORDS`, `think WORDS`, `plan WORDS`, `read PATH`, `write PATH WORDS`, `edit PATH WORDS`
(in its own folder, as programs do), `ask WORDS`, `run WORDS`, `wait` (until it is cancelled), `crash`. Lines that begin otherwise are told back.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import acp
from acp.schema import (
    AgentCapabilities,
    InitializeResponse,
    NewSessionResponse,
    PermissionOption,
    PromptResponse,
    ResumeSessionResponse,
    SessionCapabilities,
    SessionResumeCapabilities,
    ToolCallUpdate,
)

LIKE = set(sys.argv[1:])


class FakeAgent:
    """One process: it knows the sessions whose names begin with `session-`."""

    def __init__(self) -> None:
        self.client: Any = None
        self.folder = "/"
        self.cancelled = asyncio.Event()

    def on_connect(self, client: Any) -> None:
        self.client = client

    async def initialize(self, protocol_version: int, **kwargs: Any) -> InitializeResponse:
        if "silent" in LIKE:
            await asyncio.sleep(3600)
        resume = SessionResumeCapabilities() if "resume" in LIKE else None
        return InitializeResponse(
            protocol_version=99 if "newer" in LIKE else acp.PROTOCOL_VERSION,
            agent_capabilities=AgentCapabilities(
                load_session="load" in LIKE, session_capabilities=SessionCapabilities(resume=resume)
            ),
        )

    async def new_session(self, cwd: str, **kwargs: Any) -> NewSessionResponse:
        if "locked" in LIKE:
            raise acp.RequestError.auth_required()
        self.folder = cwd
        return NewSessionResponse(session_id=f"session-{os.getpid()}")

    async def resume_session(self, session_id: str, cwd: str, **kwargs: Any) -> ResumeSessionResponse:
        if "boastful" in LIKE:
            raise acp.RequestError.method_not_found("session/resume")
        self._check(session_id, cwd)
        return ResumeSessionResponse()

    async def load_session(self, cwd: str, session_id: str, **kwargs: Any) -> None:
        self._check(session_id, cwd)
        await self._say(session_id, "what was said before")

    def _check(self, session_id: str, cwd: str) -> None:
        if not session_id.startswith("session-"):
            raise acp.RequestError.invalid_params({"details": "no such session"})
        self.folder = cwd

    async def prompt(self, session_id: str, prompt: list[Any], **kwargs: Any) -> PromptResponse:
        for line in prompt[0].text.splitlines():
            word, _, rest = line.strip().partition(" ")
            if word == "wait":
                await self.cancelled.wait()
                return PromptResponse(stop_reason="cancelled")
            if word == "crash":
                os._exit(3)
            action = getattr(self, f"_do_{word}", None)
            if action is None:
                await self._say(session_id, line)
            else:
                await action(session_id, rest)
        return PromptResponse(stop_reason="end_turn")

    async def cancel(self, session_id: str, **kwargs: Any) -> None:
        self.cancelled.set()

    async def _say(self, session_id: str, text: str) -> None:
        await self.client.session_update(session_id, acp.update_agent_message_text(f"{text}\n"))

    _do_say = _say

    async def _do_think(self, session_id: str, text: str) -> None:
        await self.client.session_update(session_id, acp.update_agent_thought_text(text))

    async def _do_plan(self, session_id: str, text: str) -> None:
        await self.client.session_update(session_id, acp.update_plan([acp.plan_entry(text)]))

    async def _do_read(self, session_id: str, path: str) -> None:
        try:
            found = await self.client.read_text_file(session_id=session_id, path=path)
            await self._say(session_id, f"read: {found.content}")
        except acp.RequestError as error:
            await self._say(session_id, f"refused: {error.data}")

    async def _do_write(self, session_id: str, rest: str) -> None:
        path, _, text = rest.partition(" ")
        try:
            await self.client.write_text_file(session_id=session_id, path=path, content=f"{text}\n")
        except acp.RequestError as error:
            await self._say(session_id, f"refused: {error.data}")

    async def _do_edit(self, session_id: str, rest: str) -> None:
        path, _, text = rest.partition(" ")
        await self._do_run(session_id, f"edit {path}")
        (Path(self.folder) / path).write_text(f"{text}\n")

    async def _do_ask(self, session_id: str, text: str) -> None:
        options = [
            PermissionOption(option_id="yes", name="Allow", kind="allow_once"),
            PermissionOption(option_id="no", name="Reject", kind="reject_once"),
        ]
        call = ToolCallUpdate(tool_call_id="call-ask", title=text)
        answer = await self.client.request_permission(session_id=session_id, tool_call=call, options=options)
        await self._say(session_id, f"answer: {getattr(answer.outcome, 'option_id', 'cancelled')}")

    async def _do_run(self, session_id: str, text: str) -> None:
        started = acp.start_tool_call(
            "call-1", text, kind="execute", status="in_progress", raw_input={"do": text}
        )
        await self.client.session_update(session_id, started)
        done = acp.update_tool_call("call-1", status="completed", raw_output="done")
        await self.client.session_update(session_id, done)


async def main() -> None:
    """Serve one client on stdin and stdout."""
    agent: Any = FakeAgent()
    await acp.run_agent(agent, use_unstable_protocol=True)


if __name__ == "__main__":
    asyncio.run(main())
