"""The blueprint of the JSON API of runners, and which runner calls."""

from typing import Annotated, cast

from flask import Blueprint, Flask, current_app
from pydantic import Field

from models.runners.account_runner import runner_of_key
from models.runners.runner_tables import Runner
from models.runners.work_news import WorkNews
from views.projects.api.projects_api_blueprint import project_caller
from views.web.operation import Answers, path

bp = Blueprint("runners_api", __name__, url_prefix="/v1/runners")

Texts = Annotated[list[str], Field(fail_fast=True)]
"""A list of texts in a body: the first that is wrong is told, however long it is."""
CALLS = "6000/minute"
"""How many requests one runner may make: two for each action of its work, and one a second while a command writes."""
WORK_ID = path("workId", "The id of the work")
NO_RUNNER: Answers = {403: "No runner has this key (`NO_RUNNER`)"}
GONE: Answers = {
    **NO_RUNNER,
    404: "Your account has no such work",
    409: "The work is not leased to you any more (`LEASE_LOST`): stop it",
}


def calling_runner() -> Runner:
    """The runner whose key the request has. Raises DomainError (401), NoRunnerKey (403)."""
    return runner_of_key(project_caller().session)


def init_app(app: Flask) -> None:
    """Create what wakes this process's waiters for works."""
    app.extensions["work_news"] = WorkNews(app.extensions["turns"])


def work_news() -> WorkNews:
    """What wakes the waiters of this process."""
    return cast(WorkNews, current_app.extensions["work_news"])
