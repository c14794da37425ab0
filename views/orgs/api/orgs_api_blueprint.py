"""The blueprint of the JSON routes of organisations, and what they share."""

from typing import Literal

from flask import Blueprint, Response

from views.web.error_bodies import door
from views.web.operation import Answers, ResponseModel

bp = Blueprint("orgs_api", __name__)

DOOR = door()
MEMBERS: Answers = {404: "Organisation not found, or not yours"}
OWNERS_AND_ADMINS: Answers = {
    403: "You are neither owner nor admin",
    404: "Organisation not found, or not yours",
    429: "Too many changes",
}


class OrgSuccess(ResponseModel):
    success: Literal[True]


def created(answer: Response) -> bool:
    """Whether the request created something. Rejected requests do not count towards the limit."""
    return answer.status_code == 201
