"""`/admin/evals`: evaluation results, their chart over time, one in full, and two side by side."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.admin.git_evals import EvalSummary, GitEvalResults, eval_summaries, eval_with_id, previous_eval
from models.core.db import db, now
from models.core.errors import Invalid
from views.admin.pages.admin_blueprint import bp, operating_user
from views.web.charts import MAX_SERIES, Chart, ChartSeries, line_chart
from views.web.guards import admin_required, audit
from views.web.htmx import render, see_other, toast

CHARTED = 500
"""Latest results that the chart shows."""
DAYS = 92
"""Longest chart by day; longer ones are by week."""
MAX_WEEKS = 104
SCORE = "avgScore"
NAMES = {
    "avgScore": "Score",
    "avgCompletion": "Completion",
    "avgEfficiency": "Efficiency",
    "avgCodeQuality": "Code quality",
    "avgDuration": "Duration",
    "avgTurns": "Turns",
    "numCases": "Cases",
}
"""Known metrics, in the order in which they are offered."""
LONGEST = 500


@dataclass(frozen=True)
class MetricPair:
    """A metric of two results; None where one does not have it."""

    name: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        """The difference, if both have it."""
        return None if self.before is None or self.after is None else self.after - self.before


@bp.get("/evals")
@admin_required
def evals() -> ResponseReturnValue:
    """List evaluation results. Query: `agent`; `metric` and `by` (agent or commit) of the chart; `before`, a cursor."""
    agent = request.args.get("agent", "").replace("\0", "")[:LONGEST]
    before = request.args.get("before", "").replace("\0", "")[:LONGEST]
    rows, following = eval_summaries(agent=agent, before=before)
    charted = eval_summaries(agent=agent, limit=CHARTED)[0] if not before else []
    metrics = _metric_names(charted or rows)
    metric = request.args.get("metric", "")
    metric = metric if metric in metrics else next(iter(metrics), SCORE)
    by = "commit" if request.args.get("by") == "commit" else "agent"
    chosen: dict[str, Any] = {"agent": agent or None, "metric": metric, "by": by}
    return render(
        "admin/evals.html",
        partial="admin/_eval_rows.html" if before else None,
        rows=rows,
        more=url_for("admin.evals", before=following, **chosen) if following else None,
        chart=_chart(charted, metric, by) if charted else None,
        agents=sorted({each.agent_model for each in charted if each.agent_model}),
        metrics=[(name, metric_name(name)) for name in metrics],
        metric=metric,
        metric_label=metric_name(metric),
        by=by,
        agent=agent,
        later=bool(before),
    )


@bp.get("/evals/comparison")
@admin_required
def eval_comparison() -> ResponseReturnValue:
    """Two results side by side, the older one first. Query: `id`, twice. Raises Invalid (422), NotFound."""
    ids = sorted(set(request.args.getlist("id")))
    if len(ids) != 2:
        raise Invalid("Choose two results to compare.")
    older, newer = (eval_with_id(id) for id in ids)
    return render("admin/eval_comparison.html", older=older, newer=newer, pairs=_pairs(older, newer))


@bp.get("/evals/<id>")
@admin_required
def eval_result(id: str) -> ResponseReturnValue:
    """One result with its metrics and metadata. Raises NotFound."""
    found = eval_with_id(id)
    return render(
        "admin/eval.html",
        result=found,
        metrics=[(metric_name(name), found.metrics[name]) for name in _ordered(found.metrics)],
        metadata=json.dumps(found.details, ensure_ascii=False, indent=2) if found.details else None,
        previous=previous_eval(found),
    )


@bp.post("/evals/<id>/visibility")
@admin_required
def eval_visibility(id: str) -> ResponseReturnValue:
    """Publish a result (`public` is yes), or hide it."""
    found = eval_with_id(id)
    public = request.form.get("public") == "yes"
    show_eval(found, public)
    db.session.commit()
    toast(
        "Everybody can read the result now." if public else "Only operators and auditors see the result now."
    )
    return see_other(url_for("admin.eval_result", id=id))


def show_eval(found: GitEvalResults, public: bool) -> None:
    """Publish or hide a result, with its entry in the audit log."""
    if found.is_public != public:
        found.is_public = public
        before, after = {"is_public": not public}, {"is_public": public}
        audit("eval.visibility", found.id, user=operating_user(), before=before, after=after)


def metric_name(name: str) -> str:
    """A metric in words: `avgScore` is Score, `inner.errorRate` is Inner, error rate."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.replace(".", ", ").replace("_", " "))
    return NAMES.get(name) or words[:1].upper() + words[1:].lower()


def _metric_names(rows: Sequence[EvalSummary]) -> list[str]:
    return _ordered({name for row in rows for name in row.metrics})


def _ordered(names: Sequence[str] | set[str] | dict[str, float]) -> list[str]:
    """Known metrics first."""
    known = list(NAMES)
    return sorted(names, key=lambda name: (known.index(name) if name in NAMES else len(known), name))


def _chart(rows: Sequence[EvalSummary], metric: str, by: str) -> Chart:
    """The average of the metric by day or week, with a line for each of the agents or commits that have most results. Between its
    first and its last result a line repeats the one before."""
    measured = [row for row in rows if metric in row.metrics]
    moment = now()
    first = min((row.created_at for row in measured), default=moment)
    weekly = moment - first > timedelta(days=DAYS)
    step = timedelta(days=7 if weekly else 1)
    start = _midnight(max(first, moment - MAX_WEEKS * timedelta(days=7)))
    buckets = [start + step * n for n in range((_midnight(moment) - start) // step + 1)]
    lines: dict[str, list[list[float]]] = {}
    for row in measured:
        index = (row.created_at - start) // step
        if index >= 0:
            lines.setdefault(_line_name(row, by), [[] for _ in buckets])[index].append(row.metrics[metric])
    most = [
        name for name, _ in Counter(_line_name(row, by) for row in measured).most_common() if name in lines
    ]
    series = [ChartSeries(name, _filled([_mean(each) for each in lines[name]])) for name in most[:MAX_SERIES]]
    return line_chart(buckets, series, unit="number", now=moment, grain="week" if weekly else "day")


def _filled(values: list[float | None]) -> list[float | None]:
    last = max((index for index, value in enumerate(values) if value is not None), default=-1)
    filled: list[float | None] = []
    for index, value in enumerate(values):
        repeats = value is None and filled and index < last
        filled.append(filled[-1] if repeats else value)
    return filled


def _line_name(row: EvalSummary, by: str) -> str:
    if by == "commit":
        return row.commit[:12] if row.commit else "No commit"
    return row.agent_model or "No agent"


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _pairs(older: GitEvalResults, newer: GitEvalResults) -> list[MetricPair]:
    before, after = older.metrics, newer.metrics
    names = _ordered({*before, *after})
    return [MetricPair(metric_name(name), before.get(name), after.get(name)) for name in names]
