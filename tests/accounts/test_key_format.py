"""The format of API keys: what a typing mistake does, and what no key may look like."""

import pytest

from models.accounts import key_format
from models.accounts.key_format import MistypedKey, new_id, new_secret, present


@pytest.mark.parametrize("environment", ["live", "test"])
def test_a_key_shows_its_id_and_is_refused_with_one_wrong_character_anywhere(environment: str) -> None:
    key = new_secret(key_id := new_id(environment))
    assert len(key) == 81
    presented = present(key)
    assert presented.id == key_id == key[:32]
    assert presented.is_test == (environment == "test")
    assert presented.secret
    assert key_id not in presented.secret
    for place in range(len(key)):
        wrong = key[:place] + ("A" if key[place] != "A" else "B") + key[place + 1 :]
        if not wrong.startswith("sk_"):
            assert present(wrong).id not in (key_id, key)  # a token of the older kind, which nobody has
            continue
        with pytest.raises(MistypedKey):
            present(wrong)
    for cut in (key[:-1], key + "A", key[:32], key + "\n", "sk_live_"):
        with pytest.raises(MistypedKey):
            present(cut)


def test_a_new_secret_keeps_the_id_and_the_hint_tells_neither() -> None:
    first = new_secret(new_id("live"))
    second = new_secret(first[:32])
    assert first != second
    assert present(first).id == present(second).id
    assert key_format.key_hint(first) == f"{first[:12]}...{first[-4:]}"


def test_a_token_of_the_older_kind_is_known_by_its_hash() -> None:
    assert present("cb-pat-1").secret is None
    assert len(present("cb-pat-1").id) == 64
