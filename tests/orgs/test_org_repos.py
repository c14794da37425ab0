"""Repositories: normal form, owner and name, which organisation pays, why a URL matches or not (contract 3.10)."""

import pytest
from sqlalchemy.orm import Session as OrmSession

from models.core.errors import Conflict, Invalid
from models.orgs import Org, matching_org, normalise, owner_and_repo
from models.orgs import org_repos as repos
from tests import factories
from tests.factories import Person

GITHUB = "https://github.com/acme/site"


@pytest.mark.parametrize(
    ("url", "normal", "name"),
    [
        (GITHUB, GITHUB, ("acme", "site")),
        ("  HTTPS://GitHub.com/Acme/Site.git ", GITHUB, ("acme", "site")),
        ("git@github.com:acme/site.git", GITHUB, ("acme", "site")),
        ("ssh://git@github.com/acme/site.git", GITHUB, ("acme", "site")),
        ("ssh://git@github.com:22/acme/site", GITHUB, ("acme", "site")),
        ("github.com/acme/site", GITHUB, ("acme", "site")),
        ("http://github.com/acme/site/", GITHUB, ("acme", "site")),
        ("https://github.com/acme/site/tree/main/src?tab=readme#top", GITHUB, ("acme", "site")),
        ("https://token@github.com/acme/site", GITHUB, ("acme", "site")),
        ("https://github.com//acme//site", GITHUB, ("acme", "site")),
        ("git@gitlab.com:Acme/Site", "https://gitlab.com/acme/site", ("acme", "site")),
        ("https://bitbucket.org/acme/site/src", "https://bitbucket.org/acme/site", ("acme", "site")),
        ("https://github.com/acme", "https://github.com/acme", None),
        ("https://github.com/acme/.git", "https://github.com/acme/", None),
        ("https://example.org/acme/site.git", "https://example.org/acme/site", None),
        ("git@example.org:acme/site.git", "git@example.org:acme/site", None),
        ("https://github.com.evil.example/acme/site", "https://github.com.evil.example/acme/site", None),
        (
            "https://evil.example/?u=github.com/acme/site",
            "https://evil.example/?u=github.com/acme/site",
            None,
        ),
        ("https://[github.com/acme/site", "https://[github.com/acme/site", None),
        ("not-a-url", "not-a-url", None),
        ("   ", "", None),
    ],
)
def test_urls_have_one_normal_form(url: str, normal: str, name: tuple[str, str] | None) -> None:
    assert normalise(url) == normal
    assert normalise(normal) == normal.removesuffix("/")
    found = owner_and_repo(url)
    assert (found and (found.owner, found.name)) == name


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", repos.INVALID),
        ("http://", repos.INVALID),
        ("https://[github.com/a/b", repos.INVALID),
        ("https://github.com/acme", repos.INVALID),
        ("https://github.com/" + "a" * 600, repos.INVALID),
        ("not-a-url", repos.NOT_ALLOWED),
        ("https://www.github.com/acme/site", repos.NOT_ALLOWED),
        ("https://example.org/acme/site", repos.NOT_ALLOWED),
        ("git@example.org:acme/site.git", repos.NOT_ALLOWED),
    ],
)
def test_other_urls_cannot_be_added(acme: Org, alice: Person, url: str, problem: str) -> None:
    assert alice.user
    with pytest.raises(Invalid, match=problem) as refused:
        repos.add(acme, alice.user, url)
    assert refused.value.status == 400


def test_members_calls_from_an_active_repository_are_paid(
    acme: Org, alice: Person, bob: Person, dave: Person, mallory: Person, session: OrmSession
) -> None:
    assert alice.user
    repo = repos.add(acme, alice.user, "git@github.com:Acme/Site.git")
    assert (repo.repo_url, repo.repo_owner, repo.repo_name) == (GITHUB, "acme", "site")
    with pytest.raises(Conflict, match=repos.KNOWN):
        repos.add(acme, alice.user, "https://github.com/acme/site/issues")
    session.commit()
    for person, pays in ((alice, True), (bob, True), (dave, False), (mallory, False)):
        found = matching_org(person.id, "git@gitlab.com:acme/site.git")  # hosts are not compared
        assert (found and found.id) == (acme.id if pays else None)
    assert matching_org(bob.id, "https://github.com/acme/other") is None
    repos.switch(repo, False)
    assert matching_org(bob.id, GITHUB) is None


def test_first_organisation_that_added_a_repository_pays(
    acme: Org, alice: Person, bob: Person, session: OrmSession
) -> None:
    assert alice.user
    assert bob.user
    other = factories.org(alice.user, "Beta", members=(bob.user,))
    first = repos.add(other, alice.user, GITHUB)
    session.commit()
    repos.add(acme, alice.user, GITHUB)
    session.commit()
    membership = factories.membership(acme, bob.id)

    def payer() -> str | None:
        found = matching_org(bob.id, GITHUB)
        return found and found.id

    assert payer() == other.id
    check = repos.check(acme, membership, GITHUB)
    assert (check.rule, check.payer and check.payer.id) == ("other_org", other.id)
    repos.remove(first)
    assert payer() == acme.id
    assert repos.check(acme, membership, GITHUB).rule == "pays"
    other.deleted_at = acme.deleted_at = factories.now()
    session.flush()
    assert payer() is None


def test_check_tells_the_rule(acme: Org, alice: Person, bob: Person, dave: Person) -> None:
    assert alice.user
    repos.add(acme, alice.user, GITHUB)
    repos.switch(repos.add(acme, alice.user, "https://github.com/acme/old"), False)
    expected = {
        "acme/site": "no_repository",
        "https://github.com/acme": "no_repository",
        "https://example.org/acme/site": "other_host",
        "https://github.com/acme/other": "not_added",
        "git@github.com:acme/old.git": "inactive",
        "git@bitbucket.org:Acme/Site.git": "pays",
    }
    member = factories.membership(acme, bob.id)
    assert {url: repos.check(acme, member, url).rule for url in expected} == expected
    assert repos.check(acme, factories.membership(acme, dave.id), GITHUB).rule == "role"
