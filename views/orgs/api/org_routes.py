"""List organisations (contract 2.8)."""

from flask import jsonify
from flask.typing import ResponseReturnValue

from models.orgs import PEOPLE_ROLES, memberships
from models.orgs.counts import counts_of
from views.orgs.api.orgs_api_blueprint import bp
from views.web.error_bodies import door
from views.web.guards import require_cookie_user
from views.web.operation import Operation, ResponseModel


class OrgListed(ResponseModel):
    id: str
    name: str
    slug: str
    role: str
    memberCount: int
    repositoryCount: int


class OrgsAnswer(ResponseModel):
    organizations: list[OrgListed]


@bp.get("/api/orgs")
@Operation(
    tag="Organisations",
    caller="cookie",
    answers={200: (f"The organisations you belong to; roles are {', '.join(PEOPLE_ROLES)}", OrgsAnswer)},
    door=door(),
)
def orgs() -> ResponseReturnValue:
    """List the organisations you are a member of, by name."""
    found = memberships(require_cookie_user().id)
    counts = counts_of([org.id for org, _ in found])
    return jsonify(
        organizations=[
            {
                "id": org.id,
                "name": org.name,
                "slug": org.slug,
                "role": member.role,
                "memberCount": counts[org.id].members,
                "repositoryCount": counts[org.id].repositories,
            }
            for org, member in found
        ]
    )
