"""The list of runs, its filters and sorts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import midnight, now
from models.core.errors import NotFound
from models.gateway.chat_format.request_tags import MAX_TAG
from models.runs import RUN_STATUSES, history, run_messages
from models.runs.history import SORTS, RunFilter, RunSummary
from views.runs.pages.run_pages import bp
from views.web.htmx import render, wants_fragment
from views.web.org_guards import account_page, message_reader, viewed_account, viewed_member
from views.web.viewer_locale import viewer_zone

TIME_RANGES = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
STOP_POLLING = 286
MAX_AGENT_LENGTH = 200


@bp.get("/runs")
@bp.get("/orgs/<slug>/runs")
@account_page
def runs() -> ResponseReturnValue:
    """List the account's runs in the chosen order. With htmx, the list alone, or after a cursor only the next rows."""
    account_id = viewed_account().id
    form = RunFilterForm.of(request.args)
    after = request.args.get("after") or None
    page = None if form.errors else history.runs_of(account_id, form.filter, after)
    nothing_yet = page is not None and not (page.runs or after) and not history.has_runs(account_id)
    context: dict[str, Any] = {
        "form": form,
        "listing": page,
        "after": after,
        "nothing_yet": nothing_yet,
        "prompts": prompts_of(page.runs) if page else {},
        "next_href": page and page.next and form.href(after=page.next),
    }
    if wants_fragment():
        partial = "runs/_more_rows.html" if after else "runs/_list.html"
        response = render("runs/runs.html", partial=partial, status=422 if form.errors else 200, **context)
        if not after:
            response.headers["HX-Push-Url"] = form.href()
        return response
    return render(
        "runs/runs.html",
        partial="runs/_list.html",
        status=422 if form.errors else 200,
        agents=history.agents_of(account_id, user_id=viewed_member()),
        **context,
    )


@bp.get("/runs/<run_id>/row")
@bp.get("/orgs/<slug>/runs/<run_id>/row")
@account_page
def row(run_id: str) -> ResponseReturnValue:
    """Render a run's row in the list, for its polling. An unknown run removes its row."""
    account_id = viewed_account().id
    if not wants_fragment():
        return redirect(url_for("runs.run", run_id=run_id), 303)
    try:
        summary = history.summary_of(account_id, run_id, user_id=viewed_member())
    except NotFound:
        return "", STOP_POLLING
    return render(
        "runs/_rows.html", partial="runs/_rows.html", summaries=[summary], prompts=prompts_of([summary])
    )


def prompts_of(summaries: Sequence[RunSummary]) -> dict[str, str]:
    """The first prompts of the runs whose messages the viewer may read, by run id."""
    reader = message_reader()
    readable = [each.run.id for each in summaries if reader in (None, each.run.user_id)]
    return run_messages.first_prompts(viewed_account().id, readable)


@dataclass(frozen=True)
class RunFilterForm:
    """The filter form of the list: values as entered, the resulting filter, and errors by field."""

    values: Mapping[str, str]
    filter: RunFilter
    errors: Mapping[str, str]

    @classmethod
    def of(cls, args: Mapping[str, str]) -> "RunFilterForm":
        """Parse query parameters. Empty fields count as missing."""
        values = {
            key: args.get(key, "").replace("\x00", "").strip()
            for key in ("agent", "status", "when", "from", "to", "spawned", "tag", "sort")
        }
        errors: dict[str, str] = {}
        if len(values["agent"]) > MAX_AGENT_LENGTH:
            errors["agent"] = f"Enter at most {MAX_AGENT_LENGTH} characters"
        if values["status"] and values["status"] not in RUN_STATUSES:
            errors["status"] = "Choose a status from the list"
        if len(values["tag"]) > MAX_TAG:
            errors["tag"] = f"Enter at most {MAX_TAG} characters"
        if values["sort"] not in ("", *SORTS):
            errors["sort"] = "Choose an order from the list"
        since, until = _time_range(values, errors)
        filter = RunFilter(
            agent=values["agent"],
            status=values["status"] or None,
            since=since,
            until=until,
            spawned=bool(values["spawned"]) or bool(values["agent"]),
            user_id=viewed_member(),
            tag=values["tag"],
            sort=values["sort"] if values["sort"] in SORTS else "newest",
        )
        return cls(values, filter, errors)

    def href(self, **changes: str) -> str:
        """Return the URL of this list with some fields changed. Empty fields are omitted."""
        values: dict[str, Any] = {**self.values, **changes}
        if values["when"] != "custom":
            values = {**values, "from": "", "to": ""}
        return url_for("runs.runs", **{key: value for key, value in values.items() if value})

    @property
    def back_label(self) -> str:
        """Text of the link from a later page to the first."""
        return f"Back to the {self.filter.sort}"

    @property
    def chips(self) -> list[tuple[str, str]]:
        """Return the label of each active filter and the URL without it."""
        values, chips = self.values, []
        if values["agent"]:
            chips.append((f"Agent: {values['agent']}", self.href(agent="")))
        if values["status"]:
            chips.append((values["status"].capitalize(), self.href(status="")))
        if self.filter.since or self.filter.until:
            labels = {"24h": "Last 24 hours", "7d": "Last 7 days", "30d": "Last 30 days"}
            from_to = [f"{key} {values[key]}" for key in ("from", "to") if values[key]]
            label = labels.get(values["when"]) or " ".join(from_to).capitalize()
            chips.append((label, self.href(when="")))
        if values["spawned"]:
            chips.append(("Including spawned runs", self.href(spawned="")))
        if values["tag"]:
            chips.append((f"Tag: {values['tag']}", self.href(tag="")))
        return chips


def _time_range(values: Mapping[str, str], errors: dict[str, str]) -> tuple[datetime | None, datetime | None]:
    """Return start (inclusive) and end (exclusive) of a preset or of the chosen days, on the viewer's clock."""
    when = values["when"]
    if when in TIME_RANGES:
        return now() - TIME_RANGES[when], None
    if when == "":
        return None, None
    if when != "custom":
        errors["when"] = "Choose a time range from the list"
        return None, None
    first, last = _date("from", values, errors), _date("to", values, errors)
    if first and last and last < first:
        errors["to"] = "Enter a date on or after the start date"
    zone = viewer_zone()
    return (
        midnight(first, zone) if first else None,
        midnight(last + timedelta(days=1), zone) if last else None,
    )


def _date(key: str, values: Mapping[str, str], errors: dict[str, str]) -> date | None:
    if not values[key]:
        return None
    try:
        day = date.fromisoformat(values[key])
    except ValueError:
        day = date.min
    if not 2000 <= day.year <= 2999:
        errors[key] = "Enter a date like 2026-11-20"
        return None
    return day
