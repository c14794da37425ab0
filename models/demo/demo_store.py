"""Filling the store with the made-up agents, by the verbs of publishers, and taking them out again."""

from datetime import datetime, timedelta

from sqlalchemy import delete, select, update

from models.accounts import User
from models.core.db import db
from models.demo import demo_people
from models.demo.demo_agents import DemoPublisher, houses, published_at
from models.orgs import Org, OrgMember
from models.store import Agent, AgentConfig, Publisher, publishers
from models.store.catalogue import readme
from models.store.publishing import publish, withdrawing
from models.store.publishing.definition import Definition
from models.store.statistics import counting

MARK = "Made up for the demo."


def fill(now: datetime) -> int:
    """Publish every version at its own past moment, in that order, so that each pins what it could call then.

    Returns how many. Flushes. The people must be there.
    """
    owners = {}
    for house in houses():
        owners[house.id] = _publisher(house, now)
    releases = [
        (published_at(release, now), release, agent)
        for house in houses()
        for agent in house.agents
        for release in agent.releases
    ]
    releases.sort(key=lambda each: (each[0], each[2].name))
    for moment, release, agent in releases:
        definition = Definition.model_validate(dict(release.definition))
        publish.publish(
            [definition],
            by=owners[agent.publisher],
            credential=("cli", "pat", "web")[len(agent.id) % 3],
            arrived=now,
            moment=moment,
        )
    for house in houses():
        for agent in house.agents:
            _finish(owners[house.id], house.id, agent.id, now)
    return len(releases)


def _publisher(house: DemoPublisher, now: datetime) -> User:
    owner = db.session.get_one(User, demo_people.id_of(house.owner))
    began = now - timedelta(days=max(agent.releases[0].days for agent in house.agents) + 3)
    org_id = None
    if house.organisation:
        org_id = demo_people.ORGANISATIONS[house.organisation]
        db.session.add(
            Org(
                id=org_id,
                name=house.organisation,
                slug=org_id,
                owner_id=owner.id,
                auto_topup_threshold=500,
                auto_topup_amount=2000,
                created_at=began,
            )
        )
        db.session.flush()
        for person, role in ((owner.id, "owner"), (demo_people.USER_ID, "admin")):
            db.session.add(OrgMember(org_id=org_id, user_id=person, role=role, joined_at=began))
        db.session.flush()
    said = publishers.profile(house.name, house.email, f"{house.bio} {MARK}")
    made = publishers.create(owner, house.id, said, org_id)
    made.created_at = began
    publishers.verify(house.id, house.verified)
    return owner


def _finish(owner: User, publisher_id: str, agent_id: str, now: datetime) -> None:
    made_up = next(
        each for house in houses() if house.id == publisher_id for each in house.agents if each.id == agent_id
    )
    for release in made_up.releases:
        if release.yanked:
            moment = published_at(release, now) + timedelta(hours=20)
            withdrawing.yank(owner, publisher_id, agent_id, release.version, release.yanked, moment)
    if made_up.deprecated:
        gone = made_up.deprecated
        moment = now - timedelta(days=gone.days)
        withdrawing.deprecate(owner, publisher_id, agent_id, gone.reason, gone.successor, moment)
    if made_up.readme:
        agent = readme.write(owner, publisher_id, agent_id, made_up.readme.strip(), seen="")
        agent.readme_updated_at = published_at(made_up.releases[-1], now)
        db.session.flush()


def clear() -> None:
    """Take out every publisher of the made-up people and organisations with all it published, and the organisations.

    What others made in a made-up organisation becomes theirs; what made-up people made in others' organisations stays
    with those. Runs of the agents stay with who ran them and count nowhere any more. Flushes.
    """
    orgs = list(demo_people.ORGANISATIONS.values())
    made_up = Publisher.created_by.in_(demo_people.IDS)
    db.session.execute(
        update(Publisher)
        .where(Publisher.org_id.in_(orgs), ~made_up)
        .values(user_id=Publisher.created_by, org_id=None)
    )
    db.session.execute(
        update(Publisher)
        .where(Publisher.org_id.is_not(None), Publisher.org_id.not_in(orgs), made_up)
        .values(created_by=select(Org.owner_id).where(Org.id == Publisher.org_id).scalar_subquery())
    )
    gone = select(Publisher.id).where(Publisher.user_id.in_(demo_people.IDS) | Publisher.org_id.in_(orgs))
    for publisher_id in sorted(db.session.scalars(gone)):
        agents = sorted(db.session.scalars(select(Agent.id).where(Agent.publisher_id == publisher_id)))
        counting.enter(publisher_id, agents)
        db.session.execute(delete(AgentConfig).where(AgentConfig.publisher_id == publisher_id))
        db.session.execute(delete(Agent).where(Agent.publisher_id == publisher_id))
        for agent_id in agents:
            counting.recount(publisher_id, agent_id)
        db.session.execute(delete(Publisher).where(Publisher.id == publisher_id))
    db.session.execute(delete(Org).where(Org.id.in_(orgs)))
