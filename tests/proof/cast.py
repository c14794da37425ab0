"""The people of the proofs and the accounts that pay for their calls: their own, or an organisation's, with budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from models.accounts import User
from models.accounts.credentials import hash_token
from models.ledger import Account
from models.ledger.budgets import create_budget
from models.orgs import OrgRepo
from tests import factories

OWN = ("own",)
DELEGATED = ("key", "named", "repository")
"""Ways of paying from an organisation's account: with a key of it, by its name, and from a repository of it."""
WAYS = OWN + DELEGATED
PERIODS = {"account": "total", "member": "week", "key": "day"}


@dataclass(frozen=True)
class Person:
    id: str
    key: str
    cookie: str
    org_id: str | None = None
    """The organisation that pays for the calls; None: the person."""
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Sent with each call: who pays."""

    @property
    def account(self) -> Account:
        """The account that pays."""
        return Account(org_id=self.org_id) if self.org_id else self.own

    @property
    def own(self) -> Account:
        return Account(user_id=self.id)

    @property
    def payers(self) -> set[str]:
        """Ids of the accounts that may be charged: an organisation without credits leaves the calls of its repository to the
        person."""
        falls_back = "x-stoa-repo" in self.headers
        return {self.account.id, self.id} if falls_back else {self.account.id}


def person() -> Person:
    """Someone who pays from their own account."""
    user = factories.user(factories.new_id("proof-"))
    return _person(user)


def members(ways: Sequence[str], budgets: Mapping[str, int]) -> list[Person]:
    """Members of a new organisation, who pay from its account in these ways. `budgets`: credits by level; that of level `key` is for
    the organisation's key, or else for each key."""
    with factories.one_commit():
        users = [factories.user(factories.new_id("proof-")) for _ in ways]
        slug = factories.new_id("proof-")
        org = factories.org(users[0], slug, members=tuple(users[1:]))
        repository = f"https://github.com/{slug}/site"
        factories.save(
            OrgRepo(
                org_id=org.id,
                repo_url=repository,
                repo_name="site",
                repo_owner=slug,
                approved_by=users[0].id,
            )
        )
        headers = {"named": {"x-stoa-org": slug}, "repository": {"x-stoa-repo": f"{repository}.git"}}
        people = [
            _person(user, org.id, way == "key", headers.get(way, {}))
            for user, way in zip(users, ways, strict=True)
        ]
        keys = [hash_token(each.key) for each, way in zip(people, ways, strict=True) if way == "key"]
        for level, credits in budgets.items():
            subject = keys[0] if level == "key" and keys else None
            create_budget(Account(org_id=org.id), level, PERIODS[level], credits, subject=subject)
    return people


def _person(
    user: User, org_id: str | None = None, own_key: bool = False, headers: Mapping[str, str] | None = None
) -> Person:
    key = factories.token(user, org_id=org_id if own_key else None)
    return Person(user.id, key, factories.token(user, type="web"), org_id, headers or {})
