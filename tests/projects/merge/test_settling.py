"""Answers to decisions: which are taken, and what stands afterwards."""

import pytest

from models.core.errors import Invalid
from models.projects.merge import (
    CUSTOM,
    USE_MAIN,
    USE_WORKSPACE,
    DecisionsMissing,
    MergeEntry,
    TreeMerge,
    settle,
)
from tests.projects.merge.merge_case import BLOBS, Files, MergeCase, executable


def merged(base: Files, ours: Files, theirs: Files) -> tuple[TreeMerge, dict[str, MergeEntry]]:
    return MergeCase("", base, ours, theirs).merged(), BLOBS.tree(ours)


def test_answers_choose_a_side_or_a_text() -> None:
    merge, ours = merged({"a": "1\n"}, {"a": "2\n", "b": "same\n"}, {"a": "3\n"})
    texts = {USE_WORKSPACE: b"2\n", USE_MAIN: b"3\n", CUSTOM: b"4\n"}
    for answer, text in texts.items():
        settled = settle(merge, ours, {"a": answer}, {"a": "4\n"})
        assert BLOBS.shown(settled.tree, settled.contents) == {"a": text, "b": b"same\n"}


def test_missing_answers_are_all_named() -> None:
    merge, ours = merged({}, {"a": "2\n", "b": "2\n", "c": "2\n"}, {"a": "3\n", "b": "3\n", "c": "3\n"})
    with pytest.raises(DecisionsMissing) as raised:
        settle(merge, ours, {"b": USE_MAIN})
    assert raised.value.missing == ["a", "c"]
    assert "a, c" in raised.value.message


@pytest.mark.parametrize(
    ("answers", "texts", "word"),
    [
        ({"a": "use_both"}, {}, "no option"),
        ({"a": ""}, {}, "no option"),
        ({"a": USE_MAIN, "zz": USE_MAIN}, {}, "nothing to decide"),
        ({"a": CUSTOM}, {}, "Give the text"),
        ({"a": CUSTOM}, {"a": "\ud800"}, "Unicode"),
        ({"a": CUSTOM}, {"a": "<<<<<<< ours\n1\n=======\n2\n>>>>>>> theirs\n"}, "conflict markers"),
        ({"a": CUSTOM}, {"a": "x" * ((4 << 20) + 1)}, "longer"),
    ],
)
def test_wrong_answers_are_refused(answers: dict[str, str], texts: dict[str, str], word: str) -> None:
    merge, ours = merged({"a": "1\n"}, {"a": "2\n"}, {"a": "3\n"})
    with pytest.raises(Invalid, match=word):
        settle(merge, ours, answers, texts)


def test_binary_files_links_and_modes_take_no_text() -> None:
    for base, ours, theirs in (
        ({"a": b"\0"}, {"a": b"\0\1"}, {"a": b"\0\2"}),
        ({"a": "1\n"}, {"a": executable("1\n")}, {"a": BLOBS.file("1\n", 0o600)}),
    ):
        merge, tree = merged(base, ours, theirs)
        with pytest.raises(Invalid, match="no option"):
            settle(merge, tree, {"a": CUSTOM}, {"a": "text"})


def test_a_text_has_the_mode_of_the_side_that_changed_it() -> None:
    merge, ours = merged({"a": "1\n"}, {"a": "2\n"}, {"a": executable("3\n")})
    assert settle(merge, ours, {"a": CUSTOM}, {"a": "4\n"}).tree["a"].mode == 0o755


def test_the_draft_of_a_text_shows_both_sides() -> None:
    merge, _ = merged({"a": "1\n"}, {"a": "2\n"}, {"a": "3\n"})
    draft = merge.decisions["a"].draft or b""
    assert b"<<<<<<<" in draft
    assert b"2\n" in draft
    assert b"3\n" in draft


def test_one_answer_settles_all_paths_of_a_clash() -> None:
    merge, ours = merged({}, {"a": "1\n"}, {"a/b": "2\n", "a/c": "3\n"})
    assert list(merge.decisions) == ["a"]
    assert set(settle(merge, ours, {"a": USE_WORKSPACE}).tree) == {"a"}
    assert set(settle(merge, ours, {"a": USE_MAIN}).tree) == {"a/b", "a/c"}


def test_a_text_for_names_that_differ_in_case_stands_at_one() -> None:
    merge, ours = merged({}, {"Read.me": "1\n"}, {"READ.me": "2\n"})
    assert set(settle(merge, ours, {"READ.me": CUSTOM}, {"READ.me": "3\n"}).tree) == {"READ.me"}
