"""Teams of an organisation: list, create, change, delete; their people."""

from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Conflict, DomainError, Invalid
from models.ledger.budgets import budgets_of
from models.orgs import OrgTeam, team_editing
from models.orgs.org_repos import repositories
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import limiter
from views.web.htmx import render, see_other, toast
from views.web.org_guards import current_org, org_account, org_caller, org_page

LIMIT = "120/minute"


@bp.get("/orgs/<slug>/teams")
@org_page()
def teams() -> ResponseReturnValue:
    """List the teams."""
    return _list()


def _list(name: str = "", errors: dict[str, str] | None = None, status: int = 200) -> ResponseReturnValue:
    return render(
        "orgs/teams.html",
        partial="orgs/_team_form.html" if errors else None,
        teams=team_editing.teams_listed(current_org()),
        name=name,
        errors=errors or {},
        status=status,
    )


@bp.post("/orgs/<slug>/teams")
@org_page("manage_teams")
@limiter.limit(LIMIT, key_func=org_caller)
def create_team() -> ResponseReturnValue:
    """Create a team, then open it."""
    name = request.form.get("name", "")
    try:
        team = team_editing.create_team(current_org(), name)
    except (Conflict, Invalid) as error:
        return _list(name, _errors(error), 422)
    db.session.commit()
    toast(f"Created the team {team.name}.")
    return see_other(url_for("orgs.team_page", team_id=team.id))


@bp.get("/orgs/<slug>/teams/<team_id>")
@org_page()
def team_page(team_id: str) -> ResponseReturnValue:
    """Show a team: people, keys, models, repositories."""
    return _team(team_editing.team_of(current_org(), team_id))


def _team(
    team: OrgTeam, form: dict[str, Any] | None = None, errors: dict[str, str] | None = None, status: int = 200
) -> ResponseReturnValue:
    allowed = team_editing.team_repositories(team)
    entered = {
        "name": team.name,
        "models": "\n".join(team.models or []),
        "repositories_only": team.repositories_only,
        "repositories": [repo.id for repo in allowed],
    }
    return render(
        "orgs/team_page.html",
        partial="orgs/_team_settings.html" if errors else None,
        team=team,
        people=team_editing.team_people(team),
        outside=team_editing.people_outside(team),
        allowed=allowed,
        repositories=[repo for repo, _ in repositories(current_org())],
        form={**entered, **(form or {})},
        errors=errors or {},
        status=status,
    )


@bp.post("/orgs/<slug>/teams/<team_id>")
@org_page("manage_teams")
@limiter.limit(LIMIT, key_func=org_caller)
def edit_team(team_id: str) -> ResponseReturnValue:
    """Change a team's name, models and repositories."""
    team = team_editing.team_of(current_org(), team_id)
    form: dict[str, Any] = {name: request.form.get(name, "") for name in ("name", "models")}
    form |= {
        "repositories_only": "repositories_only" in request.form,
        "repositories": request.form.getlist("repositories"),
    }
    try:
        team_editing.edit_team(
            team,
            name=form["name"],
            models=form["models"].splitlines() if form["models"].strip() else None,
            repository_ids=form["repositories"] if form["repositories_only"] else None,
        )
    except (Conflict, Invalid) as error:
        db.session.rollback()
        return _team(team_editing.team_of(current_org(), team_id), form, _errors(error), 422)
    db.session.commit()
    toast("Saved.")
    return see_other(url_for("orgs.team_page", team_id=team_id))


@bp.get("/orgs/<slug>/teams/<team_id>/removal")
@org_page("manage_teams")
def ask_team_removal(team_id: str) -> ResponseReturnValue:
    """Ask to delete a team; says what becomes of its people, keys and budgets."""
    team = team_editing.team_of(current_org(), team_id)
    row = next(each for each in team_editing.teams_listed(current_org()) if each.team.id == team.id)
    budgets = [each for each in budgets_of(org_account()) if (each.level, each.subject) == ("team", team.id)]
    return render("orgs/team_removal.html", partial="orgs/_team_removal.html", row=row, budgets=len(budgets))


@bp.post("/orgs/<slug>/teams/<team_id>/removal")
@org_page("manage_teams")
@limiter.limit(LIMIT, key_func=org_caller)
def delete_team(team_id: str) -> ResponseReturnValue:
    """Delete a team."""
    team = team_editing.team_of(current_org(), team_id)
    name = team.name
    team_editing.delete_team(team)
    db.session.commit()
    toast(f"Deleted the team {name}.")
    return see_other(url_for("orgs.teams"))


@bp.post("/orgs/<slug>/teams/<team_id>/people")
@org_page("manage_teams")
@limiter.limit(LIMIT, key_func=org_caller)
def add_to_team(team_id: str) -> ResponseReturnValue:
    """Add a person to a team."""
    team = team_editing.team_of(current_org(), team_id)
    user = team_editing.add_to_team(team, request.form.get("user_id", ""))
    db.session.commit()
    toast(f"{user.display_name} is in {team.name} now.")
    return see_other(url_for("orgs.team_page", team_id=team_id))


@bp.post("/orgs/<slug>/teams/<team_id>/people/<user_id>/removal")
@org_page("manage_teams")
@limiter.limit(LIMIT, key_func=org_caller)
def remove_from_team(team_id: str, user_id: str) -> ResponseReturnValue:
    """Take a person out of a team."""
    team = team_editing.team_of(current_org(), team_id)
    user = team_editing.remove_from_team(team, user_id)
    db.session.commit()
    toast(f"{user.display_name} is no longer in {team.name}.")
    return see_other(url_for("orgs.team_page", team_id=team_id))


def _errors(error: DomainError) -> dict[str, str]:
    db.session.rollback()
    return getattr(error, "fields", None) or {"name": error.message}
