"""Settings of a thread: name, instructions, model, assistant and budget; and its export."""

from collections.abc import Mapping

from flask import Response, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.threads import Thread, change_thread
from models.threads.exported_threads import export_json, export_markdown
from models.threads.thread_reading import usable_assistants
from models.threads.turn_resuming import resume_paused
from views.threads.pages.composer import composer_context
from views.threads.pages.thread_blueprint import thread_form, thread_page, viewed_thread
from views.threads.pages.thread_forms import credits_of, entered
from views.turns.api import turn_engine
from views.web.htmx import render, see_other, toast
from views.web.org_guards import viewed_account

FIELDS = ("name", "instructions", "model", "assistant", "budget")
EXPORTS = {"json": "application/json", "md": "text/markdown; charset=utf-8"}


@thread_page("/<thread_id>/settings")
def settings(thread_id: str) -> ResponseReturnValue:
    """The settings of a thread. Raises NotFound."""
    found = viewed_thread(thread_id)
    saved = {
        "name": found.name,
        "instructions": found.instructions or "",
        "model": found.model or "",
        "assistant": found.assistant_id or "",
        "budget": str(found.budget) if found.budget is not None else "",
    }
    return _page(found, saved)


@thread_form("/<thread_id>/settings", "60/minute")
def save_settings(thread_id: str) -> ResponseReturnValue:
    """Save the settings of a thread; a raised budget lets paused answers go on. 422 with what was entered. Raises NotFound."""
    found = viewed_thread(thread_id)
    engine = turn_engine()
    try:
        change_thread(
            found,
            name=entered("name"),
            instructions=entered("instructions").replace("\r\n", "\n").strip() or None,
            model=entered("model").strip() or None,
            assistant_id=entered("assistant") or None,
            budget=credits_of("budget"),
        )
        db.session.commit()
    except (Invalid, NotFound) as error:
        db.session.rollback()
        fields = error.fields if isinstance(error, Invalid) else {"assistant": error.message}
        return _page(found, {name: entered(name) for name in FIELDS}, errors=fields)
    resumed = resume_paused(engine.owner, thread_id=found.id)
    db.session.commit()
    for each in resumed:
        engine.run(each)
    toast("Saved.")
    return see_other(url_for("threads.thread", thread_id=found.id))


@thread_page("/<thread_id>/export/<form>")
def export(thread_id: str, form: str) -> ResponseReturnValue:
    """Download a thread: `json` with all branches, or `md`, the branch that is shown. Raises NotFound."""
    found = viewed_thread(thread_id, deleted=True)
    if form not in EXPORTS:
        raise NotFound("There is no such export.")
    rows = export_json(found) if form == "json" else export_markdown(found)
    name = "".join(each if each.isascii() and each.isalnum() else "-" for each in found.name.lower())
    name = "-".join(filter(None, name.split("-")))[:60] or "thread"
    headers = {"Content-Disposition": f'attachment; filename="{name}.{form}"', "Cache-Control": "no-store"}
    response = Response(rows, content_type=EXPORTS[form], headers=headers)
    db.session.rollback()
    return response


def _page(found: Thread, values: Mapping[str, str], errors: Mapping[str, str] | None = None) -> Response:
    return render(
        "threads/settings.html",
        status=422 if errors else 200,
        thread=found,
        fields=values,
        problems=errors or {},
        choices=[("", "No assistant"), *usable_assistants(viewed_account().id)],
        names=composer_context(found)["models"],
    )
