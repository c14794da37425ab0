"""What holds for every merge: nothing is lost, the sides can be swapped, and the same merge has the same result."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from models.projects.merge import USE_MAIN, USE_WORKSPACE, MergeEntry, merge_contents, merge_trees, settle
from tests.projects.merge.merge_case import BLOBS, folder, link

LINES = [f"line {number}\n" for number in range(6)]
texts = st.lists(st.sampled_from(LINES), max_size=8).map("".join)
PATHS = ["a", "b", "A", "a/x", "a/y", "d/x", "d/y", "D/x", "e"]
contents = st.one_of(
    st.sampled_from(["one\n" * 5, "two\n" * 5, "one\n" * 5 + "three\n", "\0binary", ""]).map(BLOBS.file),
    st.sampled_from(["one\n" * 5, "two\n" * 5]).map(lambda text: BLOBS.file(text, 0o755)),
    st.sampled_from([link("x"), link("y"), folder()]),
)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, MergeEntry]:
    """A tree without a file above another path, or names that differ in case only."""
    chosen: dict[str, MergeEntry] = {}
    for path in draw(st.lists(st.sampled_from(PATHS), unique=True)):
        above = path.rsplit("/", 1)[0] if "/" in path else None
        fits = above is None or above not in chosen or chosen[above].kind == "dir"
        entry = draw(contents)
        below = any(each.startswith(path + "/") for each in chosen)
        names = {name.lower(): name for each in chosen for name in (each, each.rsplit("/", 1)[0])}
        same = all(names.get(name.lower(), name) == name for name in (path, above or path))
        if fits and same and (not below or entry.kind == "dir"):
            chosen[path] = entry
    return chosen


@settings(max_examples=150)
@given(trees(), trees(), trees())
def test_trees(
    base: dict[str, MergeEntry], ours: dict[str, MergeEntry], theirs: dict[str, MergeEntry]
) -> None:
    merge, swapped = merge_trees(base, ours, theirs, BLOBS), merge_trees(base, theirs, ours, BLOBS)
    assert merge.contents == swapped.contents == merge_trees(base, ours, theirs, BLOBS).contents
    assert {path: each.result for path, each in merge.paths.items()} == {
        path: each.result for path, each in swapped.paths.items()
    }
    decided = {path for each in merge.decisions.values() for path in each.paths}
    for answer in (USE_WORKSPACE, USE_MAIN):
        tree = settle(merge, ours, dict.fromkeys(merge.decisions, answer)).tree
        _has_no_clash(tree)
        kept = Counter(entry.hash for entry in tree.values() if entry.kind == "file")
        before = {entry.hash for entry in base.values()}
        for side in (ours, theirs):
            for path, entry in side.items():
                new = entry.kind == "file" and entry.hash not in before and entry.size
                if new and path not in decided and not merge.contents:
                    assert kept[entry.hash], (path, entry)


def _has_no_clash(tree: dict[str, MergeEntry]) -> None:
    for path in tree:
        above = path.rsplit("/", 1)[0] if "/" in path else None
        assert above is None or above not in tree or tree[above].kind == "dir", path
    names = Counter(name.lower() for name in {*tree, *(path.rsplit("/", 1)[0] for path in tree)})
    assert not [path for path, entry in tree.items() if entry.kind != "dir" and names[path.lower()] > 1]


@settings(max_examples=150)
@given(texts, texts, texts, st.sampled_from(["a.txt", "a.py", "a.json", "a.yml"]))
def test_texts(base: str, ours: str, theirs: str, path: str) -> None:
    versions = [each.encode() for each in (base, ours, theirs)]
    merged = merge_contents(path, *versions)
    assert merged == merge_contents(path, *versions)
    swapped = merge_contents(path, versions[0], versions[2], versions[1])
    assert (swapped.data, swapped.label, swapped.reason) == (merged.data, merged.label, merged.reason)
    if merged.data is not None:
        result = Counter(merged.data.decode().splitlines())
        old = Counter(base.splitlines())
        for side in (ours, theirs):
            added = Counter(side.splitlines()) - old
            assert not [line for line in added if line not in old and result[line] < added[line]]


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from(["a.py", "a.js", "a.json", "a.toml", "a.yaml"]))
def test_sides_that_touch_different_units_always_merge(seed: int, path: str) -> None:
    """Each side edits, adds and deletes units of its own; the result has exactly the edits of both."""
    chance = random.Random(seed)
    names = [f"unit{number}" for number in range(chance.randint(1, 8))]
    owners = {name: chance.choice(("ours", "theirs", "nobody")) for name in names}
    base = dict.fromkeys(names, 1)
    sides: dict[str, dict[str, int]] = {}
    for side in ("ours", "theirs"):
        units: dict[str, int] = {}
        for name in names:
            act = chance.choice(("keep", "edit", "delete")) if owners[name] == side else "keep"
            if act != "delete":
                units[name] = 2 if act == "edit" else 1
            if chance.random() < 0.3:
                units[f"{side}{name}"] = 3
        sides[side] = units
    merged = merge_contents(path, *(_written(path, each) for each in (base, sides["ours"], sides["theirs"])))
    expected = {name: value for side in sides.values() for name, value in side.items() if name not in base}
    expected |= {
        name: sides[owners[name] if owners[name] in sides else "ours"][name]
        for name in names
        if all(name in side for side in sides.values())
    }
    if sides["ours"] == sides["theirs"] or base in sides.values() or {} in sides.values():
        return
    assert merged.data is not None, merged
    found = merged.data.decode()
    assert sorted(found.replace(",", "").split()) == sorted(
        _written(path, expected).decode().replace(",", "").split()
    )


def _written(path: str, units: dict[str, int]) -> bytes:
    """A file of the kind with these units."""
    form = path.rsplit(".", 1)[-1]
    if form == "json":
        inside = ",\n".join(f'  "{name}": {value}' for name, value in units.items())
        return f"{{\n{inside}\n}}\n".encode()
    template = {
        "py": "def {0}():\n    return {1}\n\n\n",
        "js": "function {0}() {{\n  return {1};\n}}\n\n",
        "toml": "{0} = {1}\n",
        "yaml": "{0}: {1}\n",
    }[form]
    return "".join(template.format(name, value) for name, value in units.items()).encode()
