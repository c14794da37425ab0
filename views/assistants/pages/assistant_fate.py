"""Duplicating an assistant, deleting it, and restoring a deleted one."""

from flask import url_for
from flask.typing import ResponseReturnValue

from models.assistants import check_capability, delete_assistant, duplicate_assistant, restore_assistant
from models.core.db import db
from models.core.errors import Conflict
from views.assistants.pages.assistant_blueprint import assistant_action, assistant_page, viewed_assistant
from views.web.guards import settings
from views.web.htmx import render, see_other, toast
from views.web.org_guards import signed_in, viewed_account


@assistant_action("/<assistant_id>/copies")
def duplicate(assistant_id: str) -> ResponseReturnValue:
    """Make a copy of the current version, with a name of its own. Raises NotFound, Forbidden, Conflict."""
    made = duplicate_assistant(signed_in().id, viewed_account(), assistant_id, settings())
    db.session.commit()
    toast("This is the copy. Give it a name of its own.")
    return see_other(url_for("assistants.editor", assistant_id=made.assistant.id))


@assistant_page("/<assistant_id>/deletion")
def ask_deletion(assistant_id: str) -> ResponseReturnValue:
    """Ask whether to delete an assistant. Raises NotFound, Forbidden."""
    saved = viewed_assistant(assistant_id)
    if saved.assistant.user_id != signed_in().id:
        check_capability(signed_in().id, viewed_account(), "delete_assistants")
    return render("assistants/deletion.html", partial="assistants/_deletion.html", saved=saved)


@assistant_action("/<assistant_id>/deletion")
def delete(assistant_id: str) -> ResponseReturnValue:
    """Delete an assistant; it can be restored for a while. Raises NotFound, Forbidden."""
    found = delete_assistant(signed_in().id, viewed_account(), assistant_id)
    db.session.commit()
    toast(f"“{found.assistant.name[:80]}” is deleted. Restore it from the deleted assistants.")
    return see_other(url_for("assistants.assistant_list"))


@assistant_action("/<assistant_id>/restoration")
def restore(assistant_id: str) -> ResponseReturnValue:
    """Restore a deleted assistant. Raises NotFound, Forbidden, Conflict for too many."""
    try:
        restore_assistant(signed_in().id, viewed_account(), assistant_id, settings())
    except Conflict as error:
        if error.code != "not_deleted":
            raise
        db.session.rollback()
    else:
        db.session.commit()
        toast("The assistant is back.")
    return see_other(url_for("assistants.editor", assistant_id=assistant_id))
