"""Coloured words of programs: every character stays, whatever the file is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.projects.code_highlighting import CodeWord, code_lines
from models.projects.merge.code_grammars import MAX_PARSE_BYTES

PROGRAMS = {
    "a.py": ("def f(): # c\n    return 'x' if 1 else None\n", {"c": "# c", "k": "def", "s": "'x'", "v": "1"}),
    "a.js": ("const a = `t` // c\nif (a) return 2\n", {"c": "// c", "k": "const", "s": "`t`", "v": "2"}),
    "a.ts": ('let a: number = 3; /* c\n d */ let b = "s"\n', {"k": "let", "s": '"s"', "v": "3"}),
    "a.go": ('package a\nvar b = "s" // c\nvar d = 4\n', {"c": "// c", "k": "package", "s": '"s"', "v": "4"}),
    "a.rs": ('fn f() -> u8 { let s = "s"; 5 }\n', {"k": "fn", "s": '"s"', "v": "5"}),
    "A.java": ('class A { int a = 6; String s = "s"; }\n', {"k": "class", "s": '"s"', "v": "6"}),
    "a.json": ('{"a": [true, 7]}\n', {"s": '"a"', "v": "true"}),
    "a.toml": ("# c\na = 'x'\nb = 8\n", {"c": "# c", "s": "'x'", "v": "8"}),
    "a.yaml": ("# c\na: 'x'\nb: 9\n", {"c": "# c", "s": "'x'", "v": "9"}),
    "a.txt": ("if 1 else 'x'\n", {}),
}


@pytest.mark.parametrize("path", PROGRAMS)
def test_words_of_each_language_have_their_kinds(path: str) -> None:
    text, kinds = PROGRAMS[path]
    words = [word for line in code_lines(path, text) for word in line]
    for kind, word in kinds.items():
        assert CodeWord(kind, word) in words
    assert {word.kind for word in words} >= {"", *kinds}
    assert joined(path, text) == text


def joined(path: str, text: str) -> str:
    return "".join("".join(word.text for word in line) + "\n" for line in code_lines(path, text))


@pytest.mark.parametrize(("text", "count"), [("", 0), ("\n", 1), ("a", 1), ("a\n", 1), ("a\n\n", 2)])
def test_lines_are_counted_as_editors_do(text: str, count: int) -> None:
    assert len(code_lines("a.py", text)) == count


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(PROGRAMS)),
    st.text(max_size=300),
)
def test_no_character_is_lost(path: str, text: str) -> None:
    expected = text if not text or text.endswith("\n") else text + "\n"
    assert joined(path, text) == expected


def test_a_large_file_is_plain() -> None:
    words = code_lines("a.py", "def f(): pass\n" * (MAX_PARSE_BYTES // 14 + 1))
    assert {word.kind for line in words for word in line} == {""}
