"""`/api/v1/usage/summary`, `/series` and `/api/v1/orgs/{id}/usage`: sums of usage, from rollups (crafely contract 9.3).

`/api/orgs/{id}/usage`, without `v1`, is the browser's route of the Codebuff contract 2.8, and stays as it is (views/orgs/api)."""

from collections.abc import Mapping
from typing import Any, cast

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from models.accounts import User, scopes
from models.core.db import db, now
from models.usage.org_labels import labels_of
from models.usage.rollup_recount import is_recounting
from models.usage.usage_scope import UsageScope, scope_of, shown_keys
from models.usage.usage_sums import SeriesDate, UsageSum, add_up, usage_by, usage_series
from models.usage.usage_window import GROUPS, Group, UsageWindow
from models.usage.zone_rollups import note_view
from views.usage.api.usage_answers import (
    OrganisationUsageAnswer,
    UsageSeriesAnswer,
    UsageSummaryAnswer,
    date_facts,
    sum_facts,
    total_facts,
)
from views.usage.api.usage_params import (
    ERRORS,
    NARROWED,
    RANGE,
    SCOPED,
    USAGE_DOOR,
    asked_filters,
    asked_scope,
    asked_window,
    asking_key,
    one_of,
    window_facts,
)
from views.web.operation import Operation, query

bp = Blueprint("usage_sums_api", __name__)

SPLITS = ("model", "provider", "key", "member", "agent")
GROUP_BY = query("group_by", f"{', '.join(GROUPS)}; default: day. At most 800 dates; weeks begin on Monday")
SPLIT = query(
    "split", f"Parts of each date, by {', '.join(SPLITS)}: the 20 with the most credits, and the rest"
)


@bp.get("/api/v1/usage/summary")
@Operation(
    tag="Usage",
    caller="key",
    scope=scopes.USAGE_READ,
    parameters=[*SCOPED, *RANGE, *NARROWED],
    answers={200: ("The sums of the range", UsageSummaryAnswer), **ERRORS},
    door=USAGE_DOOR,
)
def usage_summary() -> ResponseReturnValue:
    """Sum usage up, in total and by provider and model."""
    scope = asked_scope(asking_key())
    window, filters = asked_window(), asked_filters()
    models = usage_by(scope, window, ("provider", "model"), filters)
    body = _range(scope, window) | {"by_model": _by_model(models), "totals": sum_facts(_sum(models))}
    return jsonify(body)


@bp.get("/api/v1/usage/series")
@Operation(
    tag="Usage",
    caller="key",
    scope=scopes.USAGE_READ,
    parameters=[
        *(*SCOPED, *RANGE, *NARROWED),
        GROUP_BY,
        SPLIT,
    ],
    answers={200: ("The sums of each date", UsageSeriesAnswer), **ERRORS},
    door=USAGE_DOOR,
)
def usage_over_time() -> ResponseReturnValue:
    """Sum usage up by hour, day, week or month on the clock of a time zone.

    Dates without usage are zeros. The first and the last date count only what is within the range.
    """
    return series_answer(asked_scope(asking_key()))


def series_answer(scope: UsageScope) -> ResponseReturnValue:
    """The series of the request's range, filters, `group_by` and `split`. Commits the view of its time zone."""
    window, filters = asked_window(), asked_filters()
    group = cast(Group, one_of("group_by", GROUPS, "day"))
    split = one_of("split", ("", *SPLITS), "") or None
    dates = usage_series(scope, window, group, split, filters)
    total = add_up([each.total for each in dates])
    names = _names(scope, split, {key for each in dates for key in each.keys if key is not None})
    body = _range(scope, window) | {
        "group_by": group,
        "split": split,
        **total_facts(total),
        "usage": [_date(each, names) for each in dates],
    }
    _note(scope, window, total)
    return jsonify(body)


@bp.get("/api/v1/orgs/<org_id>/usage")
@Operation(
    tag="Organisation usage",
    caller="key",
    scope=scopes.USAGE_READ,
    parameters=[*RANGE, *NARROWED],
    answers={200: ("The sums of the range", OrganisationUsageAnswer), **ERRORS},
    door=USAGE_DOOR,
)
def usage_of_organisation(org_id: str) -> ResponseReturnValue:
    """Sum an organisation's usage up: in total, by API key, by model and by day.

    Members whose role does not see all usage get the sums of their own calls. `/api/orgs/{id}/usage` is the browser's route, with
    the balance and the members of this month.
    """
    scope = scope_of(asking_key(), "org", org_id)
    window, filters = asked_window(), asked_filters()
    days = usage_series(scope, window, "day", None, filters)
    keys = {key: total for (key,), total in usage_by(scope, window, ("key",), filters).items()}
    models = usage_by(scope, window, ("provider", "model"), filters)
    names, total = _names(scope, "key", set(keys)), add_up([each.total for each in days])
    body = _range(scope, window) | {
        "org_id": scope.account_id,
        "user_id": scope.user_id or None,
        **total_facts(total),
        "usage_by_api_key": [
            {"api_key_id": names[key][0] or None, "name": names[key][1], **sum_facts(each)}
            for key, each in keys.items()
        ],
        "usage_by_model": _by_model(models),
        "daily_usage": [_date(each, {}) for each in days],
    }
    _note(scope, window, total)
    return jsonify(body)


def _range(scope: UsageScope, window: UsageWindow) -> dict[str, Any]:
    return {**window_facts(window), "complete": not is_recounting(scope.account_id)}


def _note(scope: UsageScope, window: UsageWindow, total: UsageSum) -> None:
    """Let the days of this time zone be counted. An account without usage may not exist yet, and needs no counting."""
    if total.requests:
        note_view(scope.account_id, window.zone, now())
        db.session.commit()


def _sum(parts: Mapping[tuple[str, ...], UsageSum]) -> UsageSum:
    return add_up(list(parts.values()))


def _by_model(parts: Mapping[tuple[str, ...], UsageSum]) -> list[dict[str, Any]]:
    return [
        {"provider": provider or None, "model": model, **sum_facts(total)}
        for (provider, model), total in parts.items()
    ]


def _names(scope: UsageScope, split: str | None, keys: set[str]) -> dict[str, tuple[str, str]]:
    """The id and the name to show of each key of a split."""
    if split is None:
        return {}
    account = scope.org or db.session.get_one(User, scope.account_id)
    names = labels_of(account, "version" if split == "agent" else split, keys)
    ids = shown_keys(sorted(keys)) if split == "key" else {}
    return {key: (ids.get(key, key), names[key]) for key in keys}


def _date(date: SeriesDate, names: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    parts = sorted(date.keys.items(), key=lambda part: (part[0] is None, -part[1].credits, part[0] or ""))
    total = date.total
    return {
        "date": date.name,
        **date_facts(total),
        "tokens_in": total.tokens_in,
        "tokens_out": total.tokens_out,
        "parts": [_part(None if key is None else names[key], each) for key, each in parts],
    }


def _part(named: tuple[str, str] | None, total: UsageSum) -> dict[str, Any]:
    key, name = named or (None, "Other")
    return {"key": key, "name": name, **date_facts(total)}
