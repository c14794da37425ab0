"""The filter options of the store, each with the number of agents that it would show beside the other filters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    CompoundSelect,
    Integer,
    Select,
    Text,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    literal_column,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.orm import aliased

from models.core.db import db
from models.store.catalogue.listing import VENDOR, ListingQuery, by_filter, unfiltered, words_of
from models.store.statistics import agent_costs
from models.store.statistics.agent_costs import AgentRunCost
from models.store.tables import Agent, Publisher, StoreFacet

SHOWN = 8
"""Options of a filter: those with the most agents."""
MAX_LENGTH = 100


@dataclass(frozen=True, slots=True)
class FilterOptions:
    """Filter options with their numbers of agents. Each number follows the search and all filters but its own.

    `agents` matches all of them. `available` are all agents of the store but deprecated ones, which are in `outdated`.
    """

    available: int
    outdated: int
    agents: int
    verified: int
    deprecated: int
    tags: Sequence[tuple[str, int]]
    publishers: Sequence[tuple[str, int]]
    vendors: Sequence[tuple[str, int]]
    licenses: Sequence[tuple[str, int]]
    costs: Sequence[tuple[str, int]]


def filter_options(filters: ListingQuery) -> FilterOptions:
    """The options beside these filters. One statement: without filters it reads stored counts, else the matches once."""
    plain = not (filters.is_filtered or filters.deprecated)
    by_kind: dict[str, dict[str, int]] = {}
    for kind, name, agents in db.session.execute(_STORED if plain else _statement(filters)):
        by_kind.setdefault(kind, {})[name] = agents
    total = by_kind.get("total", {})
    matching = total if plain else by_kind.get("matching", {})
    costs = by_kind.get("cost", {})
    return FilterOptions(
        available=total.get("agents", 0),
        outdated=total.get("deprecated", 0),
        agents=matching.get("agents", 0),
        verified=matching.get("verified", 0),
        deprecated=matching.get("deprecated", 0),
        tags=_ordered(by_kind.get("tag", {})),
        publishers=_ordered(by_kind.get("publisher", {})),
        vendors=_ordered(by_kind.get("vendor", {})),
        licenses=_ordered(by_kind.get("license", {})),
        costs=[(band, costs[band]) for band in agent_costs.BANDS if band in costs],
    )


def _ordered(options: dict[str, int]) -> Sequence[tuple[str, int]]:
    return sorted(options.items(), key=lambda option: (-option[1], option[0]))


_STORED = select(StoreFacet.kind, StoreFacet.name, StoreFacet.agents)


def _statement(filters: ListingQuery) -> CompoundSelect[Any]:
    used = by_filter(filters)
    matches = _matches(filters, used)

    def beside(own: str, rows: CTE = matches) -> ColumnElement[bool]:
        return and_(true(), *(rows.c[f"in_{name}"] for name in used if name != own))

    def count(name: str, *conditions: ColumnElement[bool]) -> Any:
        counted = select(literal("matching"), literal(name), func.count())
        return counted.select_from(matches).where(*conditions)

    tags = select(matches, func.unnest(matches.c.tags, type_=Text).label("tag")).cte("tags")
    tag = select(literal("tag").label("kind"), tags.c.tag.label("name"), func.count().label("agents"))
    return union_all(
        _STORED.where(StoreFacet.kind == "total"),
        count("agents", beside("")),
        count("verified", beside("verified"), matches.c.verified),
        count("deprecated", beside("deprecated"), matches.c.deprecated),
        _most("by_kind", _by_kind(matches, beside)),
        _most("by_tag", tag.where(beside("tags", tags)).group_by(tags.c.tag)),
    )


KINDS = {"publisher": "publishers", "vendor": "vendors", "license": "licenses", "cost": "costs"}
"""Columns of the matches whose values are options, and their filters."""


def _by_kind(matches: CTE, beside: Callable[[str], ColumnElement[bool]]) -> Select[Any]:
    """The number of agents of each value of each kind, in one pass: a pass each took twice as long."""
    columns = [matches.c[kind] for kind in KINDS]
    numbers = [func.count().filter(beside(own)).label(f"beside_{kind}") for kind, own in KINDS.items()]
    # `grouping` sets the bit of each column that is not grouped, the first column's highest
    others = (1 << len(KINDS)) - 1
    bits = {others - (1 << len(KINDS) - 1 - at): kind for at, kind in enumerate(KINDS)}
    sets = (
        select(func.grouping(*columns).label("bits"), *columns, *numbers)
        .group_by(func.grouping_sets(*(tuple_(column) for column in columns)))
        .subquery()
    )
    return select(
        case(bits, value=sets.c.bits).label("kind"),
        func.coalesce(*(sets.c[kind] for kind in KINDS)).label("name"),
        case({bit: sets.c[f"beside_{kind}"] for bit, kind in bits.items()}, value=sets.c.bits).label(
            "agents"
        ),
    )


def _most(name: str, options: Select[Any]) -> Select[Any]:
    """The options of each kind with the most agents."""
    # materialized, so that the filters below do not make the planner expect so few rows that it sorts instead of hashing
    found = options.cte(name).prefix_with("MATERIALIZED")
    order = found.c.agents.desc(), found.c.name
    place = func.row_number().over(partition_by=found.c.kind, order_by=order).label("place")
    ranked = (
        select(found, place)
        .where(found.c.agents > 0, func.length(found.c.name).between(1, MAX_LENGTH))
        .subquery()
    )
    return select(ranked.c.kind, ranked.c.name, ranked.c.agents).where(ranked.c.place <= SHOWN)


def _matches(filters: ListingQuery, used: dict[str, ColumnElement[bool]]) -> CTE:
    """The matches of the search that fail one filter at most, with a column `in_<filter>` for each filter in use."""
    latest, total = aliased(AgentRunCost), aliased(AgentRunCost)
    band = agent_costs.band_of(func.coalesce(latest.median, total.median))
    if "costs" in used:
        used["costs"] = func.coalesce(band.in_(filters.costs), false())
    if "licenses" in used:
        used["licenses"] = func.coalesce(used["licenses"], false())
    if "verified" in used:
        used["verified"] = Publisher.verified.expression
    failed: ColumnElement[int] = sum(
        (cast(~condition, Integer) for condition in used.values()), start=literal_column("0")
    )
    return (
        select(
            Agent.publisher_id.label("publisher"),
            Agent.tags,
            VENDOR.label("vendor"),
            Agent.license,
            band.label("cost"),
            Publisher.verified,
            Agent.deprecated_at.is_not(None).label("deprecated"),
            *(condition.label(f"in_{name}") for name, condition in used.items()),
        )
        .join(Publisher, Publisher.id == Agent.publisher_id)
        .outerjoin(latest, agent_costs.of_agent(latest, Agent.latest_version))
        .outerjoin(total, agent_costs.of_agent(total, literal_column("''")))
        .where(*unfiltered(words_of(filters.search)), failed <= literal_column("1"))
        .cte("matches")
        .prefix_with("MATERIALIZED")
    )
