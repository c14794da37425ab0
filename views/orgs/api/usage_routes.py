"""Usage, analytics and monitoring of an organisation, and their exports (contract 2.8). Members without the capability
`see_all_usage` get their own rows and the organisation's totals."""

import json
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Any, Literal

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.core.db import db, midnight, now
from models.core.errors import DomainError
from models.ledger import balance
from models.orgs import Org
from models.orgs.alerts import open_alerts
from models.usage.alert_watch import watch_org
from models.usage.export import quoted_csv
from models.usage.org_figures import (
    KeyTotal,
    clock_of,
    credits_by_day,
    health,
    month_of,
    month_used,
    totals_by,
    used_since,
)
from models.usage.org_labels import people
from models.usage.period import EARLIEST
from models.usage.usage_calls import exported_calls
from views.orgs.api.orgs_api_blueprint import MEMBERS, bp
from views.web.error_bodies import door
from views.web.format import iso
from views.web.operation import Operation, ResponseModel, query
from views.web.org_guards import current_org, org_account, org_route, own_calls_of

RECENT = 50
EXPORTED = 1000
LOW, CRITICAL, FEW_DAYS = 500, 100, 7
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FOREVER = 999


class TopUser(ResponseModel):
    user_id: str
    user_name: str
    user_email: str
    credits_used: int


class RecentCall(ResponseModel):
    date: datetime
    credits_used: int
    repository_url: str
    user_name: str


class OrgUsageAnswer(ResponseModel):
    currentBalance: int
    usageThisCycle: int
    cycleStartDate: datetime
    cycleEndDate: datetime
    topUsers: list[TopUser]
    recentUsage: list[RecentCall]


class TopAnalysed(ResponseModel):
    user_id: str
    user_name: str
    credits_used: int
    percentage: float


class TopRepository(ResponseModel):
    repository_url: str
    credits_used: int


class DailyUsage(ResponseModel):
    date: date
    credits_used: int


class RepositoryShare(ResponseModel):
    repository_url: str
    repository_name: str
    credits_used: int
    percentage: float


class CostProjection(ResponseModel):
    averageDaily: int = Field(description="Mean of the days of this month so far")
    currentMonthProjected: int
    nextMonthEstimate: int


class OrgAnalytics(ResponseModel):
    topUsers: list[TopAnalysed]
    topRepositories: list[TopRepository]
    dailyUsage: list[DailyUsage]
    currentBalance: int
    usageThisCycle: int
    usageTrend: list[DailyUsage]
    repositoryUsage: list[RepositoryShare]
    costProjection: CostProjection


class Velocity(ResponseModel):
    current: int
    trend: Literal["up", "down", "stable"]
    percentage: int


class BurnRate(ResponseModel):
    daily: int
    weekly: int
    monthly: int
    daysRemaining: int


class Performance(ResponseModel):
    responseTime: int | None = Field(
        description="Mean of the last 24 hours in milliseconds; null without calls"
    )
    errorRate: float = Field(description="Percent of the calls of the last 24 hours")
    uptime: float | None = Field(description="Always null: the server does not measure its own uptime")


class AlertCounts(ResponseModel):
    active: int
    critical: int
    warnings: int


class Monitoring(ResponseModel):
    healthStatus: Literal["healthy", "warning", "critical"]
    creditVelocity: Velocity
    burnRate: BurnRate
    performanceMetrics: Performance
    alerts: AlertCounts


@bp.get("/api/orgs/<org_id>/usage")
@Operation(
    tag="Organisation usage",
    caller="cookie",
    answers={200: ("The month on the organisation's clock", OrgUsageAnswer), **MEMBERS},
    door=door(),
)
@org_route()
def org_usage() -> ResponseReturnValue:
    """Return balance and usage of this month: the ten members who used most, and the latest 50 calls."""
    org, moment = current_org(), now()
    start, end = month_of(org, moment)
    top = _members(org, start, end)
    calls = exported_calls(org.id, start, moment, user_id=own_calls_of(), newest_first=True)
    recent = list(islice(calls, RECENT))
    who = people(total.key for total in top)
    return jsonify(
        currentBalance=balance(org_account(), now=moment).net_balance,
        usageThisCycle=month_used(org, moment),
        cycleStartDate=iso(start),
        cycleEndDate=iso(end),
        topUsers=[
            {
                "user_id": total.key,
                "user_name": who.get(total.key, _UNKNOWN)[0],
                "user_email": who.get(total.key, _UNKNOWN)[1],
                "credits_used": total.credits,
            }
            for total in top
        ],
        recentUsage=[_recent(call) for call in recent],
    )


@bp.get("/api/orgs/<org_id>/usage/export")
@Operation(
    tag="Organisation usage",
    caller="cookie",
    answers={200: ("CSV, newest calls first", str), **MEMBERS},
    door=door(),
)
@org_route()
def export_org_usage() -> ResponseReturnValue:
    """Stream all calls as CSV: date, user, repository, credits and message id."""
    org, moment = current_org(), now()
    first = midnight(EARLIEST, clock_of(org))
    calls = exported_calls(org.id, first, moment + DAY, user_id=own_calls_of(), newest_first=True)
    lines = (
        (iso(call.finished_at), call.user_name or "Unknown", call.repo_url or "", _charged(call), call.id)
        for call in calls
    )
    db.session.commit()
    head = ("Date", "User", "Repository", "Credits Used", "Message ID")
    return _file(quoted_csv(head, lines), f"org-usage-{org.id}-{_today(org, moment)}.csv", "text/csv")


@bp.get("/api/orgs/<org_id>/analytics")
@Operation(
    tag="Organisation usage",
    caller="cookie",
    answers={200: ("This month, and the last 30 days by day", OrgAnalytics), **MEMBERS},
    door=door(),
)
@org_route()
def analytics() -> ResponseReturnValue:
    """Return who and what used most this month, the last 30 days, and a projection of this month and the next."""
    org, moment, own = current_org(), now(), own_calls_of()
    start, end = month_of(org, moment)
    today = moment.astimezone(clock_of(org)).date()
    days = credits_by_day(org, today - timedelta(days=29), today, user_id=own)
    daily = [{"date": str(day), "credits_used": credits} for day, credits in sorted(days.items())]
    used = month_used(org, moment, user_id=own)
    members = _members(org, start, end)
    who = people(total.key for total in members)
    repositories = totals_by(org, "repository", start, end, user_id=own)
    return jsonify(
        topUsers=[
            {
                "user_id": total.key,
                "user_name": who.get(total.key, _UNKNOWN)[0],
                "credits_used": total.credits,
                "percentage": _share(total.credits, used),
            }
            for total in members
        ],
        topRepositories=[
            {"repository_url": total.key, "credits_used": total.credits}
            for total in repositories
            if total.key
        ],
        dailyUsage=daily,
        currentBalance=balance(org_account(), now=moment).net_balance,
        usageThisCycle=month_used(org, moment) if own else used,
        usageTrend=daily,
        repositoryUsage=[
            {
                "repository_url": total.key,
                "repository_name": total.key.removeprefix("https://").partition("/")[2] or "No repository",
                "credits_used": total.credits,
                "percentage": _share(total.credits, used),
            }
            for total in repositories
        ],
        costProjection=_projection(used / today.day, (end.date() - start.date()).days),
    )


@bp.get("/api/orgs/<org_id>/analytics/export")
@Operation(
    tag="Organisation usage",
    caller="cookie",
    parameters=[query("format", "csv or json; default csv")],
    answers={200: ("A CSV or JSON file", dict[str, Any] | str), 400: "Another format", **MEMBERS},
    door=door(),
)
@org_route()
def export_analytics() -> ResponseReturnValue:
    """Return the latest 1,000 calls of this month as a CSV or JSON file."""
    org, moment = current_org(), now()
    kind = request.args.get("format") or "csv"
    if kind not in ("csv", "json"):
        raise DomainError("Invalid format. Use csv or json.", status=400)
    start, _ = month_of(org, moment)
    calls = exported_calls(org.id, start, moment + DAY, user_id=own_calls_of(), newest_first=True)
    latest = list(islice(calls, EXPORTED))
    name = f"org-{org.id}-usage-{_today(org, moment)}.{kind}"
    if kind == "csv":
        head = ("Date", "User Name", "User Email", "Repository", "Credits Used")
        lines = ((iso(call.finished_at), *_who(call), call.repo_url or "", _charged(call)) for call in latest)
        return _file(quoted_csv(head, lines), name, "text/csv")
    document = {
        "organization_id": org.id,
        "export_date": iso(moment),
        "period": {"start": iso(start), "end": iso(moment)},
        "usage_data": [
            {
                "date": iso(call.finished_at),
                "user": dict(zip(("name", "email"), _who(call), strict=True)),
                "repository_url": call.repo_url or "",
                "credits_used": _charged(call),
            }
            for call in latest
        ],
        "summary": {"total_records": len(latest), "total_credits": sum(map(_charged, latest))},
    }
    return _file(iter([json.dumps(document, indent=2)]), name, "application/json")


@bp.get("/api/orgs/<org_id>/monitoring")
@Operation(
    tag="Organisation usage",
    caller="cookie",
    answers={200: ("Real figures", Monitoring), **MEMBERS},
    door=door(),
)
@org_route()
def monitoring() -> ResponseReturnValue:
    """Return the pace of spending, how long the balance lasts, and the health of the latest calls."""
    org, moment = current_org(), now()
    watch_org(org, now=moment)
    db.session.commit()
    net = balance(org_account(), now=moment).net_balance
    daily = used_since(org, moment - DAY, moment)
    days_left = max(0, net // daily) if daily else FOREVER
    alerts = open_alerts(org.id, now=moment)
    critical = sum(alert.severity == "critical" for alert in alerts)
    warnings = sum(alert.severity == "warning" for alert in alerts)
    calls = health(org, moment - DAY)
    status = "healthy"
    if critical or net < CRITICAL:
        status = "critical"
    elif warnings or net < LOW or days_left < FEW_DAYS:
        status = "warning"
    local_hour = moment.replace(minute=0, second=0, microsecond=0)
    week = totals_by(org, "model", local_hour - 7 * DAY, moment + HOUR, grain="hour", limit=None)
    return jsonify(
        healthStatus=status,
        creditVelocity=_velocity(org, moment),
        burnRate={
            "daily": daily,
            "weekly": sum(total.credits for total in week),
            "monthly": month_used(org, moment),
            "daysRemaining": days_left,
        },
        performanceMetrics={
            "responseTime": None if calls.latency_ms is None else round(calls.latency_ms),
            "errorRate": round(calls.error_rate, 2),
            "uptime": None,
        },
        alerts={"active": len(alerts), "critical": critical, "warnings": warnings},
    )


_UNKNOWN = ("Unknown", "Unknown")


def _members(org: Org, start: datetime, end: datetime) -> list[KeyTotal]:
    """The ten members who used most, or the member alone who sees only their own usage."""
    own = own_calls_of()
    if not own:
        return totals_by(org, "member", start, end)
    mine = totals_by(org, "model", start, end, limit=None, user_id=own)
    return [KeyTotal(own, sum(one.calls for one in mine), sum(one.credits for one in mine))] if mine else []


def _projection(average: float, days: int) -> dict[str, int]:
    """This month at its mean so far, and a month of 30 days."""
    return {
        "averageDaily": round(average),
        "currentMonthProjected": round(average * days),
        "nextMonthEstimate": round(average * 30),
    }


def _velocity(org: Org, moment: datetime) -> dict[str, Any]:
    current = used_since(org, moment - HOUR, moment)
    before = used_since(org, moment - 2 * HOUR, moment - HOUR)
    change = 100 * (current - before) / before if before else 0.0
    trend = "up" if change > 5 else "down" if change < -5 else "stable"
    return {"current": current, "trend": trend, "percentage": round(abs(change))}


def _recent(call: Any) -> dict[str, Any]:
    return {
        "date": iso(call.finished_at),
        "credits_used": _charged(call),
        "repository_url": call.repo_url or "",
        "user_name": call.user_name or "Unknown",
    }


def _charged(call: Any) -> int:
    return 0 if call.byok else int(call.credits)


def _who(call: Any) -> tuple[str, str]:
    return call.user_name or "Unknown", call.user_email or "Unknown"


def _share(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


def _today(org: Org, moment: datetime) -> date:
    return moment.astimezone(clock_of(org)).date()


def _file(chunks: Iterator[str], name: str, kind: str) -> Response:
    response = Response(chunks, mimetype=kind)
    response.headers["Content-Type"] = kind
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Cache-Control"] = "no-store"
    return response
