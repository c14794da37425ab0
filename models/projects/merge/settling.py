"""Settles a merge: the tree that results from it and from the answers to its decisions."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from models.core.errors import Invalid
from models.projects.merge.merge_model import CUSTOM, FlatTree, MergeDecision, MergeEntry, Outcome, TreeMerge
from models.projects.merge.merge_planning import ancestors

MAX_CUSTOM_BYTES = 4 << 20
_MARKERS = (b"<<<<<<< ", b">>>>>>> ")


class DecisionsMissing(Invalid):
    """Decisions without an answer; `missing` are their paths, sorted."""

    code = "missing_decisions"

    def __init__(self, missing: list[str]) -> None:
        names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        super().__init__(f"Decide about {names} first.")
        self.missing = missing


@dataclass(frozen=True, slots=True)
class SettledTree:
    """The whole tree after a merge, and the bytes of its new files by hash."""

    tree: dict[str, MergeEntry]
    contents: dict[str, bytes]


def settle(
    merge: TreeMerge, workspace: FlatTree, answers: Mapping[str, str], custom: Mapping[str, str] | None = None
) -> SettledTree:
    """The tree after the merge. `answers` has an option for the path of each decision, `custom` the texts of those answered so.

    Raises DecisionsMissing; Invalid for an unknown path or option, a custom text that still has conflict markers, and answers
    that exclude each other."""
    decisions = merge.decisions
    _check_answers(decisions, answers)
    tree, contents = dict(workspace), dict(merge.contents)
    outcome: Outcome = {each.path: each.result for each in merge.paths.values() if each.decision is None}
    for path, decision in decisions.items():
        if answers[path] == CUSTOM:
            outcome.update(_custom(decision, (custom or {}).get(path), contents))
        else:
            outcome.update(decision.options[answers[path]])
    for path, entry in outcome.items():
        if entry is None:
            tree.pop(path, None)
        else:
            tree[path] = entry
    _check_directories(tree, outcome)
    used = {entry.hash for entry in outcome.values() if entry is not None}
    return SettledTree(tree, {digest: data for digest, data in contents.items() if digest in used})


def _check_answers(decisions: Mapping[str, MergeDecision], answers: Mapping[str, str]) -> None:
    missing = sorted(decisions.keys() - answers.keys())
    if missing:
        raise DecisionsMissing(missing)
    for path, answer in answers.items():
        decision = decisions.get(path)
        if decision is None:
            raise Invalid(f"There is nothing to decide about {path[:200]}.", code="decision_unknown")
        options = [*decision.options, *([CUSTOM] if decision.custom_mode is not None else [])]
        if answer not in options:
            raise Invalid(
                f"{str(answer)[:50]!r} is no option for {path}. The options are {', '.join(options)}.",
                code="option_unknown",
            )


def _custom(decision: MergeDecision, text: str | None, contents: dict[str, bytes]) -> Outcome:
    if text is None:
        raise Invalid(f"Give the text for {decision.path}.", code="custom_text_missing")
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise Invalid(
            f"The text for {decision.path} is not valid Unicode.", code="custom_text_invalid"
        ) from None
    if len(data) > MAX_CUSTOM_BYTES:
        raise Invalid(
            f"The text for {decision.path} is longer than {MAX_CUSTOM_BYTES:,} bytes.",
            code="custom_text_invalid",
        )
    starts = {line[:8] for line in data.splitlines()}
    if all(marker in starts for marker in _MARKERS):
        raise Invalid(
            f"The text for {decision.path} still has conflict markers. Remove them.",
            code="custom_text_invalid",
        )
    digest = hashlib.sha256(data).hexdigest()
    contents[digest] = data
    entry = MergeEntry("file", decision.custom_mode, digest, len(data))
    return {**dict.fromkeys(decision.paths), decision.path: entry}


def _check_directories(tree: Mapping[str, MergeEntry], outcome: Outcome) -> None:
    """Two answers may put a file and a directory at one path."""
    for path, entry in outcome.items():
        for above in ancestors(path) if entry is not None else ():
            standing = tree.get(above)
            if standing is not None and standing.kind != "dir":
                raise Invalid(
                    f"{above} would be a file and a directory. Decide otherwise.", code="path_clash"
                )
