"""Merges made by hand, each with the right answer."""

import json

import pytest

from models.core.errors import Invalid
from models.projects.merge import (
    USE_MAIN,
    USE_WORKSPACE,
    MergeEntry,
    flat_tree,
    manifest_entries,
    plan,
    settle,
)
from models.projects.sync.sync_plan import planned_merge, sync_plan
from tests.projects.merge.corpus_keys import KEYS
from tests.projects.merge.corpus_programs import PROGRAMS
from tests.projects.merge.corpus_texts import TEXTS
from tests.projects.merge.corpus_trees import TREES
from tests.projects.merge.merge_case import BLOBS, MergeCase

CORPUS = [*TREES, *TEXTS, *PROGRAMS, *KEYS]
cases = pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name.replace(" ", "-"))


def test_the_corpus_is_large_and_every_case_has_a_name() -> None:
    assert len(CORPUS) >= 60
    assert len({case.name for case in CORPUS}) == len(CORPUS)


@cases
def test_merge_has_the_right_answer(case: MergeCase) -> None:
    merge = case.merged()
    assert {
        path: each.decision.reason for path, each in merge.paths.items() if each.decision
    } == case.decisions
    answers = dict.fromkeys(merge.decisions, USE_WORKSPACE)
    settled = settle(merge, BLOBS.tree(case.ours), answers)
    result = {path: entry for path, entry in settled.tree.items() if path not in case.decisions}
    assert BLOBS.shown(result, settled.contents) == BLOBS.shown(BLOBS.tree(case.result), {})
    assert {path: merge.paths[path].label for path in case.labels} == case.labels
    assert tuple(each.kind for each in merge.warnings) == case.warnings


@cases
def test_merge_is_the_same_with_the_sides_swapped(case: MergeCase) -> None:
    merge, swapped = case.merged(), case.merged(swapped=True)
    assert swapped.contents == merge.contents
    assert swapped.paths.keys() == merge.paths.keys()
    for path, each in merge.paths.items():
        other = swapped.paths[path]
        assert (other.result, other.label) == (each.result, each.label)
        assert (other.decision is None) == (each.decision is None)


@cases
def test_either_answer_keeps_what_that_side_has(case: MergeCase) -> None:
    """Nothing vanishes but by an answer: with all answers for a side, each path in question is as that side has it."""
    merge = case.merged()
    sides = {USE_WORKSPACE: BLOBS.tree(case.ours), USE_MAIN: BLOBS.tree(case.theirs)}
    for answer, tree in sides.items():
        settled = settle(merge, sides[USE_WORKSPACE], dict.fromkeys(merge.decisions, answer))
        for path, entry in tree.items():
            if path in case.decisions:
                found = settled.tree[path]
                assert found.hash in {entry.hash, *settled.contents}


@cases
def test_merge_with_one_side_unchanged_is_the_other(case: MergeCase) -> None:
    for side in (case.ours, case.theirs):
        unchanged = (
            MergeCase(case.name, case.base, side, case.base),
            MergeCase(case.name, case.base, case.base, side),
        )
        for each in unchanged:
            merge = each.merged()
            assert merge.decisions == {}
            assert merge.warnings == []
            assert settle(merge, BLOBS.tree(each.ours), {}).tree == BLOBS.tree(side)


@cases
def test_merge_of_a_merge_with_a_side_changes_nothing(case: MergeCase) -> None:
    """The result holds what both sides did: merged again with either, from the same base, it stays."""
    if case.decisions:
        return
    for side in (case.ours, case.theirs):
        again = MergeCase(case.name, side, case.result, side).merged()
        assert settle(again, BLOBS.tree(case.result), {}).tree == BLOBS.tree(case.result)


@cases
def test_trees_are_manifests(case: MergeCase) -> None:
    for side in (case.base, case.ours, case.theirs):
        entries = manifest_entries(BLOBS.tree(side))
        assert flat_tree(entries) == BLOBS.tree(side)
        assert entries == sorted(entries, key=lambda entry: entry.path.encode())


@cases
@pytest.mark.parametrize("swapped", [False, True])
def test_a_stored_plan_settles_as_the_merge_does(case: MergeCase, swapped: bool) -> None:
    """A sync executes what was stored as JSON: nothing is lost on the way, and the bytes of all its files are known."""
    merge, workspace = case.merged(swapped), BLOBS.tree(case.theirs if swapped else case.ours)
    rows, contents = sync_plan(merge, workspace, takes_main=False)
    stored = planned_merge(json.loads(json.dumps(rows)))
    for answer in (USE_MAIN, USE_WORKSPACE):
        answers = dict.fromkeys(merge.decisions, answer)
        settled = settle(stored, workspace, answers)
        assert settled.tree == settle(merge, workspace, answers).tree
        hashes = {entry.hash for entry in settled.tree.values() if entry.hash is not None}
        assert hashes <= BLOBS.by_hash.keys() | contents.keys()


def test_a_plan_from_hashes_alone_settles_what_no_content_decides() -> None:
    for case in TREES:
        planned = plan(BLOBS.tree(case.base), BLOBS.tree(case.ours), BLOBS.tree(case.theirs))
        merged = case.merged().paths
        assert planned.settled.keys() | planned.contests.keys() == merged.keys()
        for path, each in planned.settled.items():
            if each.decision is None and merged[path].decision is None and not merged[path].renamed_from:
                assert each.result == merged[path].result, (case.name, path)


@pytest.mark.parametrize("path", ["a\0b", "/a", "a//b", "../a", "a/./b", "a/", "", ".."])
def test_paths_that_are_none_are_refused(path: str) -> None:
    entry = MergeEntry("file", 0o644, "0" * 64, 1)
    for sides in (({path: entry}, {}), ({}, {path: entry})):
        with pytest.raises(Invalid):
            plan({}, *sides)
