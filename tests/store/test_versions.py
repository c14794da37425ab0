"""Property tests of version numbers, reference resolution and diffs."""

import difflib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.store.catalogue import version_diff
from models.store.catalogue.version_diff import compare, lines
from models.store.publishing import spawning, versions
from models.store.publishing.spawning import FullReference, UnknownAgent
from models.store.publishing.versions import NONE, PART_MAX, BadVersion, VersionNumber

PART = st.integers(0, PART_MAX)
VERSION = st.builds(VersionNumber, PART, PART, PART)


@given(VERSION, VERSION)
def test_a_version_must_be_greater(latest: VersionNumber, asked: VersionNumber) -> None:
    if asked > latest:
        assert versions.next_version(latest, str(asked)) == str(asked)
    else:
        with pytest.raises(BadVersion) as caught:
            versions.next_version(latest, str(asked))
        assert str(caught.value) == (
            f"Provided version {asked} must be greater than the latest version ({latest})"
        )


@given(VERSION)
def test_the_next_patch_follows(latest: VersionNumber) -> None:
    if latest.patch == PART_MAX:
        with pytest.raises(BadVersion):
            versions.next_version(latest, None)
    else:
        after = versions.parse(versions.next_version(latest, None))
        assert after > latest
        assert after == (latest.major, latest.minor, latest.patch + 1)


@given(VERSION)
def test_versions_are_read_as_they_are_written(version: VersionNumber) -> None:
    assert versions.parse(str(version)) == version


@given(st.text(alphabet="0123456789.v-+ \n٣²", max_size=20) | st.text(max_size=20))
def test_nothing_else_is_a_version(text: str) -> None:
    parts = text.split(".")
    right = len(parts) == 3 and all(part.isascii() and part.isdigit() for part in parts)
    if right and all(len(part) <= 10 and int(part) <= PART_MAX for part in parts):
        assert versions.parse(text) == tuple(int(part) for part in parts)
    else:
        with pytest.raises(BadVersion, match="Invalid version format: "):
            versions.parse(text)


def test_the_first_is_the_first_patch() -> None:
    assert versions.next_version(NONE, None) == "0.0.1"
    with pytest.raises(BadVersion, match="greater than the latest version"):
        versions.next_version(NONE, "0.0.0")
    with pytest.raises(BadVersion):
        versions.parse("9" * 10_000 + ".0.0")


# -- references ----------------------------------------------------------------------------------------------

NAME = st.sampled_from(["a", "b", "c"])
PUBLISHER = st.sampled_from(["acme", "other"])
NUMBER = st.sampled_from(["1.0.0", "2.0.0"])
PLACES = st.builds(FullReference, PUBLISHER, NAME, NUMBER)


@given(
    st.dictionaries(NAME, NUMBER),
    st.sets(PLACES),
    st.dictionaries(st.tuples(PUBLISHER, NAME), NUMBER),
    st.one_of(
        NAME, st.builds("{}/{}".format, PUBLISHER, NAME), PLACES.map(str), st.text("a/@.1", max_size=6)
    ),
)
def test_a_reference_resolves_to_an_existing_version(
    publishing: dict[str, str],
    there: set[FullReference],
    latest: dict[tuple[str, str], str],
    reference: str,
) -> None:
    try:
        full = spawning.resolve(reference, "acme", publishing, there, latest)
    except UnknownAgent:
        exact = spawning.parse(reference)
        if exact:
            assert exact.publisher == "acme"
            assert exact not in there
            assert publishing.get(exact.agent) != exact.version
        return
    place = spawning.parse(full)
    assert place is not None
    assert spawning.is_version_of(full, reference, "acme")
    own = place.publisher == "acme"
    if spawning.parse(reference):
        assert full == reference
        assert not own or place in there or publishing[place.agent] == place.version
    elif own and place.agent in publishing:
        assert place.version == publishing[place.agent]
    else:
        assert place.version == latest[place.publisher, place.agent]
    assert spawning.resolve(full, "acme", publishing, there | {place}, latest) == full


# -- diffs ---------------------------------------------------------------------------------------------------

TEXTS = st.lists(st.sampled_from(["one", "two", "", "three"]), max_size=12).map("\n".join)


@given(TEXTS, TEXTS)
def test_a_diff_transforms_one_text_into_the_other(before: str, after: str) -> None:
    told = list(lines(before, after))
    old, new = before.splitlines(), after.splitlines()
    for line in told:
        assert line.before is None or old[line.before - 1] == line.text
        assert line.after is None or new[line.after - 1] == line.text
    gone = {line.before for line in told if line.kind == "gone"}
    come = {line.after for line in told if line.kind == "come"}
    assert [text for at, text in enumerate(old, 1) if at not in gone] == [
        text for at, text in enumerate(new, 1) if at not in come
    ]
    assert bool(gone or come) == (old != new)


def test_changes_by_field() -> None:
    before = {"id": "a", "version": "1", "systemPrompt": "One.\nTwo.", "toolNames": ["x", "y"], "tags": ["t"]}
    after = {
        "id": "a",
        "version": "2",
        "systemPrompt": "One.\nThree.",
        "toolNames": ["y", "z"],
        "tags": ["t"],
        "reasoningOptions": {"effort": "low"},
    }
    found = compare(before, after)
    assert [each.name for each in found] == ["systemPrompt", "toolNames", "reasoningOptions"]
    assert [(line.kind, line.text) for line in found[0].lines] == [
        ("same", "One."),
        ("gone", "Two."),
        ("come", "Three."),
    ]
    assert (found[1].removed, found[1].added) == (["x"], ["z"])
    assert [line.text for line in found[2].lines] == ["{", '  "effort": "low"', "}"]
    assert compare(before, {**before, "version": "3"}) == []


def test_unchanged_lines_are_left_out() -> None:
    text = "\n".join(str(n) for n in range(100))
    told = list(lines(text, text.replace("50", "fifty")))
    assert [line.kind for line in told] == ["skip", *["same"] * 3, "gone", "come", *["same"] * 3, "skip"]
    requested = [
        each[1:] for each in difflib.unified_diff(text.split("\n"), text.replace("50", "fifty").split("\n"))
    ]
    assert [line.text for line in told if line.kind != "skip"] == requested[3:]


@given(st.text("ab\n"), st.text("ab\n"))
def test_diffs_are_minimal(before: str, after: str) -> None:
    """The diff keeps as many lines as a longest common subsequence."""
    old, new = before.splitlines(), after.splitlines()
    best = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i, first in enumerate(old):
        for j, second in enumerate(new):
            best[i + 1][j + 1] = best[i][j] + 1 if first == second else max(best[i][j + 1], best[i + 1][j])
    gone = sum(line.kind == "gone" for line in lines(before, after))
    assert len(old) - gone == best[len(old)][len(new)]


def _numbered(count: int, *mods: int) -> str:
    return "\n".join("-".join(str(n * n % mod) for mod in mods) for n in range(count))


MANY = 100_000
NASTY = {
    "nothing in common": (
        "\n".join(f"a{n % 7}" for n in range(MANY)),
        "\n".join(f"b{n % 5}" for n in range(MANY)),
    ),
    "few different lines": (_numbered(MANY, 7), _numbered(MANY, 11)),
    "each forty times": (_numbered(MANY, 2_503), _numbered(MANY, 2_477)),
    "turned round": (_numbered(MANY, 99_991), "\n".join(reversed(_numbered(MANY, 99_991).split("\n")))),
    "empty lines": ("\n" * 900_000, "a" + "\n" * 900_000 + "b"),
    "one line many times": ("a\nx\n" + "x\n" * MANY + "b\na", "b\nx\n" + "x\n" * MANY + "a\nb"),
    "twice as many": ("x\ny\n" * MANY, "y\nx\nx\n" * MANY),
    "one long line": ("a" * 900_000, "b" * 900_000),
    "two by turns": ("a\nb\n" * MANY, "b\nb\na\n" * MANY),
}


@pytest.mark.parametrize("name", NASTY)
def test_diff_time_of_long_texts_is_bounded(name: str) -> None:
    before, after = NASTY[name]
    fields = (
        "systemPrompt",
        "instructionsPrompt",
        "stepPrompt",
        "spawnerPrompt",
        "handleSteps",
        "description",
    )
    began = time.thread_time()
    parts = [{field: text[at::6] for at, field in enumerate(fields)} for text in (before, after)]
    for old, new in (({"systemPrompt": before}, {"systemPrompt": after}), parts):
        changes = compare(old, new)
        assert changes
        assert sum(len(change.lines) for change in changes) <= version_diff.MAX_LINES
    assert time.thread_time() - began < 1.5


def test_diff_time_of_long_lists_and_schemas_is_bounded() -> None:
    began = time.thread_time()
    many = [f"tool{n}" for n in range(100_000)]
    [change] = compare({"toolNames": many}, {"toolNames": [f"{name}x" for name in many]})
    assert (len(change.removed), len(change.added)) == (100_000, 100_000)
    old, new = (
        {"type": "object", "properties": {f"{key}{n}": {"type": "string"} for n in range(9_000)}}
        for key in "ab"
    )
    [change] = compare({"inputSchema": old}, {"inputSchema": new})
    assert change.cut
    assert time.thread_time() - began < 1.5
