"""The list of assistants, and the page that makes a new one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.accounts.write_limits import WriteLimitExceeded
from models.assistants import SavedAssistant, assistants_page, check_capability, create_assistant
from models.assistants.assistant_listing import MAX_SEARCH
from models.core.db import db
from models.core.errors import Invalid
from views.assistants.pages.assistant_blueprint import (
    assistant_action,
    assistant_page,
    problems_of,
    viewer_may,
)
from views.assistants.pages.assistant_form import (
    AssistantForm,
    blank_form,
    entered_form,
    form_choices,
    form_fragment,
    parsed_form,
    placed_problems,
)
from views.web.guards import settings
from views.web.htmx import render, see_other, toast, wants_fragment
from views.web.keyset import cursor, cursor_text
from views.web.org_guards import signed_in, viewed_account

PAGE = 30


@dataclass(frozen=True)
class ListedAssistants:
    """A page of assistants. `words` are searched, `deleted`: the deleted ones alone."""

    rows: Sequence[SavedAssistant]
    words: str
    deleted: bool
    next_href: str | None
    after: bool


@assistant_page("")
def assistant_list() -> ResponseReturnValue:
    """List the assistants of the account, newest first. Query: `q`, `deleted`, `before`. With htmx: the list, or after a cursor the next rows.
    Raises Forbidden."""
    found = _listed()
    partial = "assistants/_more_rows.html" if found.after else "assistants/_list.html"
    return render(
        "assistants/assistants.html", partial=partial, listing=found, may_edit=viewer_may("edit_assistants")
    )


@assistant_page("/new")
def new_assistant() -> ResponseReturnValue:
    """Show the form of a new assistant. Raises Forbidden."""
    check_capability(signed_in().id, viewed_account(), "edit_assistants")
    return _form(blank_form(), {})


@assistant_action("")
def add_assistant() -> ResponseReturnValue:
    """Make an assistant. 422 with what was entered if it cannot be saved. Raises Forbidden."""
    check_capability(signed_in().id, viewed_account(), "edit_assistants")
    form = entered_form()
    if form.more:
        return _form(form, {}, status=200)
    try:
        raw, budget = parsed_form(form)
        made = create_assistant(signed_in().id, viewed_account(), raw, settings(), budget=budget)
    except (Invalid, WriteLimitExceeded) as error:
        db.session.rollback()
        return _form(form, placed_problems(problems_of(error, "name")), status=422)
    db.session.commit()
    toast(f"“{made.assistant.name[:80]}” is saved. Test it beside the editor.")
    return see_other(url_for("assistants.editor", assistant_id=made.assistant.id))


def _form(form: AssistantForm, errors: Mapping[str, str], status: int = 200) -> ResponseReturnValue:
    context: dict[str, Any] = {"saved": None, "form": form, "errors": errors, "stale": None, "may_edit": True}
    context |= {"test_id": None, **form_choices(form)}
    if wants_fragment() and request.method == "POST":
        return form_fragment(status=status, **context)
    return render("assistants/new.html", status=status, **context)


def _listed() -> ListedAssistants:
    words = request.args.get("q", "").replace("\0", "").strip()[:MAX_SEARCH]
    deleted, before = request.args.get("deleted") == "1", cursor()
    rows = assistants_page(
        signed_in().id, viewed_account(), search=words, only_deleted=deleted, before=before, limit=PAGE + 1
    )
    next_href = None
    if len(rows) > PAGE:
        last = rows[PAGE - 1].assistant
        query: dict[str, Any] = {"q": words or None, "deleted": "1" if deleted else None}
        next_href = url_for(
            "assistants.assistant_list", before=cursor_text(last.created_at, last.id), **query
        )
    return ListedAssistants(rows[:PAGE], words, deleted, next_href, before is not None)
