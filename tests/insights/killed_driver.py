"""A process that drives a run of an action item, and stops at a point where a test kills it: `python -m tests.insights.killed_driver POINT RUN`.

Settings and the database come from the environment. It prints `stopped` when it is there."""

import sys
import time
from typing import Any, NoReturn

from sqlalchemy import update

from app import create_app
from models.conversations.conversation_prompts import KIND as CONVERSATION
from models.core.db import db
from models.core.settings import load_settings
from models.insights import ActionItemRun, item_run_agent, item_run_checking
from models.insights.item_run_applying import apply_run
from models.ledger import Account
from models.projects.workspaces.head_moves import Mover
from models.runners import Workplace
from models.turns import Turn, TurnEngine, engine
from tests.insights.item_run_rows import MENDED, ScriptedAgent
from tests.projects.project_rows import caller_of

LONG = 300.0


def stop() -> NoReturn:
    """Wait to be killed."""
    print("stopped", flush=True)
    time.sleep(LONG)
    raise SystemExit(1)


def stop_in_a_check(workplace: Workplace, *_: Any, **__: Any) -> NoReturn:
    """A command runs in the sandbox when the process is killed."""
    workplace.run("echo begun; sleep 300", seconds=LONG, on_output=lambda text: print("stopped", flush=True))
    raise SystemExit(1)


def drive(run_id: str, turns: TurnEngine) -> None:
    """Run the turn of the run here."""
    turn_id = db.session.get_one(ActionItemRun, run_id).turn_id or ""
    db.session.execute(update(Turn).where(Turn.id == turn_id).values(lease_owner=turns.owner))
    db.session.commit()
    turns.run(turn_id)
    time.sleep(LONG)


def main(point: str, run_id: str) -> None:
    """Go to the point."""
    app = create_app(load_settings(_env_file=None))
    # the first attempt fails if the second one is to be reached
    engine._KINDS[CONVERSATION] = ScriptedAgent([{} if point == "between" else {"add.py": MENDED}])
    if point == "between":
        begin = item_run_agent.ItemRunAgent.begin
        begun: list[Any] = []

        def begin_once(self: Any, checks: Any) -> None:
            if begun:
                stop()
            begun.append(checks)
            begin(self, checks)

        item_run_agent.ItemRunAgent.begin = begin_once  # type: ignore[method-assign]
    if point == "checks":
        item_run_checking.run_checks = stop_in_a_check
    with app.app_context():
        if point == "apply":
            run = db.session.get_one(ActionItemRun, run_id)
            caller = caller_of(run.user_id or "", Account(user_id=run.user_id))
            apply_run(caller, run_id, Mover(caller.user_id, "web"))
            stop()
        drive(run_id, app.extensions["turns"])


if __name__ == "__main__":
    main(*sys.argv[1:])
