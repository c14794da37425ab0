"""Bodies and answers of the routes of runs, in the shapes of the fastest contract (3.13); what is beyond it says what vouches for a patch."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from models.insights import ActionItemRun
from models.insights.item_run import MAX_ATTEMPTS
from models.insights.item_run_reading import attempts_of
from models.insights.item_run_rebasing import USE_PATCH, RunRebase
from models.insights.item_run_starting import DEFAULT_BUDGET, MAX_BUDGET
from models.insights.patch_text import PatchText
from models.projects.merge import USE_WORKSPACE, MergeEntry
from views.projects.api.sync_bodies import REASONS, SyncEntry, SyncWarning
from views.web.body import Body, Missing
from views.web.format import iso
from views.web.operation import ResponseModel

RunStatus = Literal["queued", "running", "paused", "ready", "failed", "applied"]


class NewRunBody(Body):
    level: Missing[Literal["virtual", "process", "machine"]] = Field(
        None,
        description="Where its commands run; by default `process` if this server has it, else `virtual`, where no check runs",
    )
    model: Missing[str] = Field(None, min_length=1, max_length=200, description="By default the server's")
    budget: Missing[int] = Field(
        None,
        ge=1,
        le=MAX_BUDGET,
        description=f"Credits that all attempts may spend together; {DEFAULT_BUDGET} by default",
    )
    allow_test_changes: Missing[bool] = Field(
        None, description="Whether tests that are there, and files that say how to check, may change"
    )
    max_attempts: Missing[int] = Field(None, ge=1, le=MAX_ATTEMPTS)


class ResumeRunBody(Body):
    budget: Missing[int] = Field(
        None,
        ge=1,
        le=MAX_BUDGET,
        description="The new budget of all attempts in credits, with what they have spent; by default as it was",
    )


class RebaseBody(Body):
    decisions: dict[str, str] = Field(
        default_factory=dict,
        max_length=10_000,
        description="An answer for the path of each decision: `use_patch`, `use_workspace` or `custom`",
    )
    custom_values: dict[str, str] = Field(
        default_factory=dict, max_length=10_000, description="By path the texts of those answered `custom`"
    )


class RunCheck(ResponseModel):
    kind: Literal["install", "build", "typecheck", "test"]
    command: str
    success: bool
    output: str = Field(description="At most 12,000 characters: its beginning and its end")
    seconds: float
    ended: str = Field(description="`exit`, or why it was ended: `timeout`, `memory`, `output`, `disk`")
    exit_code: int | None
    flaky: bool = Field(False, description="It failed, and passed when it ran again on the same files")
    tree_hash: str | None = Field(None, description="The tree that it ran on")


class AskedHost(ResponseModel):
    host: str
    allowed: bool = Field(description="Whether the project allows it to its checks")


class RunAttempt(ResponseModel):
    kind: Literal["agent", "rebase"] = Field(
        description="What an agent did, or a merge with newer files that was checked again"
    )
    number: int
    state: Literal["working", "checking", "passed", "failed", "lost"] = Field(
        description="`lost`: the server stopped during it, and it does not count"
    )
    problem: str = Field(description="Why it failed; empty otherwise")
    report: str = Field(description="What the agent said of it")
    checks: list[RunCheck]
    hosts: list[AskedHost] = Field(description="Hosts that an install asked for")
    tests_touched: list[str] = Field(description="Tests that were there and that it changed")
    outside: list[str] = Field(
        description="Changed files that the item does not name; none if it names no files"
    )
    base_manifest_hash: str | None = Field(
        description="The files that it began with; others than the run's `base_manifest_hash` after a rebase"
    )
    manifest_hash: str | None = Field(description="Its files")
    credits: int


class RunObject(ResponseModel):
    id: str
    action_item_id: str
    workspace_id: str
    project_id: str
    status: RunStatus
    attempt_count: int
    max_attempts: int
    base_manifest_hash: str
    result_manifest_hash: Missing[str] = Field(None, description="The files of its last attempt")
    summary: Missing[str] = None
    report: Missing[str] = None
    patch: Missing[str] = Field(None, description="The unified diff of base and result; not in lists")
    patch_left_out: Missing[list[str]] = Field(
        None, description="Changed paths that the diff does not show: links, and what is too large"
    )
    checks: Missing[list[RunCheck]] = Field(None, description="Those of the last attempt")
    error: Missing[str] = Field(None, description="Why it failed, or is paused")
    error_code: Missing[str] = None
    returned: Missing[int] = Field(
        None, description="Credits that were given back, because it failed on our side"
    )
    started_at: Missing[datetime] = None
    completed_at: Missing[datetime] = None
    created_at: datetime
    updated_at: datetime
    verified: Missing[bool] = Field(
        None, description="Of a ready or applied run: whether checks prove it. If not, `doubts` says why"
    )
    doubts: Missing[str] = None
    tests_touched: list[str]
    level: str
    model: Missing[str] = None
    allow_test_changes: bool
    budget: int = Field(description="Credits")
    credits: int = Field(description="What it has spent")
    attempts: Missing[list[RunAttempt]] = Field(None, description="Oldest first; not in lists")
    operation_id: Missing[str] = Field(None, description="The operation that applied it, which can be undone")


class RunAnswer(ResponseModel):
    run: RunObject


class RunList(ResponseModel):
    runs: list[RunObject] = Field(description="At most 20, newest first")


class AppliedRun(ResponseModel):
    success: Literal[True]
    operation_id: str = Field(description="The operation, which can be undone")


class RebaseChange(ResponseModel):
    path: str
    label: str = Field(
        description="How: `same`, `one-sided`, `renamed`, or by `lines`, `structure` or `keys`"
    )
    result: SyncEntry | None = Field(description="What stands there afterwards; null: nothing")
    renamed_from: str | None


class RebaseDecision(ResponseModel):
    path: str
    reason: str = Field(description="A code, such as `same_place`")
    conflict_reason: str
    options: dict[str, dict[str, SyncEntry | None]] = Field(
        description="By `use_patch` and `use_workspace` what stands at each path"
    )
    custom_allowed: bool
    draft: str | None = Field(description="A text with conflict markers to begin a custom one from")


class RebasePreview(ResponseModel):
    run_id: str
    workspace_version: int = Field(description="The version that it was made from: send it as If-Match")
    changes: list[RebaseChange]
    decisions_needed: list[RebaseDecision]
    warnings: list[SyncWarning] = Field(description="What merged cleanly and looks wrong")


class RebaseAnswer(ResponseModel):
    rebase: RebasePreview


def run_json(run: ActionItemRun, patch: PatchText | None = None, *, whole: bool = False) -> dict[str, Any]:
    """A `RunObject`; fields without a value are left out. `whole`: with its attempts."""
    named = ("id", "action_item_id", "workspace_id", "project_id", "status", "attempt_count", "max_attempts")
    more = ("base_manifest_hash", "tests_touched", "level", "allow_test_changes", "budget", "credits")
    times = {name: getattr(run, name) for name in ("started_at", "completed_at", "created_at", "updated_at")}
    optional = {
        **{
            name: getattr(run, name)
            for name in ("result_manifest_hash", "summary", "report", "checks", "error")
        },
        **{
            name: getattr(run, name)
            for name in ("error_code", "returned", "verified", "doubts", "model", "operation_id")
        },
        "patch": patch.text if patch else None,
        "patch_left_out": patch.left_out[:200] if patch else None,
        "attempts": [_attempt_json(each) for each in attempts_of(run)] if whole else None,
        **{name: iso(value) if value else None for name, value in times.items()},
    }
    return {
        **{name: getattr(run, name) for name in (*named, *more)},
        **{name: value for name, value in optional.items() if value is not None},
    }


def rebase_json(rebase: RunRebase) -> dict[str, Any]:
    """A `RebasePreview`."""
    merge = rebase.merge
    return {
        "run_id": rebase.found.run.id,
        "workspace_version": rebase.version,
        "changes": [
            {
                "path": path,
                "label": str(each.label),
                "result": _entry_json(each.result),
                "renamed_from": each.renamed_from,
            }
            for path, each in merge.paths.items()
            if path in rebase.paths and each.decision is None
        ],
        "decisions_needed": [
            {
                "path": path,
                "reason": str(each.reason),
                "conflict_reason": REASONS[each.reason].replace("Both sides", "The patch and the workspace"),
                "options": {
                    USE_WORKSPACE if name == USE_WORKSPACE else USE_PATCH: {
                        at: _entry_json(entry) for at, entry in outcome.items()
                    }
                    for name, outcome in each.options.items()
                },
                "custom_allowed": each.custom_mode is not None,
                "draft": each.draft.decode(errors="replace") if each.draft is not None else None,
            }
            for path, each in merge.decisions.items()
        ],
        "warnings": [dict(zip(SyncWarning.model_fields, each, strict=True)) for each in merge.warnings],
    }


def _attempt_json(attempt: Mapping[str, Any]) -> dict[str, Any]:
    return {name: attempt[name] for name in RunAttempt.model_fields}


def _entry_json(entry: MergeEntry | None) -> dict[str, Any] | None:
    return None if entry is None else entry._asdict()
