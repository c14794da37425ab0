"""The words of a query as what is searched has them: how often, and for a word that is not there its other forms.

Words are not stemmed. A word that occurs nowhere stands for those that begin like it (invoice: invoices, Rechnung: Rechnungsnummer) or are
spelt nearly like it (recieve: receive).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from sqlalchemy import text

from models.core.db import db

MOST_UNKNOWN = 6
"""Words whose other forms are looked for."""
VOCABULARY = 2_000
"""Words that begin like the unknown ones and are compared."""
MOST_FORMS = 5
SHORTEST, PREFIX = 4, 3
SIMILAR = 0.8
OTHER_FORM = 0.7
"""The weight of another form, as a share of the word's."""


@dataclass(frozen=True, slots=True)
class QueryTerm:
    """A word of a query, the forms that are searched for with the number of chunks that have each, and its weight (idf)."""

    word: str
    forms: dict[str, int]
    weight: float

    @property
    def chunks(self) -> int:
        """How many chunks have it, at most."""
        return sum(self.forms.values())


def terms_in(source_ids: Sequence[int], chunks: int, wanted: Sequence[str]) -> list[QueryTerm]:
    """The words of a query in these sources, which have so many chunks."""
    values = {"ids": list(source_ids), "terms": list(wanted)}
    known = {word: int(count) for word, count in db.session.execute(_FREQUENCIES, values)}
    unknown = [word for word in wanted if word not in known and len(word) >= SHORTEST][:MOST_UNKNOWN]
    others = _other_forms(source_ids, unknown)
    terms = []
    for word in wanted:
        forms = {word: known[word]} if word in known else others.get(word, {})
        share = 1.0 if word in known or not forms else OTHER_FORM
        terms.append(QueryTerm(word, forms, share * _idf(min(sum(forms.values()), chunks), chunks)))
    return terms


def _idf(chunks_with: int, chunks: int) -> float:
    return math.log(1 + (chunks - chunks_with + 0.5) / (chunks_with + 0.5))


def _other_forms(source_ids: Sequence[int], unknown: Sequence[str]) -> dict[str, dict[str, int]]:
    if not unknown:
        return {}
    starts = sorted({word[:PREFIX] for word in unknown})
    values = {
        "ids": list(source_ids),
        "starts": starts,
        "ends": [f"{start}\U0010ffff" for start in starts],
        "limit": VOCABULARY,
    }
    vocabulary: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for start, form, count in db.session.execute(_BEGINNING_WITH, values):
        vocabulary[start][form] = int(count)
    found = {}
    for word in unknown:
        forms = vocabulary[word[:PREFIX]]
        near = sorted(((_similarity(word, form), form) for form in forms), reverse=True)
        found[word] = {form: forms[form] for similarity, form in near[:MOST_FORMS] if similarity >= SIMILAR}
    return found


def _similarity(word: str, form: str) -> float:
    """1 for a word that begins with most of the other, less for one that is spelt nearly like it."""
    if form.startswith(word[: max(SHORTEST, round(0.7 * len(word)))]) and len(form) <= 3 * len(word):
        return 1.0
    if abs(len(word) - len(form)) > 3:
        return 0.0
    matcher = SequenceMatcher(None, word, form, autojunk=False)
    return matcher.ratio() if matcher.quick_ratio() >= SIMILAR else 0.0


_FREQUENCIES = text(
    "SELECT term, sum(chunks) FROM source_term WHERE source_id = ANY(:ids) AND term = ANY(:terms) GROUP BY term"
)
_BEGINNING_WITH = text(
    "SELECT beginning.start, term, sum(chunks) AS found"
    " FROM unnest(CAST(:starts AS text[]), CAST(:ends AS text[])) AS beginning (start, last)"
    ' JOIN source_term ON term >= beginning.start COLLATE "C" AND term < beginning.last COLLATE "C"'
    " WHERE source_id = ANY(:ids) GROUP BY 1, 2 ORDER BY found DESC LIMIT :limit"
)
