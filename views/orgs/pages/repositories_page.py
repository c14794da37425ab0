"""Repositories of an organisation: list, add, switch, remove, and why a URL matches or not."""

from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import DomainError
from models.orgs import org_repos
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import limiter
from views.web.htmx import render, see_other, toast, wants_fragment
from views.web.org_guards import current_membership, current_org, org_caller, org_page, signed_in


@bp.get("/orgs/<slug>/repositories")
@org_page()
def repositories() -> ResponseReturnValue:
    """List the repositories. With `check`, explain whether the organisation pays for calls from that URL."""
    url = request.args.get("check", "")[: org_repos.MAX_URL].replace("\0", "")
    checking = "check" in request.args and wants_fragment()
    return _page("orgs/_repo_check.html" if checking else "orgs/_repositories.html", url)


def _page(partial: str, url: str = "", *, status: int = 200, **entered: Any) -> ResponseReturnValue:
    org = current_org()
    check = org_repos.check(org, current_membership(), url) if url.strip() else None
    return render(
        "orgs/repos.html",
        partial=partial,
        url=url,
        check=check,
        role=current_membership().role,
        hosts=org_repos.HOSTS,
        status=status,
        **{"address": "", "error": None, **entered},
        **_repositories(),
    )


def _repositories() -> dict[str, Any]:
    """The variables of `orgs/_repositories.html`."""
    after = request.args.get("after", "").replace("\0", "")
    rows, more = org_repos.repositories_page(current_org(), after or None)
    return {"rows": rows, "more": more and url_for("orgs.repositories", after=more)}


@bp.post("/orgs/<slug>/repositories")
@org_page("manage_repos")
@limiter.limit("120/minute", key_func=org_caller)
def add_repository() -> ResponseReturnValue:
    """Add a repository, active."""
    address = request.form.get("repository_url", "").replace("\0", "")
    try:
        repo = org_repos.add(current_org(), signed_in(), address)
    except DomainError as error:
        db.session.rollback()
        if error.status not in (400, 409):
            raise
        return _page("orgs/_repositories.html", status=422, address=address, error=_in_words(error.message))
    db.session.commit()
    toast(f"{repo.repo_owner}/{repo.repo_name} added.")
    return see_other(url_for("orgs.repositories"))


def _in_words(message: str) -> str:
    hosts = ", ".join(org_repos.HOSTS)
    return {
        org_repos.INVALID: "Enter a URL with owner and repository, like https://github.com/acme/site.",
        org_repos.NOT_ALLOWED: f"Only repositories on {hosts} can be added.",
        org_repos.KNOWN: "This repository was added already.",
    }.get(message, message)


@bp.post("/orgs/<slug>/repositories/<repo_id>/activity")
@org_page("manage_repos")
@limiter.limit("120/minute", key_func=org_caller)
def switch_repository(repo_id: str) -> ResponseReturnValue:
    """Let the organisation pay for calls from the repository (`active=1`), or not; htmx receives the list."""
    repo = org_repos.repository(current_org(), repo_id)
    active = request.form.get("active") == "1"
    org_repos.switch(repo, active)
    db.session.commit()
    toast(f"{repo.repo_owner}/{repo.repo_name} is {'active' if active else 'inactive'}.")
    if wants_fragment():
        return _page("orgs/_repositories.html")
    return see_other(url_for("orgs.repositories"))


@bp.get("/orgs/<slug>/repositories/<repo_id>/removal")
@org_page("manage_repos")
def ask_repository_removal(repo_id: str) -> ResponseReturnValue:
    """Ask to remove a repository."""
    repo = org_repos.repository(current_org(), repo_id)
    return render("orgs/repo_removal.html", partial="orgs/_repo_removal.html", repo=repo)


@bp.post("/orgs/<slug>/repositories/<repo_id>/removal")
@org_page("manage_repos")
@limiter.limit("120/minute", key_func=org_caller)
def remove_repository(repo_id: str) -> ResponseReturnValue:
    """Remove a repository."""
    repo = org_repos.repository(current_org(), repo_id)
    org_repos.remove(repo)
    db.session.commit()
    toast(f"{repo.repo_owner}/{repo.repo_name} removed.")
    return see_other(url_for("orgs.repositories"))
