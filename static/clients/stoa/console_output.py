"""What a command was given, what it prints, and the server and folder that it works with."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoa import SERVED
from stoa.failures import SIGNED_OUT, Failure, misused, plain
from stoa.server_calls import Server, address_of, quoted
from stoa.sign_in import token_for
from stoa.tree_text import TreeEntry
from stoa.working_copy import WorkingCopy

if TYPE_CHECKING:
    from stoa.project_work import ProjectWork


class Console:
    """One command: its options, and where it runs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder = Path(options.folder).absolute()

    def show(self, answer: Any, lines: Iterable[str]) -> None:
        """Print the answer: JSON for programs, or these lines."""
        if self.options.json:
            print(json.dumps(answer, indent=2))
            return
        for line in lines:
            print(plain(line))

    def say(self, line: str) -> None:
        """Tell the user what goes on, beside the answer."""
        if not self.options.quiet:
            print(line, file=sys.stderr, flush=True)

    def server(self, copy: WorkingCopy | None = None, *, signed_in: bool = True) -> Server:
        """The server: that of --url, STOA_URL, the folder, or this file. Raises Failure if nobody is signed in."""
        named = self.options.url or os.environ.get("STOA_URL")
        found = named or (copy and copy.config["url"]) or SERVED["url"]
        if not found:
            raise misused("Say which server: --url https://stoa.example.org, or STOA_URL.")
        url = address_of(str(found))
        chosen = bool(named) or url == SERVED["url"]
        token = token_for(url, chosen) if signed_in else None
        if signed_in and token is None:
            raise Failure(
                f"Not signed in to {url}. Run 'login', or set STOA_TOKEN.",
                code="UNAUTHORIZED",
                exit_code=SIGNED_OUT,
            )
        return Server(url, token)

    def copy(self) -> WorkingCopy:
        """The working copy around the folder."""
        return WorkingCopy.around(self.folder)

    def workspace_path(self, copy: WorkingCopy) -> str:
        """The address of the workspace of a working copy. Raises Failure if it has none yet."""
        if not copy.config.get("workspace_id"):
            raise Failure(
                "The set-up of this folder was interrupted: run 'init' again.", code="NO_WORKING_COPY"
            )
        return f"/v1/workspaces/{quoted(copy.config['workspace_id'])}"

    def work(self, copy: WorkingCopy, *, signed_in: bool = True) -> ProjectWork:
        """The work on a working copy and its project, after what was interrupted is finished. The copy is locked."""
        from stoa.project_exchange import ProjectExchange
        from stoa.project_work import ProjectWork

        self.workspace_path(copy)
        work = ProjectWork(copy, ProjectExchange(self.server(copy, signed_in=signed_in), copy, self.say))
        self.warn_kept(work.finish())
        return work

    def warn_kept(self, paths: list[str]) -> None:
        """Say which files were not replaced."""
        for path in paths:
            self.say(f"Kept as it is, because it has changes that no snapshot has: {plain(path)}")


def change_lines(found: dict[str, str], most: int = 200) -> list[str]:
    """A line for each changed path."""
    lines = [f"  {how[0].upper()}  {path}" for path, how in list(found.items())[:most]]
    if len(found) > most:
        lines.append(f"  … and {len(found) - most:,} more")
    return lines


def files_in(tree: dict[str, TreeEntry]) -> str:
    """How many files and links a tree has."""
    return counted(sum(each.kind != "dir" for each in tree.values()), "file")


def counted(number: int, noun: str) -> str:
    """A number and its noun."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
