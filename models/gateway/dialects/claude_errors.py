"""Refusals in the shapes that Claude Code acts on: caps that were reached, what a policy forbids, keys that ended."""

from models.core.settings import Settings
from models.gateway.budget_errors import budget_message
from models.gateway.call_errors import CallRefused
from models.gateway.call_session import is_claude_code
from models.gateway.dialects.dialect import ErrorAnswer, ErrorContext
from models.gateway.spend_caps import reached_headers

POLICY_OUTCOMES = frozenset(
    (
        *("model_not_allowed", "agent_not_allowed", "model_not_in_plan", "team_model", "team_repository"),
        *("ip_not_allowed", "insufficient_permissions", "fields_dropped", "org_role"),
    )
)
"""Outcomes of admission that a rule of a key, a plan, a team or an organisation causes."""
NO_RETRY = {"x-should-retry": "false"}
_PLAN_PERIODS = {"daily": "day", "weekly": "week", "monthly": "month"}


def claude_refusal(error: Exception, answer: ErrorAnswer, context: ErrorContext) -> ErrorAnswer:
    """The answer to Claude Code for an error that `answer` formats for other clients of the Messages API."""
    if not is_claude_code(context.headers):
        return answer
    if answer.status == 401:
        # it asks to sign in again at once
        return ErrorAnswer(401, answer.body, {**answer.headers, **NO_RETRY})
    if not isinstance(error, CallRefused):
        return answer
    outcome = error.admission.outcome
    if outcome in ("budget", "plan_limit"):
        return _cap_reached(error, answer, context.settings)
    if outcome in POLICY_OUTCOMES:
        return ErrorAnswer(400, _typed(answer, "policy_blocked"), {**answer.headers, **NO_RETRY})
    return answer


def _cap_reached(error: CallRefused, answer: ErrorAnswer, settings: Settings) -> ErrorAnswer:
    admission, budget = error.admission, error.admission.budget
    body = _typed(answer, "billing_error")
    if budget is None:
        period = _PLAN_PERIODS.get(admission.limit_label, admission.limit_label)
        return ErrorAnswer(429, body, reached_headers(period, "plan", admission.limit_resets_at))
    body["error"]["message"] = budget_message(budget, settings.base_url)
    return ErrorAnswer(429, body, reached_headers(budget.period, budget.level, budget.resets))


def _typed(answer: ErrorAnswer, kind: str) -> dict[str, dict[str, str]]:
    message = str(answer.body["error"]["message"])
    return {**answer.body, "error": {"type": kind, "message": message}}
