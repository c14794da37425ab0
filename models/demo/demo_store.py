"""Publishes the demo agents through the publishing functions, and removes them."""

from datetime import datetime, timedelta

from sqlalchemy import delete, select, update

from models.accounts import User
from models.core.db import db
from models.demo import demo_agents, demo_people
from models.demo.demo_agents import DemoAgent, DemoPublisher, published_at
from models.orgs import Org
from models.store import Agent, AgentConfig, Publisher, publishers
from models.store.catalogue import readme
from models.store.publishing import publish, withdrawing
from models.store.publishing.definition import Definition
from models.store.statistics import counting

MARK = "Made up for the demo."


def fill(now: datetime) -> int:
    """Publish every version with its past timestamp, in order, so that each pins the versions of its time.

    Returns the number of versions. Flushes. The demo users must exist.
    """
    owners = {}
    for demo in demo_agents.publishers():
        owners[demo.id] = _publisher(demo, now)
    releases = [
        (published_at(release, now), release, agent)
        for demo in demo_agents.publishers()
        for agent in demo.agents
        for release in agent.releases
    ]
    releases.sort(key=lambda each: (each[0], each[2].name))
    for published, release, agent in releases:
        definition = Definition.model_validate(dict(release.definition))
        publish.publish(
            [definition],
            by=owners[agent.publisher],
            credential=("cli", "pat", "web")[len(agent.id) % 3],
            arrived=now,
            published_at=published,
        )
    for demo in demo_agents.publishers():
        for agent in demo.agents:
            _annotate(owners[demo.id], agent, now)
    return len(releases)


def _publisher(demo: DemoPublisher, now: datetime) -> User:
    owner = db.session.get_one(User, demo_people.id_of(demo.owner))
    began = now - timedelta(days=max(agent.releases[0].days for agent in demo.agents) + 3)
    org_id = None
    if demo.organisation:
        org_id = demo_people.ORGANISATIONS[demo.organisation]
    profile = publishers.profile(demo.name, demo.email, f"{demo.bio} {MARK}")
    publisher = publishers.create(owner, demo.id, profile, org_id)
    publisher.created_at = began
    publishers.verify(demo.id, demo.verified)
    return owner


def _annotate(owner: User, demo: DemoAgent, now: datetime) -> None:
    for release in demo.releases:
        if release.yanked:
            yanked_at = published_at(release, now) + timedelta(hours=20)
            withdrawing.yank(owner, demo.publisher, demo.id, release.version, release.yanked, yanked_at)
    if demo.deprecated:
        reason, successor = demo.deprecated.reason, demo.deprecated.successor
        deprecated_at = now - timedelta(days=demo.deprecated.days)
        withdrawing.deprecate(owner, demo.publisher, demo.id, reason, successor, deprecated_at)
    if demo.readme:
        agent = readme.write(owner, demo.publisher, demo.id, demo.readme.strip(), seen="")
        agent.readme_updated_at = published_at(demo.releases[-1], now)
        db.session.flush()


def clear() -> None:
    """Delete the publishers of the demo users and organisations with their agents, and the organisations. Flushes.

    Publishers that others created in a demo organisation become theirs; publishers that demo users created in other
    organisations stay there. Runs of the deleted agents stay with their users and are no longer counted.
    """
    orgs = list(demo_people.ORGANISATIONS.values())
    by_demo_users = Publisher.created_by.in_(demo_people.IDS)
    db.session.execute(
        update(Publisher)
        .where(Publisher.org_id.in_(orgs), ~by_demo_users)
        .values(user_id=Publisher.created_by, org_id=None)
    )
    db.session.execute(
        update(Publisher)
        .where(Publisher.org_id.is_not(None), Publisher.org_id.not_in(orgs), by_demo_users)
        .values(created_by=select(Org.owner_id).where(Org.id == Publisher.org_id).scalar_subquery())
    )
    doomed = select(Publisher.id).where(Publisher.user_id.in_(demo_people.IDS) | Publisher.org_id.in_(orgs))
    for publisher_id in sorted(db.session.scalars(doomed)):
        agents = sorted(db.session.scalars(select(Agent.id).where(Agent.publisher_id == publisher_id)))
        counting.lock_agents(publisher_id, agents)
        db.session.execute(delete(AgentConfig).where(AgentConfig.publisher_id == publisher_id))
        db.session.execute(delete(Agent).where(Agent.publisher_id == publisher_id))
        for agent_id in agents:
            counting.recount(publisher_id, agent_id)
        db.session.execute(delete(Publisher).where(Publisher.id == publisher_id))
    db.session.execute(delete(Org).where(Org.id.in_(orgs)))
