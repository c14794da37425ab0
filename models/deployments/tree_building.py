"""Builds a tree in a sandbox: the commands that install and build it, and why they failed in one sentence."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from models.core.settings import Settings
from models.deployments.deployment_adapter import DeploymentFailed
from models.deployments.log_writer import LogWriter
from models.runners import CommandResult, Limits, Workplace, detect_checks
from models.runners.check_running import CHECK_ENV
from models.runners.sandbox_command import PATH, WORK

OWN_PROGRAMS = f"{WORK}/.venv/bin:{WORK}/node_modules/.bin:{PATH}"
"""The programs that a tree has installed for itself come first."""
SHOWN_END = 100
"""Lines of the end of a long output that are shown in any case."""
_OUT_OF_MEMORY = re.compile(
    r"MemoryError|heap out of memory|[Oo]ut of memory|Cannot allocate memory|std::bad_alloc|ENOMEM"
)


class BuildWishes(NamedTuple):
    """What the settings said when it was deployed. Commands that are None are found in the files. `hosts` may be reached."""

    install: str | None
    build: str | None
    hosts: Sequence[str]


def build_limits(settings: Settings) -> Limits:
    """What a build may use."""
    return Limits(
        wall_seconds=settings.stoa_build_seconds,
        cpu_seconds=int(settings.stoa_build_seconds * 2) + 1,
        memory_bytes=settings.stoa_build_memory_bytes,
        processes=256,
        disk_bytes=settings.stoa_build_disk_bytes,
        output_bytes=2 << 20,
    )


def build_tree(
    place: Workplace, wishes: BuildWishes, limits: Limits, env: Mapping[str, str], log: LogWriter
) -> None:
    """Install and build what is in a workplace; the log follows. Commits what it logs. Raises DeploymentFailed with the reason."""
    commands = _commands(place, wishes)
    if not commands:
        log.line("build", "Nothing is installed or built: no command was found or set.")
    for step, command, note in commands:
        log.line(step, f"$ {command}")
        log.flush()
        done = place.run(
            command,
            seconds=limits.wall_seconds,
            env={**CHECK_ENV, **env, "PATH": OWN_PROGRAMS},
            on_output=partial(log.output, step),
        )
        log.end(step)
        if done.cut:
            log.output(step, "\n".join(done.output.splitlines()[-SHOWN_END:]) + "\n")
        problem = command_problem(done, limits)
        log.line(step, problem or f"Done after {done.seconds:.1f} s.")
        log.flush()
        if problem:
            advice = f" {note}" if note and done.ended == "exit" and not wishes.hosts else ""
            raise DeploymentFailed(f"`{command[:200]}` {problem}{advice}")


def command_problem(done: CommandResult, limits: Limits) -> str:
    """Why a command failed, as the end of a sentence that begins with it; empty if it did not."""
    memory = f"it may use {limits.memory_bytes / 1e6:,.0f} MB."
    match done.ended:
        case "exit" if done.exit_code == 0:
            return ""
        case "exit" if done.exit_code == 137 or _OUT_OF_MEMORY.search(done.output[-4_000:]):
            return f"ran out of memory: {memory}"
        case "exit":
            return f"ended with code {done.exit_code}."
        case "memory":
            return f"used more memory or processes than it may: {memory}"
        case "timeout":
            return f"took too long: it may take {limits.wall_seconds:,.0f} seconds."
        case "disk":
            return f"wrote more files than it may: {limits.disk_bytes / 1e6:,.0f} MB in all."
        case "output":
            return "wrote more output than it may."
    return "was ended with its sandbox."


def _commands(place: Workplace, wishes: BuildWishes) -> list[tuple[str, str, str]]:
    """Step, command, and what it needs that it may not have."""
    found = detect_checks(place)
    commands: list[tuple[str, str, str]] = []
    for step, wish in (("install", wishes.install), ("build", wishes.build)):
        if wish is not None:
            commands.append((step, wish, ""))
        else:
            commands += [(step, each.command, each.note) for each in found if each.kind == step]
    return commands
