"""The page of one model call, which is also the fragment of the side panel beside a list of calls."""

import json
from collections.abc import Mapping
from typing import Any

from flask import Response, current_app, g, request, url_for
from flask.typing import ResponseReturnValue

from models.core.errors import NotFound
from models.gateway import GatewayCall
from models.runs import AgentRun
from models.runs.call_problems import Remedy, explain_problem
from models.runs.call_replay import MAX_INLINE, curl_command
from models.runs.history import find_run
from models.runs.run_calls import CallDetail, call_of, replay_of_call
from models.usage.usage_calls import call_with_id
from views.gateway.api.model_calls import gateway
from views.web.charts import SplitBar, SplitSlice
from views.web.format import duration_ms
from views.web.guards import settings
from views.web.htmx import render, wants_fragment
from views.web.org_guards import check_messages, current_org, viewed_account, viewed_member

LABELS = {
    "max_tokens": "Max tokens",
    "max_completion_tokens": "Max completion tokens",
    "top_p": "Top p",
    "top_k": "Top k",
    "min_p": "Min p",
    "n": "Choices",
    "other": "Other keys",
}
"""Names of parameters that are not their key in words."""


def show_call(request_id: str, run_id: str | None = None) -> ResponseReturnValue:
    """Show a call of the viewed account: messages, parameters, tokens, prices, timing and ledger entries. `run_id`: only if it is a
    call of this run. A call of a run that another account has is shown without the run. Raises NotFound, Forbidden."""
    call, run = _readable_call(request_id, run_id)
    all_messages = request.args.get("messages") == "all"
    detail = call_of(call, run, all_messages=all_messages, user_id=viewed_member())
    provider = _provider(call.provider)
    problem = explain_problem(call, detail.error_message, provider)
    return render(
        "runs/call.html",
        partial="runs/_call.html",
        run=run,
        detail=detail,
        all_messages=all_messages,
        parameters=_parameters(call.parameters or {}),
        timing=_timing(call),
        curl=_curl(detail),
        request_href=url_for("usage.call_request", request_id=request_id),
        provider=provider,
        problem=problem,
        remedy=_remedy(problem.remedy) if problem else None,
        fragment=wants_fragment(),
    )


def download_request(request_id: str) -> ResponseReturnValue:
    """The request of a call as JSON, to send it again. Raises NotFound, Forbidden."""
    call, _ = _readable_call(request_id, None)
    replay = replay_of_call(call)
    if replay is None:
        raise NotFound("The request of this call was not kept")
    response = Response(replay.body, mimetype="application/json")
    response.headers["Content-Disposition"] = f'attachment; filename="{_file_name(call)}"'
    response.headers["Cache-Control"] = "no-store"
    return response


def _readable_call(request_id: str, run_id: str | None) -> tuple[GatewayCall, AgentRun | None]:
    """The call if the viewer may read it, and its run if that is the viewed account's. `run_id`: it must be of this run."""
    account_id, member = viewed_account().id, viewed_member()
    call = call_with_id(account_id, request_id)
    run = find_run(account_id, call.run_id, user_id=member) if call.run_id else None
    if run_id is not None and call.run_id != run_id:
        raise NotFound("There is no such call here")
    if member and (run.user_id if run else call.user_id) != member:
        raise NotFound("There is no such call")
    check_messages(run.user_id if run else call.user_id)
    return call, run


def _provider(name: str | None) -> str | None:
    """The title of a provider, or its name if it is no longer one."""
    known = gateway(current_app).routes.providers.get(name) if name else None
    return known.title if known else name


def _parameters(stored: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of the request's parameters, in a fixed order: jsonb has its own."""
    rows = []
    for key, value in sorted(
        stored.items(), key=lambda item: (item[0] == "other", isinstance(item[1], list), item[0])
    ):
        if key.endswith("_total"):
            continue
        total = stored.get(f"{key}_total")
        text = _text(value) + (f" and {total - len(value)} more" if isinstance(total, int) else "")
        rows.append((LABELS.get(key) or key.replace("_", " ").capitalize(), text))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_text(each)}" for key, each in value.items())
    return str(value) if isinstance(value, str | int | float) else json.dumps(value)


def _timing(call: GatewayCall) -> SplitBar | None:
    """The time to the first token and the time of the answer, as parts of the whole; None if it is not known."""
    first, total = call.ttft_ms, call.latency_ms
    if first is None or not 0 <= first <= total or not total:
        return None
    width = round(first / total * 100, 2)
    label = f"Of {duration_ms(total)}: first token after {duration_ms(first)}, then {duration_ms(total - first)} of answer"
    return SplitBar([SplitSlice("held", 0, width), SplitSlice(1, width, 100 - width)], label)


def _curl(detail: CallDetail) -> str | None:
    """The command that sends the request again; None if it was not kept."""
    if detail.replay and len(detail.replay.body) <= MAX_INLINE:
        return curl_command(settings().base_url, detail.replay.body)
    if detail.replay or detail.transcript.omitted:
        return curl_command(settings().base_url, None, _file_name(detail.call))
    return None


def _file_name(call: GatewayCall) -> str:
    safe = "".join(each for each in call.request_id if each.isascii() and (each.isalnum() or each in "-_"))
    return f"stoa-request-{safe[:64]}.json"


def _remedy(remedy: Remedy | None) -> tuple[str, str] | None:
    """The text and the address of the link to where the cause of a failure can be removed."""
    slug = current_org().slug if "org" in g else None
    match remedy:
        case "billing":
            personal = url_for("profile.profile", tab="billing")
            return "Billing", url_for("billing.organisation_billing", slug=slug) if slug else personal
        case "plans":
            return "Plans", url_for("billing.pricing")
        case "budgets":
            personal = url_for("profile.profile", tab="budgets")
            return "Budgets", url_for("budgets.budget_list", slug=slug) if slug else personal
        case "stop":
            return "Resume calls", url_for("orgs.stop_page", slug=slug) if slug else url_for(
                "stops.stop_page"
            )
        case "keys":
            return "Keys", url_for("orgs.keys", slug=slug) if slug else url_for("pages.api_keys")
        case "members" if slug:
            return "Members", url_for("orgs.overview", slug=slug)
        case "docs":
            return "API documentation", url_for("docs.page")
    return None
