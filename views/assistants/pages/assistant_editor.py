"""The editor of an assistant, with a test beside it: saving makes a version, and a test is a thread with that version."""

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, request, url_for
from flask.typing import ResponseReturnValue

from models.accounts.write_limits import WriteLimitExceeded
from models.assistants import (
    SavedAssistant,
    StaleVersion,
    check_capability,
    runnable_assistant,
    update_assistant,
)
from models.assistants.assistant_comparison import changed_fields, content_changes, content_of
from models.core.db import db
from models.core.errors import Conflict, Invalid, NotFound
from models.store.catalogue.version_diff import FieldChange
from models.threads import Thread, change_thread, create_thread, own_thread
from views.assistants.pages.assistant_blueprint import (
    assistant_action,
    assistant_page,
    problems_of,
    viewed_assistant,
    viewer_may,
)
from views.assistants.pages.assistant_form import (
    AssistantForm,
    entered_form,
    form_choices,
    form_fragment,
    form_of,
    parsed_form,
    placed_problems,
)
from views.threads.pages.thread_page import thread_context
from views.web.guards import settings
from views.web.htmx import render, see_other, toast, wants_fragment
from views.web.org_guards import check_spending, signed_in, viewed_account


@assistant_page("/<assistant_id>")
def editor(assistant_id: str) -> ResponseReturnValue:
    """Show the editor. Query: `test`, the thread of the test beside it. Raises NotFound, Forbidden."""
    saved = viewed_assistant(assistant_id, deleted=True)
    return _page(saved, form_of(saved), {})


@assistant_action("/<assistant_id>")
def save(assistant_id: str) -> ResponseReturnValue:
    """Save what changed as a new version; with `then` = `test` begin a test with it. 422 with what was entered if it cannot be saved, 409 with both
    if somebody saved meanwhile. Raises NotFound, Forbidden."""
    check_capability(signed_in().id, viewed_account(), "edit_assistants")
    saved, form = viewed_assistant(assistant_id), entered_form()
    if form.more:
        return _page(saved, form, {})
    try:
        raw, budget = parsed_form(form)
        saved = _saved(saved, form, raw, budget)
        test = _begun_test(saved) if request.form.get("then") == "test" else _test_of(saved)
    except StaleVersion:
        db.session.rollback()
        return _stale(viewed_assistant(assistant_id), form, raw)
    except (Invalid, Conflict, WriteLimitExceeded) as error:
        db.session.rollback()
        return _page(
            viewed_assistant(assistant_id), form, placed_problems(problems_of(error, "name")), status=422
        )
    db.session.commit()
    return _editor_with(saved, test)


@assistant_action("/<assistant_id>/tests")
def begin_test(assistant_id: str) -> ResponseReturnValue:
    """Begin a test of the current version. Raises NotFound, Forbidden."""
    test = _begun_test(viewed_assistant(assistant_id))
    db.session.commit()
    return _editor_with(viewed_assistant(assistant_id), test)


def _saved(
    saved: SavedAssistant, form: AssistantForm, raw: Mapping[str, Any], budget: int | None
) -> SavedAssistant:
    """The assistant with what was entered: a new version only if something changed. Raises as `update_assistant` does."""
    changed = changed_fields(saved.version, raw)
    if form.version is not None and form.version != saved.version.version:
        raise StaleVersion(saved.version.version)
    if not changed and budget == saved.assistant.budget:
        return saved
    found = update_assistant(
        signed_in().id,
        viewed_account(),
        saved.assistant.id,
        changed,
        settings(),
        expected=form.version,
        budget=budget if budget != saved.assistant.budget else False,
    )
    toast(f"Saved as version {found.version.version}." if changed else "The budget is saved.")
    return found


def _begun_test(saved: SavedAssistant) -> Thread:
    """A thread for a test of the current version: the one that is shown if it has no message yet, else a new one. Flushes. Raises Forbidden."""
    check_spending()
    saved = runnable_assistant(signed_in().id, viewed_account(), saved.assistant.id)
    name = f"Test of {saved.version.name[:200]}, version {saved.version.version}"
    shown = _test_of(saved)
    if shown is not None and shown.head_id is None:
        return change_thread(shown, name=name, model=saved.version.model)
    return create_thread(
        signed_in().id,
        viewed_account(),
        name=name,
        model=saved.version.model,
        assistant_id=saved.assistant.id,
    )


def _test_of(saved: SavedAssistant) -> Thread | None:
    """The viewer's thread `test` of the request, if it is one of this assistant."""
    thread_id = request.values.get("test", "")
    if not thread_id or "\0" in thread_id:
        return None
    try:
        found = own_thread(signed_in().id, viewed_account().id, thread_id)
    except NotFound:
        return None
    return found if found.assistant_id == saved.assistant.id else None


def _editor_with(saved: SavedAssistant, test: Thread | None) -> Response:
    query: dict[str, Any] = {"test": test.id} if test is not None else {}
    if test is not None and request.form.get("then") == "test":
        query["_anchor"] = "test"
    return see_other(url_for("assistants.editor", assistant_id=saved.assistant.id, **query))


def _stale(saved: SavedAssistant, form: AssistantForm, raw: Mapping[str, Any]) -> ResponseReturnValue:
    """The form with what differs from the version that somebody else saved. Sent again, it replaces that version."""
    differences = content_changes(content_of(saved.version), {**content_of(saved.version), **raw})
    response = _page(saved, form, {}, status=409, stale=differences)
    response.headers["HX-Reswap"] = "outerHTML show:top"
    return response


def _page(
    saved: SavedAssistant,
    form: AssistantForm,
    errors: Mapping[str, str],
    status: int = 200,
    stale: Sequence[FieldChange] | None = None,
) -> Response:
    may_edit = viewer_may("edit_assistants") and saved.assistant.deleted_at is None
    common = {
        "saved": saved,
        "form": form,
        "errors": errors,
        "stale": stale,
        "may_edit": may_edit,
        **form_choices(form),
    }
    test = _test_of(saved)
    test_id = test.id if test is not None else None
    if wants_fragment() and request.method == "POST":
        return form_fragment(status=status, test_id=test_id, **common)
    runs = viewer_may("run_assistants") and viewer_may("spend") and saved.assistant.deleted_at is None
    return render(
        "assistants/editor.html",
        status=status,
        test_id=test_id,
        tested=thread_context(test) if test is not None and runs else None,
        may_run=runs,
        may_delete=viewer_may("delete_assistants") or saved.assistant.user_id == signed_in().id,
        **common,
    )
