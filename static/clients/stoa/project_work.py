"""Work in a working copy: take snapshots, send them, fetch what others did, and merge both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, NamedTuple

from stoa.failures import Failure
from stoa.file_scan import Scanned, read_file
from stoa.project_exchange import ProjectExchange, RemoteWorkspace, computed_id, second_text
from stoa.tree_text import TreeEntry, changes, described, read_tree, sha, tree_text
from stoa.tree_writer import TreeWriter
from stoa.working_copy import WorkingCopy

MOST_TEXT = 25 << 20
"""Bytes of a list of files that the server stores."""
MOST_CHANGED = 5_000
"""Changes that are sent instead of the whole list of files."""
CHANGING = 3
"""Times that a folder is read again because files change meanwhile."""


class _Changed(Exception):
    """A file changed since it was hashed."""


class Reconciled(NamedTuple):
    """What it took to agree with the server: `nothing`, `sent`, `fetched` or `merged`, or `moved` if it has to be tried again."""

    how: str
    changed: dict[str, str]
    kept: list[str]


class ProjectWork:
    """A working copy and its project."""

    def __init__(self, copy: WorkingCopy, exchange: ProjectExchange) -> None:
        self.copy, self.exchange = copy, exchange
        self.left_out: list[str] = []

    def head_tree(self) -> dict[str, TreeEntry]:
        """The tree of the last snapshot here."""
        return self.copy.tree_of(self.copy.state["head"])

    def unsaved(self) -> dict[str, str]:
        """What changed since the last snapshot."""
        if self._unchanged():
            return {}
        head = self.head_tree()
        return changes(head, self._scan(head).tree)

    def snapshot(self, message: str | None, agent: str | None = None) -> dict[str, Any] | None:
        """Store the folder as a snapshot on this computer; None if nothing changed. Raises Failure."""
        if self._unchanged():
            return None
        head = self.head_tree()
        for _ in range(CHANGING):
            scanned = self._scan(head)
            if not changes(head, scanned.tree):
                return None
            new = self._keep_files(scanned.tree, head)
            if new is not None:
                parents = [self.copy.state["head"]] if self.copy.state["head"] else []
                text = tree_text(scanned.tree.values())
                if len(text) > MOST_TEXT:
                    # one that the server refuses would block all that come after it
                    raise Failure(
                        "The list of files is larger than the server stores. Name folders of generated files in .stoaignore.",
                        code="MANIFEST_TOO_LARGE",
                    )
                delta = self._delta(head, scanned.tree)
                record = self._record(text, parents, message, agent, new=new, delta=delta)
                self.copy.remember(scanned)
                return record
        raise Failure("Files change while they are read. Try again when they are at rest.", code="CHANGING")

    def reconcile(self, prefer: str | None = None, workspace: RemoteWorkspace | None = None) -> Reconciled:
        """Send what is new here, or fetch what is new there. If both moved, merge file by file; a file that both changed is a conflict,
        unless `prefer` says whose is taken: `mine` or `theirs`. `workspace` is its state, if it was read just now. The folder must have no unsaved changes. Raises Failure."""
        copy, workspace = self.copy, workspace or self.exchange.workspace()
        head = copy.state["head"]
        if workspace.snapshot == head and workspace.manifest in (
            self._manifest_of(head),
            copy.state["remote"][1],
        ):
            self._agree(workspace)
            return Reconciled("nothing", {}, [])
        if workspace.place == copy.state["remote"]:
            sent = self.exchange.send(head, workspace)
            return Reconciled("sent" if sent else "moved", {}, [])
        if head == copy.state["remote"][0]:
            return self._write("fetched", workspace.manifest, workspace.snapshot, workspace.place)
        return self._merge(workspace, prefer)

    def finish(self) -> list[str]:
        """Go on with a change of the folder that was interrupted. Returns the paths that were kept as they are."""
        pending = self.copy.state.get("pending")
        if not pending:
            return []
        before, after = (self.exchange.tree(pending[each]) for each in ("before", "after"))
        new = [each for path, each in after.items() if not each.same(before.get(path))]
        self.exchange.fetch(each.hash for each in new if each.kind == "file")
        writer = TreeWriter(self.copy.root, self.copy.objects.get)
        writer.write(before, after)
        self.copy.save(head=pending["head"], remote=pending["remote"], pending=None)
        self.copy.tidy()
        return writer.kept

    def check_out(self, workspace: RemoteWorkspace) -> Reconciled:
        """Write the files of a workspace into a new working copy."""
        return self._write("fetched", workspace.manifest, workspace.snapshot, workspace.place)

    def _write(
        self, how: str, manifest: str | None, head: str | None, remote: list[str | None]
    ) -> Reconciled:
        if manifest is None:
            # before the first snapshot: its files are in none now, so they stay
            self.copy.save(head=head, remote=remote)
            return Reconciled(how, {}, [])
        if head:
            self.exchange.tree(self.exchange.record(head)["manifest_hash"])
        # not what lies in the folder now: what came since the snapshot is in none, and is kept
        before = self._manifest_of(self.copy.state["head"])
        changed = changes(self.exchange.tree(before), self.exchange.tree(manifest))
        self.copy.save(pending={"before": before, "after": manifest, "head": head, "remote": remote})
        return Reconciled(how, changed, self.finish())

    def _merge(self, workspace: RemoteWorkspace, prefer: str | None) -> Reconciled:
        base = self.exchange.tree(self.copy.state["remote"][1])
        mine, theirs = self.head_tree(), self.exchange.tree(workspace.manifest)
        merged, conflicts = merged_trees(base, mine, theirs, prefer)
        if conflicts:
            raise Failure(
                "Both you and the server changed these files: "
                + ", ".join(conflicts[:20])
                + ". Choose with --prefer mine or theirs.",
                code="MERGE_CONFLICT",
                details={"conflicts": conflicts},
            )
        text = tree_text(merged.values())
        read_tree(text)  # a file of one side may be a folder of the other
        parents = [each for each in (workspace.snapshot, self.copy.state["head"]) if each]
        record = self._record(text, parents, "Merge of two states of the workspace", None, move=False)
        done = self._write("merged", record["manifest_hash"], record["id"], workspace.place)
        sent = self.exchange.send(record["id"], workspace)
        return done if sent else done._replace(how="moved")

    def _agree(self, workspace: RemoteWorkspace) -> None:
        for record in self.copy.unsent(workspace.snapshot):
            self.copy.keep_snapshot({**record, "sent": True})
        if self.copy.state["remote"] != workspace.place:
            self.copy.save(remote=workspace.place)
            self.copy.tidy()

    def _unchanged(self) -> bool:
        left_out = self.copy.left_out_if_same()
        if left_out is None:
            return False
        self.left_out = left_out
        return True

    def _scan(self, head: dict[str, TreeEntry]) -> Scanned:
        scanned = self.copy.scan(head)
        self.left_out = scanned.left_out
        return scanned

    def _manifest_of(self, id: str | None) -> str | None:
        record = self.copy.snapshot(id) if id else None
        return record["manifest_hash"] if record else None

    def _keep_files(
        self, tree: dict[str, TreeEntry], head: dict[str, TreeEntry]
    ) -> dict[str, list[Any]] | None:
        """Keep the bytes that the head does not have: their paths and sizes, by hash. None if a file changed since it was hashed."""
        known = {each.hash for each in head.values()}
        new: dict[str, list[Any]] = {
            each.hash: [path, each.size]
            for path, each in tree.items()
            if each.kind == "file" and each.hash not in known
        }
        try:
            if absent := {hash: path for hash, (path, _) in new.items() if hash not in self.copy.objects}:
                self.copy.objects.add(self._read(absent))
        except _Changed:
            return None
        return new

    def _read(self, new: dict[str, str]) -> Iterator[tuple[str, bytes]]:
        """The bytes of these files, by hash. Raises _Changed."""
        for hash, path in new.items():
            try:
                data = read_file(self.copy.root / path)
            except Failure:
                raise _Changed from None
            if sha(data) != hash:
                raise _Changed
            yield hash, data

    def _delta(self, head: dict[str, TreeEntry], tree: dict[str, TreeEntry]) -> dict[str, Any] | None:
        """What the server needs to make this list of files of the head's; None if that is more than half of it."""
        base = self._manifest_of(self.copy.state["head"])
        changed = [each for path, each in tree.items() if each != head.get(path)]
        deleted = [path for path in head if path not in tree]
        if base is None or len(changed) + len(deleted) > min(len(tree) // 2, MOST_CHANGED):
            return None
        return {"base": base, "files": [described(each) for each in changed], "deleted": deleted}

    def _record(
        self,
        text: bytes,
        parents: list[str],
        message: str | None,
        agent: str | None,
        move: bool = True,
        new: dict[str, list[Any]] | None = None,
        delta: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        manifest = self.copy.keep_manifest(text)
        name, email = self.copy.config.get("author") or ("", "")
        moment = second_text(datetime.now(timezone.utc))
        record = {
            "id": computed_id(manifest, parents, name, email, moment),
            "manifest_hash": manifest,
            "parents": parents,
            "message": message,
            "agent": agent,
            "run_id": os.environ.get("STOA_RUN_ID"),
            "author_name": name,
            "author_email": email,
            "created_at": moment,
            "sent": False,
            "new": new,
            "delta": delta,
        }
        self.copy.keep_snapshot(record)
        if move:
            self.copy.save(head=record["id"])
        return record


def merged_trees(
    base: dict[str, TreeEntry],
    mine: dict[str, TreeEntry],
    theirs: dict[str, TreeEntry],
    prefer: str | None,
) -> tuple[dict[str, TreeEntry], list[str]]:
    """The tree with the changes of both sides, and the paths that both changed to something else."""
    merged: dict[str, TreeEntry] = {}
    conflicts = []
    for path in sorted({*base, *mine, *theirs}):
        old, ours, others = base.get(path), mine.get(path), theirs.get(path)
        if _same(ours, others) or _same(old, others):
            chosen = ours
        elif _same(old, ours):
            chosen = others
        elif prefer is None:
            conflicts.append(path)
            continue
        else:
            chosen = ours if prefer == "mine" else others
        if chosen is not None:
            merged[path] = chosen
    return merged, conflicts


def _same(one: TreeEntry | None, other: TreeEntry | None) -> bool:
    return one is other if one is None else one.same(other)
