"""Rebasing the patch of a run in the browser: what it changes in what the workspace has now, and the choices where both changed the same."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from flask import request
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import DomainError
from models.insights.item_run_reading import FoundRun, WrongState
from models.insights.item_run_rebasing import USE_PATCH, RunRebase, preview_rebase, rebase_run
from models.insights.item_run_review import ReviewedConflict, rebase_texts, reviewed_conflicts
from models.projects.merge import CUSTOM, USE_WORKSPACE, MergeLabel
from views.insights.pages.item_run_blueprint import run_address, run_form, run_page, viewed_run
from views.projects.api.sync_bodies import REASONS
from views.projects.pages.project_blueprint import asked, entered, viewer, viewer_may
from views.projects.pages.sync_answers import SyncAnswers
from views.projects.pages.sync_words import DecisionWords
from views.turns.api import turn_engine
from views.web.guards import session_key
from views.web.htmx import render, see_other, toast

MAX_CHOICES = 100
"""Conflicts that a form decides; a patch with more is one for the API."""
MAX_CHANGES, MAX_WARNINGS = 500, 50
LABELS = {
    MergeLabel.SAME: "both made this change",
    MergeLabel.ONE_SIDED: "as the patch has it",
    MergeLabel.RENAMED: "moved",
    MergeLabel.LINES: "merged by lines",
    MergeLabel.STRUCTURE: "merged by structure",
    MergeLabel.KEYS: "merged by key",
}
OPTIONS = [
    (USE_PATCH, "The patch’s", "Take it from the patch"),
    (USE_WORKSPACE, "The workspace’s", "Keep it as the workspace has it"),
]


class RebasedFile(NamedTuple):
    """A file that a rebase changes without a choice."""

    path: str
    label: str
    removed: bool


@run_page("/runs/<run_id>/rebase")
def rebase(project_id: str, run_id: str) -> ResponseReturnValue:
    """What the patch would change in what the workspace has now, with the form that decides. Query: `view`, `split` for texts side by side.
    Raises NotFound, Forbidden, FilesUnavailable (503)."""
    return _page(viewed_run(project_id, run_id), SyncAnswers({}, {}, ""))


@run_form("/runs/<run_id>/rebase")
def begin_rebase(project_id: str, run_id: str) -> ResponseReturnValue:
    """Merge the patch with what the workspace has now; its checks run again. 422 with the answers so far if some are missing or wrong. Raises
    NotFound, Forbidden, FilesUnavailable (503)."""
    found = viewed_run(project_id, run_id, "edit_projects")
    answers, engine = _answers(), turn_engine()
    version = entered("version")
    expected = int(version) if version.isascii() and version.isdigit() and len(version) < 10 else None
    try:
        merged = preview_rebase(viewer(), found.run.id, "edit_projects")
        if problems := _problems(merged, answers):
            return _page(found, answers, problems=problems)
        _, turn = rebase_run(
            viewer(),
            found.run.id,
            key=session_key(),
            owner=engine.owner,
            decisions=answers.chosen,
            custom=rebase_texts(merged, answers.chosen, answers.own),
            expected=expected,
        )
    except WrongState as error:
        db.session.rollback()
        toast(error.message, "bad")
        return see_other(run_address(found))
    except DomainError as error:
        db.session.rollback()
        if error.status >= 500:
            raise
        return _page(viewed_run(project_id, run_id), answers, problem=error.message)
    turn_id = turn.id
    db.session.commit()
    engine.run(turn_id)
    toast("The patch is merged with the newer files. Its checks run again.")
    return see_other(run_address(found))


def _page(
    found: FoundRun, answers: SyncAnswers, problem: str = "", problems: Mapping[str, str] | None = None
) -> ResponseReturnValue:
    impossible, merged = "", None
    try:
        merged = preview_rebase(viewer(), found.run.id)
    except WrongState as error:
        toast(error.message, "bad")
        return see_other(run_address(found))
    except DomainError as error:
        if error.status >= 500:
            raise
        impossible = error.message
    return render(
        "insights/item_run_rebase.html",
        status=422 if problem or problems else 200,
        project=found.project,
        workspace=found.workspace,
        item=found.item,
        run=found.run,
        impossible=impossible,
        problem=problem,
        problems=problems or {},
        answers=answers,
        split=asked("view") == "split",
        may_sync=viewer_may("edit_projects"),
        **_shown(merged, answers),
    )


def _shown(merged: RunRebase | None, answers: SyncAnswers) -> dict[str, Any]:
    """What the page shows of a merge."""
    if merged is None:
        return {"decisions": [], "changes": [], "warnings": [], "version": 0, "count": 0, "left": 0}
    decisions = merged.merge.decisions
    return {
        "decisions": [_words(each) for each in reviewed_conflicts(merged, MAX_CHOICES)],
        "changes": [
            RebasedFile(path, LABELS.get(each.label, ""), each.result is None)
            for path, each in merged.merge.paths.items()
            if each.decision is None and path in merged.paths
        ][:MAX_CHANGES],
        "warnings": merged.merge.warnings[:MAX_WARNINGS],
        "version": merged.version,
        "count": len(decisions),
        "left": len(decisions.keys() - answers.chosen.keys()),
    }


def _words(conflict: ReviewedConflict) -> DecisionWords:
    also = conflict.paths if len(conflict.paths) > 1 else []
    return DecisionWords(
        conflict.path,
        conflict.mark,
        REASONS[conflict.reason].replace("Both sides", "The patch and the workspace"),
        f"The answer settles {', '.join(also[:10])}." if also else "",
        "",
        OPTIONS,
        conflict.review is not None and conflict.review.own is not None,
        conflict.review,
    )


def _answers() -> SyncAnswers:
    """The answers of the form by path: fields `path-1`, `choice-1` and `text-1`, and so on."""
    chosen, own = {}, {}
    for place in range(1, MAX_CHOICES + 1):
        if f"path-{place}" not in request.form:
            break
        path, choice = entered(f"path-{place}"), entered(f"choice-{place}")
        if choice:
            chosen[path] = choice
        if f"text-{place}" in request.form:
            own[path] = entered(f"text-{place}")
    return SyncAnswers(chosen, own, "")


def _problems(merged: RunRebase, answers: SyncAnswers) -> dict[str, str]:
    """What is missing or wrong, by path."""
    found = {}
    for path, each in merged.merge.decisions.items():
        options = [USE_PATCH, USE_WORKSPACE, *([CUSTOM] if each.custom_mode is not None else [])]
        choice = answers.chosen.get(path)
        if choice is None:
            found[path] = "Choose one."
        elif choice not in options:
            found[path] = "Choose one of these."
        elif choice == CUSTOM and not answers.own.get(path, "").strip():
            found[path] = "Enter the text of the file."
    return found
