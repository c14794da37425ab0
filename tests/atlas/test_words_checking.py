"""Which sentences of a model are kept: those whose citations stand in the files that it was shown."""

import json
from typing import Any

import pytest

from models.atlas.atlas_words_checking import MAX_CITATIONS, MAX_SENTENCES, MAX_SPAN, ShownFile, checked_words
from models.insights.model_words import ModelFailed

FILE = ShownFile("shop/money.py", "a" * 64, ["CENTS = 100", "", "def to_cents(text):", "    return 1"])
LONG = ShownFile("long.txt", "b" * 64, ["x"] * 500)
SHOWN = {each.path: each for each in (FILE, LONG)}


def sentence(text: str = "It counts.", **citation: Any) -> dict[str, Any]:
    return {"text": text, "citations": [{"path": "shop/money.py", "line": 1, **citation}]}


@pytest.mark.parametrize(
    "kept",
    [
        sentence(),
        sentence(line=4),
        sentence(line=1, end_line=4),
        sentence(end_line=None),
        sentence(line=3, symbol="to_cents"),
        sentence(line=3, symbol="to_cents()"),
        sentence(line=3, symbol="Money.to_cents"),
        sentence(line=3, symbol="Money::to_cents"),
        sentence(symbol=None),
        sentence(symbol=""),
        {"text": "One alone.", "citations": {"path": "shop/money.py", "line": 1}},
    ],
    ids=str,
)
def test_a_sentence_with_lines_that_exist_is_kept(kept: dict[str, Any]) -> None:
    found = checked_words(json.dumps([kept]), SHOWN)
    assert ([each["text"] for each in found.sentences], found.cut) == ([kept["text"]], 0)
    assert found.cited == {"shop/money.py": "a" * 64}


@pytest.mark.parametrize(
    "cut",
    [
        {"text": "Nothing cited."},
        {"text": "None.", "citations": []},
        {"text": "Wrong type.", "citations": "shop/money.py:1"},
        {"text": "Not objects.", "citations": ["shop/money.py:1"]},
        {"text": "Many.", "citations": [{"path": "shop/money.py", "line": 1}] * (MAX_CITATIONS + 1)},
        {
            "text": "One of two.",
            "citations": [{"path": "shop/money.py", "line": 1}, {"path": "none.py", "line": 1}],
        },
        sentence(path="shop/other.py"),
        sentence(path="../shop/money.py"),
        sentence(path="SHOP/money.py"),
        sentence(path=None),
        sentence(path=["shop/money.py"]),
        sentence(path="shop/money.py\u0000"),
        sentence(line=0),
        sentence(line=-1),
        sentence(line=5),
        sentence(line=10**30),
        sentence(line=True),
        sentence(line=1.0),
        sentence(line="1"),
        sentence(line=None),
        sentence(line=3, end_line=2),
        sentence(line=3, end_line=5),
        sentence(end_line="4"),
        sentence(path="long.txt", line=1, end_line=MAX_SPAN + 1),
        sentence(line=1, symbol="to_cents"),
        sentence(line=3, symbol="cents"),
        sentence(line=3, symbol="to_cents" * 100),
        sentence(line=3, symbol="."),
        sentence(line=3, symbol=7),
        sentence(line=3, symbol="(a+)+$"),
    ],
    ids=str,
)
def test_a_sentence_that_cites_what_does_not_exist_is_cut(cut: dict[str, Any]) -> None:
    found = checked_words(json.dumps([cut, sentence("It stands.")]), SHOWN)
    assert ([each["text"] for each in found.sentences], found.cut) == (["It stands."], 1)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Two\nlines\tand  spaces.", "Two lines and spaces."),
        ("Half a \ud800 pair.", "Half a pair."),
        ("Turned \u202eround\u202c.", "Turned round."),
        ("A\u0000nul\u0007.", "Anul."),
        ("<script>alert(1)</script> **bold** [x](javascript:1)", None),
        ("y" * 5_000, "y" * 400),
    ],
    ids=str,
)
def test_a_sentence_is_plain_text_in_one_line(said: str, kept: str | None) -> None:
    found = checked_words(json.dumps([sentence(said)]), SHOWN)
    assert [each["text"] for each in found.sentences] == [kept or said]


@pytest.mark.parametrize("text", ["", None, 7, ["a"], "\u200b"])
def test_what_says_nothing_is_no_sentence(text: Any) -> None:
    assert checked_words(json.dumps([{**sentence(), "text": text}]), SHOWN) == ([], {}, 0)


def test_sentences_beyond_the_limit_are_cut_and_repetitions_are_one() -> None:
    answer = [sentence(f"Number {each}.") for each in range(15)] + [sentence("Number 1.")]
    found = checked_words(json.dumps(answer), SHOWN)
    assert (len(found.sentences), found.cut) == (MAX_SENTENCES, 15 - MAX_SENTENCES)


@pytest.mark.parametrize("answer", ["", "I cannot.", "{}", '["text"]', "[" * 5_000, "[1, 2]"])
def test_an_answer_in_another_format_is_a_failure(answer: str) -> None:
    with pytest.raises(ModelFailed):
        checked_words(answer, SHOWN)


def test_words_around_the_answer_do_no_harm() -> None:
    found = checked_words(f"Here you are:\n```json\n{json.dumps([sentence()])}\n```", SHOWN)
    assert len(found.sentences) == 1
