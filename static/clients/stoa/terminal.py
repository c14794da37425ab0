"""The command line of the client: its commands and options, its exit codes, and errors without tracebacks."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, Callable

from stoa import SERVED
from stoa.console_output import Console
from stoa.failures import CANCELLED, FAILED, Failure, plain

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

NAME = "stoa.pyz"
EPILOG = """Environment
  STOA_URL, STOA_TOKEN   Address of the server, and a key with projects:read and projects:write.
                         Without STOA_TOKEN, the token that "login" stored is used.
  STOA_RUNNER_TOKEN      The key of a runner, for "runner"; without it, the signed-in user makes one.
  STOA_RUN_ID            The agent's run that works here: snapshots name it, and have its cost.

Files that belong to no snapshot are named in .stoaignore, one pattern a line. The last that matches decides, "!" includes again.

Exit codes
  0 done   1 failed, conflicts, or differences (drift)   2 wrong usage   3 not signed in   4 out of credits
  5 server not reachable   130 cancelled
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command. Returns its exit code."""
    options = parser(arguments[0] if arguments else None).parse_args(arguments)
    console = Console(options)
    try:
        code: int = options.command(console)
        sys.stdout.flush()
        return code
    except Failure as error:
        return _fail(options.json, error)
    except KeyboardInterrupt:
        return _fail(options.json, Failure("Cancelled.", code="CANCELLED", exit_code=CANCELLED))
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(options.json, Failure(f"{where}{error.strerror or error}", code="FILE_ERROR"))


def parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """All commands and options, or those of one command, which is quicker."""
    whole = argparse.ArgumentParser(
        prog=NAME,
        description="Snapshots of code, shared with people and agents.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    whole.add_argument("--version", action="version", version=f"{NAME} {SERVED['version'] or 'unknown'}")
    commands = whole.add_subparsers(metavar="command", required=True)
    for name in [wanted] if wanted in COMMANDS else COMMANDS:
        COMMANDS[name](commands)
    return whole


def _login(commands: Subparsers) -> None:
    from stoa import shared_commands

    _command(commands, "login", shared_commands.login, "Sign in with your browser")


def _logout(commands: Subparsers) -> None:
    from stoa import shared_commands

    _command(commands, "logout", shared_commands.logout, "Forget the stored token")


def _init(commands: Subparsers) -> None:
    from stoa import folder_commands

    init = _command(
        commands, "init", folder_commands.init, "Make this folder a project, with a first snapshot"
    )
    init.add_argument("--name", help="name of the project; default: that of the folder")
    init.add_argument("--org", metavar="ID", help="organisation that owns it, by id or slug")
    init.add_argument("--workspace", metavar="NAME", help="name of the workspace; default: main")
    init.add_argument("-m", "--message", help="what the first snapshot is")


def _clone(commands: Subparsers) -> None:
    from stoa import folder_commands

    clone = _command(commands, "clone", folder_commands.clone, "Write a project into a new folder")
    clone.add_argument("project", help="id of a project or snapshot, or name of a project")
    clone.add_argument("directory", nargs="?", help="the new folder; default: named like the project")
    clone.add_argument("--org", metavar="ID", help="organisation whose projects are searched by name")
    clone.add_argument(
        "--workspace", metavar="NAME", help="name of the new workspace; default: this computer's"
    )
    clone.add_argument("--workspace-id", metavar="ID", help="use this workspace instead of a new one")


def _status(commands: Subparsers) -> None:
    from stoa import folder_commands

    status = _command(commands, "status", folder_commands.status, "Show what changed since the last snapshot")
    status.add_argument("--offline", action="store_true", help="do not ask the server")


def _snapshot(commands: Subparsers) -> None:
    from stoa import folder_commands

    snapshot = _command(
        commands, "snapshot", folder_commands.snapshot, "Store the folder as a snapshot, and send it"
    )
    snapshot.add_argument("-m", "--message", help="what it is")
    snapshot.add_argument("--agent", help="the coding agent that made the changes")
    snapshot.add_argument(
        "--offline", action="store_true", help="only store it here; the next one sends both"
    )


def _log(commands: Subparsers) -> None:
    from stoa import folder_commands

    log = _command(commands, "log", folder_commands.log, "List snapshots")
    log.add_argument("--operations", action="store_true", help="list the moves of the workspace instead")
    log.add_argument("--limit", type=int, default=20, help="how many, 1 to 100; default: 20")


def _watch(commands: Subparsers) -> None:
    from stoa import folder_commands

    watch = _command(commands, "watch", folder_commands.watch, "Take and send snapshots while you work")
    watch.add_argument("--interval", type=float, default=5, help="seconds between looks; default: 5")
    watch.add_argument("--rounds", type=int, help="end after so many looks")
    watch.add_argument("-m", "--message", help="what the snapshots are")
    watch.add_argument("--agent", help="the coding agent that makes the changes")


def _undo(commands: Subparsers) -> None:
    from stoa import shared_commands

    undo = _command(commands, "undo", shared_commands.undo, "Undo an operation, by default the last")
    undo.add_argument("operation", nargs="?", help="its id, as 'log --operations' lists it")
    undo.add_argument("--conflicts", choices=("keep", "undo"), help="for files that changed since")
    _decide(undo, "keep or undo")
    undo.add_argument("-n", "--dry-run", action="store_true", help="only show what it would do")


def _sync(commands: Subparsers) -> None:
    from stoa import shared_commands

    sync = _command(
        commands, "sync", shared_commands.sync, "Send, fetch, and merge the main workspace into this one"
    )
    sync.add_argument("--take", choices=("main", "mine"), help="whose file to take if both sides changed it")
    _decide(sync, "main, mine or @FILE with its text")
    sync.add_argument("-m", "--message", help="what the snapshot before it is")
    sync.add_argument("-n", "--dry-run", action="store_true", help="only show what the merge would do")


def _drift(commands: Subparsers) -> None:
    from stoa import shared_commands

    drift = _command(commands, "drift", shared_commands.drift, "Compare with the main workspace")
    drift.add_argument("--source", metavar="ID", help="compare with this workspace instead")
    drift.add_argument("--dirty", action="store_true", help="with files that no snapshot has on the server")


def _env(commands: Subparsers) -> None:
    from stoa import shared_commands

    env = _command(commands, "env", shared_commands.env, "Variables of the project")
    env.add_argument("action", choices=("list", "set", "unset", "pull"))
    env.add_argument(
        "variable", nargs="?", help="set: KEY=VALUE, or KEY with the value on standard input; unset: KEY"
    )
    env.add_argument("--secret", action="store_true", help="set: show only its last characters")
    env.add_argument("--here", action="store_true", help="set, unset: the value of this workspace only")
    env.add_argument("--file", help="pull: write this file, which only you can read")
    env.add_argument("--force", action="store_true", help="pull: replace the file")


def _runner(commands: Subparsers) -> None:
    from stoa import runner_command

    runner = _command(commands, "runner", runner_command.serve, "Run work of your account on this computer")
    runner.add_argument("--name", help="its name among your runners; default: that of this computer")
    runner.add_argument(
        "--label", action="append", default=[], metavar="WORD", help="work may ask for runners with some"
    )
    runner.add_argument("--once", action="store_true", help="end after one work")
    runner.add_argument("--parallel", type=int, default=1, metavar="N", help="works at once; default: 1")
    runner.add_argument(
        "--cache-mb",
        type=int,
        default=1024,
        metavar="MB",
        help="files to keep for the next trees; default: 1024",
    )
    runner.add_argument(
        "--no-sandbox", action="store_true", help="run commands as yourself, with all that you may do"
    )
    runner.add_argument("--network", action="store_true", help="let commands in the sandbox use the network")
    runner.add_argument(
        "--see",
        action="append",
        default=[],
        metavar="DIR",
        help="let commands in the sandbox read this folder too",
    )
    runner.add_argument(
        "--work-folder", metavar="DIR", help="where trees are restored; default: in your cache"
    )


COMMANDS: dict[str, Callable[[Subparsers], None]] = {
    "login": _login,
    "logout": _logout,
    "init": _init,
    "clone": _clone,
    "status": _status,
    "snapshot": _snapshot,
    "log": _log,
    "watch": _watch,
    "undo": _undo,
    "sync": _sync,
    "drift": _drift,
    "env": _env,
    "runner": _runner,
}


def _decide(command: argparse.ArgumentParser, choices: str) -> None:
    command.add_argument(
        "--decide", action="append", default=[], metavar="PATH=CHOICE", help=f"for one file: {choices}"
    )
    command.add_argument(
        "--prefer", choices=("mine", "theirs"), help="if the workspace itself moved on the server too"
    )


def _command(
    commands: Subparsers,
    name: str,
    action: Callable[[Console], int],
    help: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=action.__doc__, allow_abbrev=False)
    command.set_defaults(command=action)
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.add_argument("--quiet", action="store_true", help="print the answer and errors only")
    command.add_argument("--url", help="address of the server")
    command.add_argument(
        "-C", "--folder", default=".", metavar="DIR", help="the folder; default: the current one"
    )
    return command


def _fail(as_json: bool, error: Failure) -> int:
    if as_json:
        print(
            json.dumps(
                {"error": {"code": error.code, "message": str(error), "details": error.details}}, indent=2
            )
        )
    else:
        print("\n".join(plain(line) for line in str(error).splitlines()), file=sys.stderr)
    return error.exit_code
