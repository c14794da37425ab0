"""Runs the turns of conversations: the rounds of threads, or an engine of its own, on the files of a workspace, whose changes are kept at the end.

What was changed is stored after each round, so that it outlives the process; the head of the workspace moves once, when the turn ends.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from typing import Any, cast

from sqlalchemy import select

from models.conversations.conversation import ProjectConversation
from models.conversations.conversation_access import FoundConversation
from models.conversations.conversation_engine import EnginePlan, check_engine
from models.conversations.conversation_preamble import system_text
from models.conversations.conversation_prompts import (
    KIND,
    conversation_of,
    conversation_turn_ended,
    turn_result,
)
from models.conversations.conversation_questions import asked_by, close_questions, new_question
from models.conversations.conversation_wire import question_json
from models.conversations.driven_turn import DrivenRounds
from models.conversations.engine_session import EngineSession, GoingOn
from models.conversations.loop_guard import CODE as LOOP_GUARD
from models.conversations.loop_guard import LoopGuard
from models.conversations.turn_actions import TurnActions
from models.conversations.turn_ending import SavingFailed, TurnEnding, TurnWorkKeeper, tell_end
from models.conversations.turn_files import TurnFiles, TurnPlace
from models.conversations.turn_reversal import return_charges, return_later
from models.conversations.work_keeping import WorkBase, work_base, work_delta
from models.conversations.workplace_tools import (
    CHANGING,
    RUN_COMMAND,
    WorkplaceToolbox,
    command_of,
    command_outcome,
    command_seconds,
)
from models.core.db import db, now
from models.core.errors import DomainError, NotFound
from models.core.settings import Settings
from models.projects import Project, Workspace
from models.runners import Level, level_state
from models.threads import Thread, ThreadMessage
from models.threads.thread_documents import TurnDocuments
from models.threads.thread_turn import Calls, ThreadTurn
from models.threads.turn_budgets import Shortage
from models.threads.turn_setup import TurnSetup
from models.threads.turn_tools import MAX_CALLS, STOPPED, run_tools
from models.turns import Turn
from models.turns.engine import FAILED, LeaseLost, TurnHandle, register_kind

QUESTION_SECONDS = 7 * 86_400
"""How long a turn waits for the person's answer."""
SPARE_SECONDS = 30.0
"""What a command may take longer than its limit before the turn goes on without it."""
OUR_FAULT = "internal_error"
"""The code of a turn that failed on our side; what it cost is given back."""


class ConversationTurns:
    """The work of turns of conversations."""

    def run(self, handle: TurnHandle, *, taken_over: bool) -> None:
        """See `TurnWork`."""
        turn = ProjectConversationTurn(handle, handle.gateway.settings)
        try:
            turn.run(taken_over=taken_over)
        except LeaseLost:
            raise
        except Exception:
            turn.fail()
            raise
        finally:
            turn.close()


class ProjectConversationTurn(ThreadTurn):
    """One turn, while this process runs it."""

    place: TurnPlace
    base: WorkBase
    plan: EnginePlan
    files: TurnFiles

    def __init__(self, handle: TurnHandle, settings: Settings) -> None:
        super().__init__(handle, settings)
        self.guard = LoopGuard(settings.stoa_conversation_idle_credits)
        self._session: EngineSession | None = None
        self._system = ""
        self._ending: TurnEnding | None = None
        self._final = False

    # -- begin -----------------------------------------------------------------------------------------------

    def run(self, *, taken_over: bool = False) -> None:
        """See `ThreadTurn`."""
        if self._begin():
            try:
                self._answer(taken_over)
            except SavingFailed as failed:
                self._ending = TurnEnding("failed", failed.code, failed.message, ours=failed.ours)
        if self._ending is not None:
            self._finish(self._ending)

    def _answer(self, taken_over: bool) -> None:
        if self.plan.rounds:
            super().run(taken_over=taken_over)
        else:
            DrivenRounds(self).run(taken_over=taken_over)

    def _begin(self) -> bool:
        """Note what the turn begins with. False: it has ended, or only its end is left to do."""
        handle = self.handle
        with handle.context():
            # a probe may take long: not while the turn is locked
            found = conversation_of(db.session.get_one(Turn, handle.id))
            if found is not None:
                level_state(cast(Level, found.level), handle.account_id)
        with handle.step() as turn:
            try:
                self._find_place(turn)
            except DomainError as error:
                self._final = True
                self._end_now(turn, TurnEnding("failed", error.code, error.message))
                return False
            if (ending := turn.request.get("ending")) is not None:
                # the work is kept: its worker died before the turn had ended
                self._ending = TurnEnding(**ending)
        return self._ending is None

    def _find_place(self, turn: Turn) -> None:
        query = (
            select(ProjectConversation, Project, Workspace)
            .join(Project, Project.id == ProjectConversation.project_id)
            .join(Workspace, Workspace.id == ProjectConversation.workspace_id)
            .where(ProjectConversation.thread_id == turn.subject_id)
        )
        row = db.session.execute(query).one_or_none()
        if row is None or row[1].deleted_at is not None:
            raise NotFound("The project of this conversation was deleted.", code="project_deleted")
        conversation, project, workspace = row[0], row[1], row[2]
        engine = check_engine(conversation, project.account_id)
        self.plan = engine.plan(conversation, turn.user_id)
        stored = turn.request.get("base")
        if stored is None:
            scratch = turn.request.get("scratch")
            if scratch is None and workspace.deleted_at is not None:
                raise NotFound(
                    "The workspace of this conversation was deleted. Choose another one.",
                    code="workspace_deleted",
                )
            base = WorkBase(scratch["manifest_hash"], scratch=True) if scratch else work_base(workspace)
            stored = asdict(base)
            turn.request = {**turn.request, "base": stored, "work": base.manifest_hash}
        self.base = WorkBase(**stored)
        guard = turn.request.get("guard") or {}
        self.guard.changed(max(guard.get("credits", 0), turn.request.get("changed_at", 0)))
        self.place = TurnPlace(
            conversation_id=conversation.id,
            project_id=project.id,
            workspace_id=workspace.id,
            account_id=project.account_id,
            engine=conversation.engine,
            level=cast(Level, conversation.level),
            agent=conversation.agent,
            model=self.wanted.model or "",
            title=conversation.title or "Conversation",
        )
        self.files = TurnFiles(self.handle, self.place, self.plan, self.guard, turn)
        self.files.org_id = self.wanted.org_id
        thread = db.session.get_one(Thread, turn.subject_id)
        found = FoundConversation(conversation, project, workspace, thread)
        self._system = system_text(found, self.plan, self.files.work)

    # -- rounds ----------------------------------------------------------------------------------------------

    def setup(self, thread: Thread) -> TurnSetup:
        """See `ThreadTurn`."""
        if self._setup is None:
            route = None
            with suppress(DomainError):
                route = self.handle.gateway.routes.find(self.place.model)
            self._setup = TurnSetup(
                model=self.place.model,
                params=self.wanted.params,
                system=self._system,
                toolbox=WorkplaceToolbox(self.handle, self.plan, self.place.level, self.session),
                tool_choice=None,
                documents=TurnDocuments(),
                context=route.context_window if route else None,
                max_output=route.price.max_output if route and route.price else None,
                agent_id=self.plan.agent_id,
            )
        return self._setup

    @property
    def _limit(self) -> int:
        return self.wanted.max_rounds or self.settings.stoa_conversation_rounds

    def _where_it_was(self) -> Calls | None:
        calls = super()._where_it_was()
        if calls is None or self._ending is not None:
            return None
        with self.handle.step() as turn:
            written = self.written(turn)
            self.note_again(turn, written)
            newest = written[-1] if written else None
            if newest is None:
                return calls
            if newest.role == "assistant" and not newest.tool_calls and newest.state == "completed":
                # its worker died before its work was kept
                self._ending = TurnEnding("completed")
                return None
            self.parent_id = newest.id
        return calls

    def written(self, turn: Turn) -> list[ThreadMessage]:
        """The messages of the turn after the one that it answers."""
        query = select(ThreadMessage).where(
            ThreadMessage.turn_id == turn.id, ThreadMessage.id != self.wanted.parent_id
        )
        return list(db.session.scalars(query.order_by(ThreadMessage.seq)))

    def note_again(self, turn: Turn, written: list[ThreadMessage]) -> None:
        """Let the loop guard know what was called since somebody looked."""
        after = (turn.request.get("guard") or {}).get("seq", 0)
        calls = {call["id"]: call for each in written for call in each.tool_calls or ()}
        for each in written:
            if each.role == "tool" and each.seq > after and each.tool_call_id in calls:
                self.guard.note(calls[each.tool_call_id], each.text)

    def run_own(self, calls: Calls, setup: TurnSetup) -> list[str]:
        """One after the other, because one changes what the next one reads. What they changed is stored. Raises SavingFailed."""
        results = []
        for place, call in enumerate(calls):
            if place >= MAX_CALLS:
                results.append(f"This tool was not run: at most {MAX_CALLS} run in one answer.")
                continue
            if self.handle.stopped:
                results.append(STOPPED)
                continue
            results += run_tools(
                [call], setup.call, self.handle.context, self._seconds(call), self.files.on_stop
            )
            self.guard.note(call, results[-1])
            name = call["function"]["name"]
            self.files.dirty = self.files.dirty or name in CHANGING or bool(self.plan.more_tools)
            if name == RUN_COMMAND and (outcome := command_outcome(results[-1])):
                self.files.ran(str(command_of(call).get("command") or ""), outcome)
        self.files.store()
        return results

    def tools_ran(self, turn: Turn, calls: Calls) -> None:
        """See `ThreadTurn`: note the files as they are stored."""
        self.files.note(turn)

    def _answer_calls(self, calls: Calls) -> bool:
        if not super()._answer_calls(calls):
            return False
        handle = self.handle
        with handle.step() as turn:
            if (gone := self._gone()) is not None:
                self.end(turn, "failed", code=gone.code, message=gone.message)
                return False
            problem = self.guard.problem(turn.credits or 0)
            if problem is None:
                return True
            self.pause_and_ask(turn, db.session.get_one(Thread, handle.subject_id), problem)
        return False

    def pause_and_ask(self, turn: Turn, thread: Thread, problem: str) -> None:
        """Within a step: the agent makes no progress, so the turn waits for what the person says."""
        question = new_question(self.place.conversation_id, turn.id, LOOP_GUARD, [{"question": problem}])
        self.handle.record("question.asked", {"question": question_json(question)})
        self._pause(turn, thread, LOOP_GUARD, problem, question_id=question.id)

    def _gone(self) -> NotFound | None:
        """Why there is nothing left to work on; None if there is."""
        project = db.session.get(Project, self.place.project_id, populate_existing=True)
        if project is None or project.deleted_at is not None:
            return NotFound("The project of this conversation was deleted.", code="project_deleted")
        return None

    def _wait_for_client(self, turn: Turn, thread: Thread, calls: Calls) -> None:
        for call in calls:
            question = new_question(
                self.place.conversation_id, turn.id, "ask", asked_by(call), tool_call_id=call["id"]
            )
            self.handle.record("question.asked", {"question": question_json(question)})
        super()._wait_for_client(turn, thread, calls)
        turn.expires_at = now() + timedelta(seconds=QUESTION_SECONDS)

    def end(
        self, turn: Turn, state: str, *, code: str | None = None, message: str | None = None, **more: Any
    ) -> None:
        """Within a step: note how the turn is to end; it does when its work is kept."""
        ending = TurnEnding(state, code, message, more, ours=code == OUR_FAULT)
        if self._final:
            self._end_now(turn, ending)
        else:
            self._ending = ending

    # -- the files -------------------------------------------------------------------------------------------

    def session(self) -> EngineSession:
        """What a tool works with: the workplace, opened when it is needed first. In a context, outside of any transaction. Raises LevelUnavailable
        and what `open_workplace` raises."""
        with self.files.lock:
            if self._session is None:
                self._session = self.new_session(TurnActions(self), self.prompt(), ())
            return self._session

    def new_session(
        self,
        actions: TurnActions,
        prompt: str,
        history: Sequence[Mapping[str, Any]],
        going_on: GoingOn = "no",
    ) -> EngineSession:
        """A session with the opened workplace."""
        place = self.files.workplace(
            lambda: self.files.open_socket(on_refused=actions.refused, on_admitted=actions.admitted)
        )
        return EngineSession(
            self, actions, place, prompt=prompt, history=history, system=self._system, going_on=going_on
        )

    def prompt(self) -> str:
        """What was asked."""
        found = db.session.get(ThreadMessage, self.wanted.parent_id) if self.wanted.parent_id else None
        return found.text if found else ""

    def save_work(self) -> None:
        """Store what was changed, and note it. Raises LeaseLost, SavingFailed."""
        self.files.save()

    def close(self) -> None:
        """Leave the workplace. Idempotent."""
        if hasattr(self, "files"):
            self.files.close()

    def _seconds(self, call: Mapping[str, Any]) -> float:
        name = call["function"]["name"]
        if name != "run_command":
            own = {each.definition["function"]["name"]: each.seconds for each in self.plan.more_tools}
            return own.get(name) or self.tool_seconds
        return command_seconds(command_of(call)) + SPARE_SECONDS

    # -- the end ---------------------------------------------------------------------------------------------

    def _finish(self, ending: TurnEnding) -> None:
        """Keep the work, then end the turn."""
        self._final = True
        try:
            self._keep(ending)
        except DomainError as error:
            ours = ending.ours or error.status >= 500
            ending = TurnEnding("failed", error.code, error.message, ours=ours)
        with self.handle.step() as turn:
            self._end_now(turn, ending)
        if ending.ours:
            return_charges(self.handle)

    def _keep(self, ending: TurnEnding) -> None:
        """Make the snapshot, and prepare the sync if the workspace was moved meanwhile. Raises DomainError."""
        place = self.place
        with self.handle.context():
            delta = work_delta(place.account_id, self.base.manifest_hash, self.files.work)
        TurnWorkKeeper(self.handle, place.conversation_id, place.title).keep(
            self.base, self.files.work, delta, ending
        )

    def _end_now(self, turn: Turn, ending: TurnEnding) -> None:
        """Within a step: tell how it ended and what it changed, and end it."""
        tell_end(self.handle, turn, ending)
        close_questions(turn.id)
        conversation, stored = conversation_of(turn), turn.request.get("result")
        if conversation is not None:
            conversation.updated_at = now()
            if not (stored and turn.request.get("scratch")):
                conversation.work_manifest_hash = None
        super().end(turn, ending.state, code=ending.code, message=ending.message, **ending.more)
        if ending.ours:
            return_later(turn.id)
        db.session.flush()
        conversation_turn_ended.send(turn, conversation=conversation, result=turn_result(turn))

    # -- for engines that drive a turn themselves ------------------------------------------------------------

    def end_stopped(self, turn: Turn) -> None:
        """Within a step: the turn was stopped, or nobody answered it in time."""
        self._end_stopped(turn)

    def end_with(self, ending: TurnEnding) -> None:
        """It is to end so, once its work is kept."""
        self._ending = ending

    def pause(self, turn: Turn, thread: Thread, code: str, message: str, **more: Any) -> None:
        """Within a step: it waits, because a call was refused that may succeed later."""
        self._pause(turn, thread, code, message, **more)

    def pause_short(self, turn: Turn, thread: Thread, shortage: Shortage) -> None:
        """Within a step: a budget leaves too little."""
        self._pause_short(turn, thread, shortage)

    def begin_input(self, thread: Thread, turn: Turn) -> None:
        """Within a step: the messages of a turn that waited are added."""
        if self.parent_id is None:
            self.parent_id = self._add_input(thread, turn)

    def fail(self) -> None:
        """See `ThreadTurn`; what it had stored of its work is kept, and what it has spent is given back."""
        self._final = True
        with suppress(Exception):
            if self.files.work is not None and self.files.work != self.base.manifest_hash:
                self._keep(TurnEnding("failed", OUR_FAULT, FAILED, ours=True))
        super().fail()
        with suppress(Exception):
            return_charges(self.handle)


register_kind(KIND, ConversationTurns())
