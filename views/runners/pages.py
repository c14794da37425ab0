"""Pages of the runners of a person (`/runners`) and of an organisation: list, make, remove, with the levels at which work runs."""

import shlex
from collections.abc import Mapping

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import Conflict, DomainError, Invalid
from models.orgs import can
from models.runners import levels
from models.runners.account_runner import (
    MAX_LABELS,
    NAME_CHARACTERS,
    check_removal,
    create_runner,
    may_remove,
    remove_runner,
    runner_of_account,
    runners_of,
)
from models.runners.runner_tables import Runner
from models.runners.work_queue import current_work, recent_work
from views.web.guards import current_session, limiter, settings
from views.web.htmx import render, see_other, toast
from views.web.new_key import keep_new_key, pop_new_key
from views.web.org_guards import account_page_for, current_membership, org_caller, signed_in, viewed_account

bp = Blueprint("runners", __name__)

LISTED_WORK = 20
DOING = {
    "run": "Runs a command",
    "list": "Reads files",
    "read": "Reads files",
    "search": "Searches files",
    "write": "Writes files",
    "delete": "Deletes files",
    "changes": "Collects what changed",
}
"""What a verb of a work is called."""


@bp.get("/runners")
@bp.get("/orgs/<slug>/runners")
@account_page_for("see_projects")
def runner_list() -> ResponseReturnValue:
    """List the runners and what they worked on, and the levels of the server, with the form for a new one."""
    return _page({"name": "", "labels": ""}, {})


@bp.post("/runners")
@bp.post("/orgs/<slug>/runners")
@account_page_for("edit_projects")
@limiter.limit("20/minute;200/hour", key_func=org_caller)
def add_runner() -> ResponseReturnValue:
    """Make a runner, and show its key once, on its page. 422 with what was entered."""
    form = {name: request.form.get(name, "").replace("\0", "").strip() for name in ("name", "labels")}
    try:
        runner, token = create_runner(
            signed_in(),
            viewed_account(),
            name=form["name"],
            labels=form["labels"].replace(",", " ").split(),
            by=current_session(),
            limit=settings().stoa_keys_per_account,
            now=now(),
        )
    except (Invalid, Conflict) as error:
        db.session.rollback()
        return _page(form, _problems(error))
    db.session.commit()
    keep_new_key(token)
    return see_other(url_for("runners.new_runner", runner_id=runner.id))


@bp.get("/runners/<runner_id>")
@bp.get("/orgs/<slug>/runners/<runner_id>")
@account_page_for("see_projects")
def new_runner(runner_id: str) -> ResponseReturnValue:
    """How a runner is started, with its key if it was made just now. Raises NotFound."""
    runner = _own(runner_id)
    secret = pop_new_key(runner.key_id)
    response = render(
        "runners/new_runner.html", runner=runner, quoted=shlex.quote(runner.name), secret=secret, now=now()
    )
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/runners/<runner_id>/removal")
@bp.get("/orgs/<slug>/runners/<runner_id>/removal")
@account_page_for("edit_projects")
def ask_runner_removal(runner_id: str) -> ResponseReturnValue:
    """Ask to remove a runner. Raises NotFound, Forbidden."""
    runner = _own(runner_id)
    check_removal(signed_in().id, runner)
    return render("runners/runner_removal.html", partial="runners/_runner_removal.html", runner=runner)


@bp.post("/runners/<runner_id>/removal")
@bp.post("/orgs/<slug>/runners/<runner_id>/removal")
@account_page_for("edit_projects")
@limiter.limit("60/minute", key_func=org_caller)
def end_runner(runner_id: str) -> ResponseReturnValue:
    """Remove a runner and its key. Raises NotFound, Forbidden."""
    runner = _own(runner_id)
    check_removal(signed_in().id, runner)
    remove_runner(runner)
    db.session.commit()
    toast(f"{runner.name} is removed, and its key revoked.")
    return see_other(url_for("runners.runner_list"))


def _page(form: Mapping[str, str], errors: Mapping[str, str]) -> ResponseReturnValue:
    account, user_id = viewed_account(), signed_in().id
    rows = runners_of(account.id)
    may_edit = account.org_id is None or can(current_membership(), "edit_projects")
    response = render(
        "runners/runners.html",
        partial="runners/_runner_form.html" if errors else None,
        rows=rows,
        names={row.id: row.name for row in rows},
        removable={row.id for row in rows if may_edit and may_remove(user_id, row)},
        work=recent_work(account.id, LISTED_WORK),
        current=current_work(account.id),
        doing=DOING,
        levels=levels(account.id),
        may_edit=may_edit,
        form=form,
        errors=errors,
        most_labels=MAX_LABELS,
        most_characters=NAME_CHARACTERS,
        now=now(),
        status=422 if errors else 200,
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def _problems(error: DomainError) -> dict[str, str]:
    fields = error.fields if isinstance(error, Invalid) else {}
    return dict(fields) or {"name": error.message}


def _own(runner_id: str) -> Runner:
    return runner_of_account(viewed_account().id, runner_id)
