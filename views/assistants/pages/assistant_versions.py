"""The versions of an assistant: the list, what differs between any two, and restoring one."""

import re

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.accounts import User
from models.assistants import restore_version, versions_page
from models.assistants.assistant_comparison import content_changes, content_of
from models.core.db import db
from models.core.errors import Conflict, NotFound
from views.assistants.pages.assistant_blueprint import (
    assistant_action,
    assistant_page,
    viewed_assistant,
    viewer_may,
)
from views.web.guards import settings
from views.web.htmx import render, see_other, toast
from views.web.org_guards import signed_in, viewed_account

PAGE = 30


@assistant_page("/<assistant_id>/versions")
def version_list(assistant_id: str) -> ResponseReturnValue:
    """List the versions, newest first. Query: `before`, a number. Raises NotFound, Forbidden."""
    saved = viewed_assistant(assistant_id)
    text = request.args.get("before", "")
    before = _number(text) if text else None
    rows = versions_page(signed_in().id, viewed_account(), assistant_id, before=before, limit=PAGE + 1)
    people = {each.created_by: _name(each.created_by) for each in rows[:PAGE]}
    return render(
        "assistants/versions.html",
        partial="assistants/_more_versions.html" if before is not None else None,
        saved=saved,
        versions=rows[:PAGE],
        people=people,
        next_before=rows[PAGE - 1].version if len(rows) > PAGE else None,
        may_edit=viewer_may("edit_assistants"),
    )


@assistant_page("/<assistant_id>/comparison")
def comparison(assistant_id: str) -> ResponseReturnValue:
    """Show what differs between the versions `before` and `after`; by default the current one and the one before it. Raises NotFound, Forbidden."""
    saved = viewed_assistant(assistant_id)
    current = saved.version.version
    after = _number(request.args.get("after", str(current)))
    old = viewed_assistant(assistant_id, _number(request.args.get("before", str(max(after - 1, 1)))))
    new = viewed_assistant(assistant_id, after)
    return render(
        "assistants/comparison.html",
        saved=saved,
        old=old.version,
        new=new.version,
        changes=content_changes(content_of(old.version), content_of(new.version)),
        may_edit=viewer_may("edit_assistants"),
    )


@assistant_action("/<assistant_id>/versions/<number>/restoration")
def restore_content(assistant_id: str, number: str) -> ResponseReturnValue:
    """Make a new version with the content of an earlier one, unless somebody saved since the page was shown. Raises NotFound, Forbidden, Conflict."""
    current = request.form.get("current", "")
    expected = int(current) if re.fullmatch(r"\d{1,9}", current, re.ASCII) else None
    try:
        found = restore_version(
            signed_in().id, viewed_account(), assistant_id, _number(number), settings(), expected=expected
        )
    except Conflict as error:
        db.session.rollback()
        toast(error.message, "bad")
        return see_other(url_for("assistants.version_list", assistant_id=assistant_id))
    db.session.commit()
    toast(f"Version {found.version.version} has the content of version {number}.")
    return see_other(url_for("assistants.editor", assistant_id=assistant_id))


def _number(text: str) -> int:
    """The number of a version. Raises NotFound."""
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise NotFound("There is no such version.")
    return int(text)


def _name(user_id: str | None) -> str:
    user = db.session.get(User, user_id) if user_id else None
    return user.display_name if user is not None else "a former member"
