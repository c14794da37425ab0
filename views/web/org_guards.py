"""Access to the pages and routes of an organisation: members only, by role. Everybody else is told that there is none."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, cast

from flask import g, request, url_for
from flask.typing import ResponseReturnValue

from models.accounts import Session, User
from models.core.db import now
from models.core.errors import DomainError
from models.ledger import Account
from models.orgs import Org, OrgMember, can, check_session, member_org, membership, require
from views.web.guards import caller_address, cookie_user, current_account, current_session, login_required
from views.web.htmx import render, see_other, wants_fragment

P = ParamSpec("P")


def current_org() -> Org:
    """The organisation in the URL of a view with `org_page` or `org_route`."""
    return cast(Org, g.org)


def current_membership() -> OrgMember:
    """The caller's membership of it."""
    return cast(OrgMember, g.membership)


def org_account() -> Account:
    """Its account in the ledger."""
    return Account(org_id=current_org().id)


def own_calls_of() -> str:
    """The id of the viewer if they see only their own usage of the organisation; empty if they see everybody's."""
    member = current_membership()
    return "" if can(member, "see_all_usage") else member.user_id


def signed_in() -> User:
    """The signed-in user of such a view."""
    return cast(User, cookie_user())


def org_page(
    capability: str | None = None,
) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """Decorator, below the route: a page of the organisation `<slug>`, for members whose role has the capability.

    Consumes the argument `slug`; the view reads `current_org()`. Signed out: to sign-in. Outsiders: NotFound. Other roles:
    Forbidden. Where single sign-on is enforced and the session did not come through it: SsoRequired, a page that leads there."""

    def decorate(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
        @login_required
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            enter_org(cast(str, kwargs.pop("slug")), capability)
            return view(*args, **kwargs)

        guarded.__dict__["org_capability"] = capability  # for the switcher
        return guarded

    return decorate


def account_page(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Decorator, below the routes: a page of the signed-in account and, with the argument `slug`, of an organisation. The view
    reads `viewed_account()` and `viewed_member()`."""
    return account_page_for(None)(view)


def account_page_for(
    capability: str | None,
) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """`account_page`, in an organisation for members whose role has the capability."""

    def decorate(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
        inside = org_page(capability)(view)
        outside = login_required(view)

        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            return inside(*args, **kwargs) if "slug" in kwargs else outside(*args, **kwargs)

        guarded.__dict__["org_capability"] = capability  # for the switcher
        return guarded

    return decorate


def viewed_account() -> Account:
    """The account that an `account_page` shows."""
    return org_account() if "org" in g else current_account()


def viewed_member() -> str:
    """The id of the member whose rows alone an `account_page` shows; empty: all of the account."""
    return own_calls_of() if "org" in g else ""


def check_spending() -> None:
    """Raise Forbidden in an organisation whose credits the viewer's role does not spend."""
    if "org" in g:
        require(current_membership(), "spend")


def may_spend() -> bool:
    """Whether the viewer's role spends the credits of the viewed account."""
    return "org" not in g or can(current_membership(), "spend")


def check_messages(user_id: str | None) -> None:
    """Raise Forbidden unless the viewer of an `account_page` may read the messages of this member's calls: their own, and those
    of all members with the capability `read_messages`; the billing role sees figures only."""
    if "org" in g and user_id != signed_in().id:
        require(
            current_membership(),
            "read_messages",
            "Only owners and admins read the messages of other members’ calls.",
        )


def message_reader() -> str | None:
    """The id of the user whose calls' messages alone the viewer of an `account_page` may read; None: of all calls of the account."""
    if "org" not in g or can(current_membership(), "read_messages"):
        return None
    return signed_in().id


def org_caller() -> str:
    """The rate limit key of changes of organisations: the user, else the IP address."""
    user = cookie_user()
    return user.id if user else caller_address()


def org_route(
    capability: str | None = None, message: str = "Insufficient permissions", *, key: str = "org_id"
) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """Decorator, below `@Operation`: a JSON route of the organisation `<org_id>` (contract 2.8). Consumes `org_id`, or the argument `key`.

    Raises DomainError (401) when signed out, NotFound for outsiders, Forbidden with `message` for other roles, SsoRequired (403):
    all before the body is read."""

    def decorate(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            if cookie_user() is None:
                raise DomainError("Unauthorized", status=401)
            enter_org(cast(str, kwargs.pop(key)), capability, message)
            return view(*args, **kwargs)

        return guarded

    return decorate


def sso_required(org: Org, back: str | None = None) -> ResponseReturnValue:
    """The page that says that the organisation opens only through its identity provider, with the way there (403), and
    from there to `back`."""
    overview = url_for("orgs.overview", slug=org.slug)
    if wants_fragment():
        return see_other(back or overview)
    if back is None:
        back = request.full_path.rstrip("?") if request.method == "GET" else overview
    member = membership(signed_in().id, org.id)
    owner = member is not None and member.role == "owner"
    return render("orgs/sso_required.html", org=org, back=back, owner=owner, status=403)


def check_sign_on(org: Org) -> None:
    """Raise SsoRequired if the organisation enforces single sign-on and the signed-in session did not come through it."""
    check_session(org, cast(Session, current_session()), now())


def enter_org(key: str, capability: str | None, message: str = "Insufficient permissions") -> None:
    """Open the organisation with this id or slug for the signed-in caller, as `org_page` and `org_route` do."""
    org, member = member_org(signed_in().id, key)
    check_sign_on(org)
    if capability:
        require(member, capability, message)
    g.org, g.membership = org, member
