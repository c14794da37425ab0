"""The engine `acp`: a command that an operator set up works in the sandbox and speaks the Agent Client Protocol; its model calls go through the turn's socket."""

import shlex
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from models.conversations.conversation import ProjectConversation
from models.conversations.conversation_engine import EnginePlan, register_engine
from models.conversations.engine_session import EngineSession, SessionGone
from models.conversations.engines.acp_talk import AcpTalk
from models.core.db import extension
from models.core.errors import DomainError, Invalid, NotFound
from models.core.settings import AcpCommand
from models.runners import LevelUnavailable, Limits, levels
from models.runners.process_workplace import ProcessWorkplace
from models.runners.sandbox_command import WORK
from models.runners.sandbox_process import SandboxProcess
from models.threads import turn_budgets

LIMITS = Limits(wall_seconds=3_600.0, cpu_seconds=1_800, memory_bytes=2 << 30, processes=256)
MAX_FILE = 4 << 20
MAX_TRANSCRIPT = 60_000
"""Characters of what was said before that a new session of the agent gets."""
NOT_FOUND = 127
"""The shell's exit code for a command that is not there."""
LIMIT_WORDS = {
    "timeout": "It used more time than a turn may.",
    "memory": "It used more memory than it may.",
    "disk": "It wrote more to the disk than it may.",
    "output": "It wrote more than it may.",
    "lost": "The sandbox did not start.",
}


class AgentFailed(DomainError):
    """The command ended without an answer, or does not speak the protocol."""

    status = 502
    code = "agent_failed"


def acp_command(name: str | None) -> AcpCommand:
    """The command of this name. Raises Invalid."""
    commands: Sequence[AcpCommand] = extension("settings").stoa_acp_agents
    found = next((each for each in commands if each.name == name), None)
    if found is None:
        problem = f"This server has no command '{(name or '')[:80]}'. An operator sets commands up in STOA_ACP_AGENTS."
        raise Invalid(problem, fields={"command": problem})
    return found


class AcpEngine:
    """See `ConversationEngine`."""

    def check(self, conversation: ProjectConversation) -> None:
        """See `ConversationEngine`. Raises Invalid for an unknown command, LevelUnavailable for another level than the sandbox."""
        acp_command(conversation.agent)
        if conversation.level != "process":
            raise LevelUnavailable(
                "A command works in the sandbox only: choose it where the conversation works."
            )
        state = levels()["process"]
        if not state.available:
            raise LevelUnavailable(state.sentence)

    def plan(self, conversation: ProjectConversation, user_id: str) -> EnginePlan:
        """See `ConversationEngine`."""
        name = acp_command(conversation.agent).name
        return EnginePlan(agent_id=f"acp:{name}", rounds=False, socket=True, home=True, limits=LIMITS)

    def drive(self, session: EngineSession) -> None:
        """See `ConversationEngine`."""
        place = session.workplace
        if not isinstance(place, ProcessWorkplace):
            raise LevelUnavailable("A command works in the sandbox only.")
        with session.handle.context():
            command = acp_command(session.agent)
            known = session.known_session()
        if session.going_on == "taken_over" and known is None:
            raise SessionGone("The agent had begun no session.")
        process = place.start_process(
            f"exec {shlex.join([command.command, *command.args])}",
            seconds=LIMITS.wall_seconds,
            env={
                "OPENAI_MODEL": session.model,
                "ANTHROPIC_MODEL": session.model,
                **session.settings.passed_on(command.env),
            },
            stdin=True,
            separate_errors=True,
        )
        turn = AcpTurn(session, place, process, command)
        try:
            _drain(process.stderr)
            turn.run(known)
        finally:
            session.on_stop(None)
            place.end_process(process)
            turn.settle()


class AcpTurn:
    """One prompt to the agent, and what comes of it."""

    def __init__(
        self, session: EngineSession, place: ProcessWorkplace, process: SandboxProcess, command: AcpCommand
    ) -> None:
        self._session, self._place, self._process, self._command = session, place, process, command
        self._titles: dict[str, str] = {}
        self._open: dict[str, str] = {}
        """Tools that were begun, with their output so far."""
        self._commands: dict[str, str] = {}
        """Titles of tools that run something."""
        self._counted = 0
        self._failed = False

    def run(self, known: str | None) -> None:
        """Talk until the agent has answered. Raises AgentFailed, LeaseLost."""
        session = self._session
        assert self._process.stdin is not None
        with AcpTalk(
            self._process.stdout,
            self._process.stdin,
            root=WORK,
            prompt=session.prompt,
            fresh=fresh_prompt(session.system, session.history, session.prompt),
            session=known,
            only_again=session.going_on == "taken_over",
        ) as talk:
            session.on_stop(talk.cancel)
            for line in talk.lines():
                self._line(talk, line)
            for id in list(self._open):
                self._complete(id, self._open[id] or "The agent ended before this tool did.")

    def _line(self, talk: AcpTalk, line: Mapping[str, Any]) -> None:
        match line:
            case {"ask": number, "kind": kind}:
                talk.reply(number, **self._answer(kind, line))
            case {"session": id}:
                self._session.note_session(str(id))
            case {"text": text}:
                self._session.text(text)
            case {"thinking": text}:
                self._session.thinking(text)
            case {"tool": tool}:
                self._count()
                self._tool(tool)
            case {"plan": entries}:
                self._session.handle.emit("agent.plan", {"entries": entries[:100]})
            case {"gone": True}:
                raise SessionGone("The agent does not open its session again.")
            case {"failed": problem}:
                self._failed = True
                raise AgentFailed(self._why(problem))
            case {"end": reason}:
                self._ended(reason)

    def _ended(self, reason: str) -> None:
        match reason:
            case "cancelled" if not (self._session.stopped or self._session.pausing):
                raise AgentFailed("The agent cancelled its answer.")
            case "max_tokens" | "max_turn_requests":
                raise AgentFailed(
                    "The agent reached its own limit before it was done. Say “go on” to continue."
                )
            case "refusal":
                raise AgentFailed("The agent refused to answer this.")

    def _why(self, problem: str) -> str:
        """Why the agent failed, as far as its process says."""
        with suppress(Exception):
            if self._process.running:
                return problem
            result = self._process.wait()
            if result.exit_code == NOT_FOUND:
                return (
                    f"The command '{self._command.command[:100]}' is not in the sandbox. It must be below /usr, or its folder in"
                    " STOA_SANDBOX_PATHS."
                )
            return f"{problem} {LIMIT_WORDS.get(result.ended, '')}".strip()
        return problem

    def settle(self) -> None:
        """The agent has ended: count what its last calls cost. One that ended because a budget was used up lets the turn pause. Raises LeaseLost."""
        session = self._session
        if session.socket is not None:
            session.socket.close()
        self._count()
        with session.handle.step() as turn:
            short = bool(turn.reserved) and turn.reserved - (turn.credits or 0) < turn_budgets.AT_ONCE // 2
        if short and self._failed:
            session.reserve(1)

    def _count(self) -> None:
        """Count what the agent's model calls have cost since the last time."""
        spent = self._session.socket.spent if self._session.socket else 0
        if spent > self._counted:
            self._session.spent(spent - self._counted)
            self._counted = spent

    # -- what it tells ---------------------------------------------------------------------------------------

    def _tool(self, tool: Mapping[str, Any]) -> None:
        id = tool["id"]
        if id not in self._titles:
            self._titles[id] = tool["title"] or tool["kind"] or "tool"
            self._open[id] = ""
            if tool["kind"] == "execute":
                self._commands[id] = self._titles[id]
            arguments = tool["input"] or "{}"
            self._session.tool_started(id, self._titles[id], arguments)
        if id not in self._open:
            return
        if tool["output"]:
            self._open[id] = tool["output"]
        if tool["status"] in ("completed", "failed"):
            failed = tool["status"] == "failed"
            self._complete(id, self._open[id] or ("It failed." if failed else "Done."), failed=failed)

    def _complete(self, id: str, output: str, *, failed: bool = False) -> None:
        del self._open[id]
        self._session.tool_completed(id, output, failed=failed, command=self._commands.get(id))

    # -- what it asks ----------------------------------------------------------------------------------------

    def _answer(self, kind: str, line: Mapping[str, Any]) -> dict[str, Any]:
        try:
            match kind:
                case "permission":
                    return self._permission(line)
                case "read":
                    return {"content": self._read(line)}
                case "write":
                    self._place.write(tree_path(line["path"]), line["content"].encode("utf-8", "replace"))
                    return {}
        except DomainError as error:
            return {"error": error.message}
        return {"error": "This client cannot do that."}

    def _permission(self, line: Mapping[str, Any]) -> dict[str, Any]:
        tool, options = line["tool"], line["options"]
        title = tool["title"] or self._titles.get(tool["id"]) or "The agent wants to use a tool."
        asked = f"{title}\n{tool['input'][:1_000]}" if tool["input"] else title
        labels = [{"label": each["name"]} for each in options]
        answers = self._session.ask([{"question": asked, "options": labels}], kind="permission")
        chosen = answers[0][0] if answers and answers[0] else None
        option = next((each["id"] for each in options if each["name"] == chosen), None)
        return {"option": option}

    def _read(self, line: Mapping[str, Any]) -> str:
        text = self._place.read(tree_path(line["path"]), max_bytes=MAX_FILE).decode("utf-8", "replace")
        first, count = line.get("line"), line.get("limit")
        if first is None and count is None:
            return text
        start = max((first or 1) - 1, 0)
        lines = text.splitlines(keepends=True)[start:]
        return "".join(lines if count is None else lines[: max(count, 0)])


def tree_path(path: str) -> str:
    """A path of the tree, as the workplace names it, from one that the agent names. Raises NotFound for one outside of it."""
    if path.startswith(f"{WORK}/"):
        return path[len(WORK) + 1 :]
    if path.startswith("/"):
        raise NotFound(f"{path[:200]} is not in the tree: paths begin with {WORK}/.")
    return path


def fresh_prompt(system: str, history: Sequence[Mapping[str, Any]], prompt: str) -> str:
    """The prompt for a session that knows nothing: the server's text, what was said before, and the prompt itself."""
    said = []
    for message in history:
        text = message.get("content")
        if message.get("role") in ("user", "assistant") and isinstance(text, str) and text.strip():
            said.append(f"{'Person' if message['role'] == 'user' else 'You'}: {text.strip()}")
    before = "\n\n".join(said)[-MAX_TRANSCRIPT:]
    parts = [system, f"What was said before:\n\n{before}" if before else "", prompt]
    return "\n\n---\n\n".join(part for part in parts if part)


def _drain(stream: IO[bytes] | None) -> None:
    """Read what the agent says beside the protocol, and forget it: it may name secrets."""
    if stream is None:
        return

    def read() -> None:
        with suppress(OSError, ValueError):
            while stream.read(65_536):
                pass

    threading.Thread(target=read, name="stoa-acp-errors", daemon=True).start()


register_engine("acp", AcpEngine())
