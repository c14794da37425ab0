"""JSON API of stars."""

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from models.accounts import User
from models.core.db import db
from models.store.catalogue import stars
from views.store.api.publishers import signed_in
from views.web.error_bodies import ApiError, door
from views.web.guards import caller_account, limiter
from views.web.operation import Answers, Operation, ResponseModel

bp = Blueprint("stars_api", __name__)

STAR = "/api/agents/<publisher_id>/<agent_id>/star"
DOOR = door(body_error=ApiError)


class AgentStars(ResponseModel):
    stars: int
    starred: bool


ANSWERS: Answers = {200: ("The agent's stars", AgentStars), 404: "Agent not found", 410: "Taken down"}


@bp.post(STAR)
@limiter.limit("120/hour", key_func=caller_account)
@Operation(tag="Store", caller="cookie", answers=ANSWERS, door=DOOR)
@signed_in
def add_star(user: User, publisher_id: str, agent_id: str) -> ResponseReturnValue:
    """Star an agent.

    One star per user: a repetition changes nothing.
    """
    count = stars.star(user, publisher_id, agent_id)
    db.session.commit()
    return jsonify(stars=count, starred=True)


@bp.delete(STAR)
@limiter.limit("120/hour", key_func=caller_account)
@Operation(tag="Store", caller="cookie", answers=ANSWERS, door=DOOR)
@signed_in
def remove_star(user: User, publisher_id: str, agent_id: str) -> ResponseReturnValue:
    """Take your star back.

    Without one, nothing changes.
    """
    count = stars.unstar(user, publisher_id, agent_id)
    db.session.commit()
    return jsonify(stars=count, starred=False)
