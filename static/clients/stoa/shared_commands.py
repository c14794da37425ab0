"""Commands about what is shared: login, logout, undo, sync, drift and env."""

from __future__ import annotations

import getpass
import os
import re
import sys
from pathlib import Path
from typing import Any

from stoa.console_output import Console, change_lines, counted
from stoa.failures import Failure, Refused, misused, plain
from stoa.file_scan import replace
from stoa.ignore_rules import IgnoreRules
from stoa.project_work import ProjectWork, Reconciled
from stoa.server_calls import Server, quoted
from stoa.sign_in import sign_in, sign_out

SIDES = {"main": "use_main", "mine": "use_workspace"}
TRIES = 5
"""Times that a workspace which moves meanwhile is read again."""
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def login(console: Console) -> int:
    """Sign in with a browser, and store the token on this computer."""
    server = console.server(signed_in=False)
    user = sign_in(server, console.say)
    who = user.get("email") or user.get("id") or "you"
    console.show({"url": server.url, "user": user}, [f"Signed in to {server.url} as {who}."])
    return 0


def logout(console: Console) -> int:
    """Forget the token that is stored on this computer."""
    server = console.server(signed_in=False)
    found = sign_out(server)
    lines = [f"Signed out of {server.url}." if found else f"No token of {server.url} is stored here."]
    if os.environ.get("STOA_TOKEN"):
        lines.append("STOA_TOKEN is still set.")
    console.show({"url": server.url, "signed_out": found}, lines)
    return 0


def undo(console: Console) -> int:
    """Undo an operation of the workspace, by default the last one; an undo too. What is not saved is stored as a snapshot first."""
    copy, options = console.copy(), console.options
    with copy.locked():
        work = console.work(copy)
        server, workspace = work.exchange.server, console.workspace_path(copy)
        decisions = _decisions(options.decide, ("keep", "undo"))
        operation = options.operation or _last_operation(server, workspace)
        path = f"{workspace}/operations/{quoted(operation)}/undo"
        if not options.dry_run:
            work.snapshot("Before an undo")
            _agree(work, options.prefer)
        if options.dry_run or options.conflicts:
            plan = server.get(path)
            if options.dry_run:
                return _show_undo(console, plan)
            decisions = {**dict.fromkeys(plan["conflicts"], options.conflicts), **decisions}
        version = work.exchange.workspace().version
        try:
            done = server.post(path, {"decisions": decisions}, headers={"If-Match": version})["operation"]
        except Refused as error:
            if error.code != "UNDO_CONFLICT":
                raise
            conflicts = (error.details or {}).get("conflicts", [])
            raise Failure(
                f"{error} They are: {', '.join(conflicts[:20])}. Choose with --conflicts keep or undo, or --decide PATH=keep.",
                code=error.code,
                details=error.details,
            ) from None
        result = _agree(work, options.prefer)
    answer = {"operation": done, "changes": result.changed, "kept": result.kept, "head": copy.state["head"]}
    console.show(answer, [f"Undid operation {operation}.", *change_lines(result.changed)])
    console.warn_kept(result.kept)
    return 0


def sync(console: Console) -> int:
    """Send what is new here, fetch what is new there, and merge the main workspace into this one."""
    copy, options = console.copy(), console.options
    with copy.locked():
        work = console.work(copy)
        if options.dry_run and work.unsaved():
            console.say("The preview leaves out what no snapshot has yet.")
        if not options.dry_run:
            work.snapshot(options.message or "Before a sync")
        result = Reconciled("nothing", {}, []) if options.dry_run else _agree(work, options.prefer)
        changed, kept = dict(result.changed), list(result.kept)
        preview = _preview(work.exchange.server, console.workspace_path(copy))
        executed = None
        if preview and _has_work(preview) and not options.dry_run:
            executed = _execute(console, work.exchange.server, preview)
            after = _agree(work, options.prefer)
            changed.update(after.changed)
            kept += after.kept
    answer = {
        "how": result.how,
        "preview": preview,
        "executed": executed,
        "changes": changed,
        "kept": kept,
        "head": copy.state["head"],
    }
    console.show(answer, _sync_lines(result.how, preview, executed, changed))
    console.warn_kept(kept)
    return 0


def drift(console: Console) -> int:
    """How the workspace differs from the main one, or from another; the exit code is 1 if it does."""
    copy = console.copy()
    server = console.server(copy)
    path = f"{console.workspace_path(copy)}/drift/compare"
    answer = server.get(
        path,
        source_workspace_id=console.options.source,
        include_dirty="true" if console.options.dirty else None,
    )
    report = answer.get("drift")
    if report is None:
        console.show(answer, [answer.get("message") or "This is the main workspace."])
        return 0
    found = dict.fromkeys(report["source_only"], "added")
    found |= dict.fromkeys(report["both_different"], "modified")
    own = dict.fromkeys(report["workspace_only"], "added")
    name = (answer.get("source_workspace") or {}).get("name", "the main workspace")
    lines = [
        f"Compared with {name}: risk {report['risk_level']}.",
        f"{counted(len(found), 'path')} there that are new or differ:",
    ]
    lines += [
        *change_lines(dict(sorted(found.items()))),
        f"{counted(len(own), 'path')} only here:",
        *change_lines(own),
    ]
    console.show(answer, lines)
    return 1 if found or own else 0


def env(console: Console) -> int:
    """Variables of the workspace, which has the project's where it has none of its own: list, set, unset, or write them to a file."""
    copy, options = console.copy(), console.options
    server = console.server(copy)
    path = f"/v1/projects/{quoted(copy.config['project_id'])}/env-vars"
    mine = {"workspace_id": copy.config["workspace_id"]}
    scope = mine if options.here else {}
    if options.action == "list":
        rows = server.get(path, **mine)["variables"]
        lines = [
            f"{each['key']}={each['value']}{'  (secret)' if each['is_secret'] else ''}{'  (here)' if each['workspace_id'] else ''}"
            for each in rows
        ]
        console.show({"variables": rows}, lines or ["No variables."])
    elif options.action == "set":
        key, value = _variable(options.variable)
        body: dict[str, Any] = {"key": key, "value": value, **({"is_secret": True} if options.secret else {})}
        server.post(path, body, query=scope, again=True)
        console.show({"set": key}, [f"{key} is set."])
    elif options.action == "unset":
        key = _variable_name(options.variable)
        server.json("DELETE", f"{path}/{quoted(key)}", query=scope, again=True)
        console.show({"unset": key}, [f"{key} is gone."])
    else:
        return _pull(console, server.get(f"{path}/values", **mine)["variables"])
    return 0


def _pull(console: Console, rows: list[dict[str, Any]]) -> int:
    """Write the values to a file that only its owner reads, or print them."""
    text = "".join(f"{each['key']}={_dotenv(each['value'])}\n" for each in rows)
    if not console.options.file:
        if console.options.json:
            console.show({"variables": rows}, [])
        else:
            sys.stdout.write(text)
        return 0
    place = Path(console.folder, console.options.file)
    if place.exists() and not console.options.force:
        raise Failure(f"{place} exists. Replace it with --force.", code="EXISTS")
    replace(place, text.encode(), 0o600)
    root = console.copy().root
    path = Path(os.path.relpath(place, root)).as_posix()
    if not path.startswith("../") and not IgnoreRules.of(root).ignored(path, False):
        console.say("Name this file in .stoaignore, or the next snapshot has it.")
    console.show(
        {"file": str(place), "count": len(rows)}, [f"Wrote {counted(len(rows), 'variable')} to {place}."]
    )
    return 0


def _agree(work: ProjectWork, prefer: str | None) -> Reconciled:
    """Reconcile until the server no longer moves meanwhile; the changes of all rounds."""
    changed: dict[str, str] = {}
    kept: list[str] = []
    how = "nothing"
    for _ in range(TRIES):
        done = work.reconcile(prefer)
        changed.update(done.changed)
        kept += done.kept
        if done.how == "moved":
            continue
        how = done.how if how == "nothing" else how
        if done.how == "nothing":
            return Reconciled(how, changed, kept)
    raise Failure("The workspace moves all the time. Try again.", code="VERSION_CONFLICT")


def _last_operation(server: Server, workspace: str) -> str:
    rows = server.get(f"{workspace}/operations", limit=1)["operations"]
    if not rows:
        raise Failure("The workspace has no operation to undo.", code="NOT_FOUND")
    return str(rows[0]["id"])


def _show_undo(console: Console, plan: dict[str, Any]) -> int:
    conflicts = set(plan["conflicts"])
    lines = [f"Undoing operation {plan['operation']['id']} ({plan['operation']['kind']}) would:"]
    lines += [
        f"  {each['action']}  {each['path']}{'  (changed since: needs a decision)' if each['path'] in conflicts else ''}"
        for each in plan["changes"]
    ]
    console.show(plan, lines)
    return 0


def _preview(server: Server, workspace: str) -> dict[str, Any] | None:
    """What a merge of the main workspace would do; None for the main workspace itself, or without snapshots."""
    try:
        return dict(server.post(f"{workspace}/sync/prepare", again=True)["preview"])
    except Refused as error:
        if error.code in ("INVALID_OPERATION", "NO_MAIN_WORKSPACE", "NO_SNAPSHOT"):
            return None
        raise


def _has_work(preview: dict[str, Any]) -> bool:
    return bool(preview["auto_actions"] or preview["decisions_needed"])


def _execute(console: Console, server: Server, preview: dict[str, Any]) -> dict[str, Any]:
    options = console.options
    needed = {each["path"]: each for each in preview["decisions_needed"]}
    given = _decisions(options.decide, None)
    chosen = dict.fromkeys(needed, SIDES[options.take]) if options.take else {}
    chosen |= {path: SIDES.get(choice, choice) for path, choice in given.items()}
    missing = [path for path in needed if path not in chosen]
    if missing:
        raise Failure(
            "Both sides changed these files: "
            + ", ".join(missing[:20])
            + ". See both with 'sync --dry-run'. Choose with --take main or mine, or --decide PATH=main, PATH=mine or PATH=@FILE.",
            code="MISSING_DECISIONS",
            details={"missing": missing, "preview": preview},
        )
    custom = {path: _text(choice[1:]) for path, choice in chosen.items() if choice.startswith("@")}
    chosen |= dict.fromkeys(custom, "custom")
    body = {"preview_id": preview["id"], "decisions": chosen, **({"custom_values": custom} if custom else {})}
    return dict(server.post(f"{console.workspace_path(console.copy())}/sync/execute", body))


def _sync_lines(
    how: str, preview: dict[str, Any] | None, executed: dict[str, Any] | None, changed: dict[str, str]
) -> list[str]:
    lines = {
        "nothing": [],
        "sent": ["Sent what was new here."],
        "fetched": ["Fetched what was new on the server."],
        "merged": ["Merged what was new here and on the server."],
    }[how]
    if preview and _has_work(preview) and not executed:
        lines = [*lines, "A merge of the main workspace would change:"]
        lines += [f"  {each['path']}: {each['description']}" for each in preview["auto_actions"]]
        for each in preview["decisions_needed"]:
            lines += [f"  {each['path']}: needs a decision. {each['conflict_reason']}", *_diff_lines(each)]
    if executed:
        lines = [*lines, "Merged the main workspace into this one."]
    if preview and _has_work(preview):
        found = preview.get("warnings", [])
        lines += [f"  Look at {each['path']}:{each['line']}: {each['message']}" for each in found]
    return [*(lines or ["All is in sync."]), *change_lines(changed)]


def _diff_lines(decision: dict[str, Any], most: int = 100) -> list[str]:
    """How main's text differs from the own one, if both are texts."""
    from difflib import unified_diff

    texts = {each["id"]: each["resulting_content"] for each in decision["options"]}
    mine, main = (texts.get(SIDES[each]) for each in ("mine", "main"))
    if mine is None or main is None:
        return []
    found = list(unified_diff(mine.splitlines(), main.splitlines(), "mine", "main", lineterm=""))
    more = [f"    … and {len(found) - most:,} more lines"] if len(found) > most else []
    return [*(f"    {line}" for line in found[:most]), *more]


def _decisions(given: list[str], allowed: tuple[str, ...] | None) -> dict[str, str]:
    """The choices of `--decide PATH=CHOICE`."""
    found = {}
    for each in given:
        path, equals, choice = each.rpartition("=")
        if not equals or not path or (allowed and choice not in allowed):
            words = " or ".join(allowed) if allowed else "main, mine or @FILE"
            raise misused(f"--decide must be PATH=CHOICE, with {words}: {plain(each)}")
        found[path] = choice
    return found


def _text(file: str) -> str:
    """The text of a file that the user chose."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file} cannot be read: {error}") from None


def _variable(text: str | None) -> tuple[str, str]:
    """Key and value of `KEY=VALUE`; of `KEY` alone the value is read, so that no shell remembers it."""
    key, equals, value = (text or "").partition("=")
    key = _variable_name(key)
    if equals:
        return key, value
    if sys.stdin.isatty():
        return key, getpass.getpass(f"Value of {key}: ")
    return key, sys.stdin.read().rstrip("\n")


def _variable_name(key: str | None) -> str:
    if not key or not _KEY.fullmatch(key):
        raise misused("Name a variable: letters, digits and _, not starting with a digit.")
    return key


def _dotenv(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_./:@%+,-]*", value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("$", "\\$")
    return f'"{escaped}"'
