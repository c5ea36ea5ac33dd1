"""Keys: what a Secret stores, who is let in, and who is not."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api.apikeys import InvalidKeySecret, build_key_secret, find_key_id, read_key_secret
from llmos_gateway.keys import ANONYMOUS, KeyRing, build_api_key
from tests.gateway.values import SECRET, api_key, key_text, stored_key

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)


@given(
    namespaces=st.frozensets(NAMES),
    models=st.lists(NAMES).map(tuple),
    expires_at=st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_a_secret_gives_back_what_it_was_made_of(
    namespaces: frozenset[str], models: tuple[str, ...], expires_at: datetime | None
) -> None:
    key = stored_key(namespaces=namespaces, models=models, expires_at=expires_at)
    assert read_key_secret(build_key_secret(key, "llmos-system")) == key


def test_a_secret_does_not_hold_the_key() -> None:
    secret = build_key_secret(stored_key(), "llmos-system")
    stored = b" ".join(base64.b64decode(value) for value in secret["data"].values())
    assert SECRET.encode() not in stored


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("id", "short", "id is not"),
        ("sha256", "zz", "not hexadecimal"),
        ("sha256", "00", "not the hash"),
        ("namespaces", "", "namespaces is empty"),
        ("namespaces", "a,,b", "empty entry"),
        ("models", ",", "empty entry"),
        ("expiresAt", "tomorrow", "no time"),
        ("expiresAt", "2030-01-01T00:00:00", "no time zone"),
        ("tenant", None, "no text"),
    ],
)
def test_what_cannot_be_read_grants_nothing(field: str, value: str | None, complaint: str) -> None:
    secret = build_key_secret(stored_key(), "llmos-system")
    secret["data"][field] = "%%%" if value is None else base64.b64encode(value.encode()).decode()
    with pytest.raises(InvalidKeySecret, match=complaint):
        read_key_secret(secret)


def test_a_secret_of_another_type_grants_nothing() -> None:
    secret: dict[str, Any] = {**build_key_secret(stored_key(), "llmos-system"), "type": "Opaque"}
    with pytest.raises(InvalidKeySecret, match="type"):
        read_key_secret(secret)


@given(st.text(max_size=100))
def test_no_text_makes_the_look_up_fail(text: str) -> None:
    ring = KeyRing()
    ring.put(api_key())
    assert ring.authenticate(text, 0) is None
    assert find_key_id(key_text(secret="0" * 42) + text) in {None, "key000000000"}


def test_the_right_key_is_let_in_and_a_wrong_one_is_not() -> None:
    ring = KeyRing()
    ring.put(api_key())
    assert ring.authenticate(key_text(), 0) == api_key()
    assert ring.authenticate(key_text(secret="t" * 43), 0) is None
    assert ring.authenticate(key_text(1), 0) is None
    assert ring.authenticate("", 0) is None


def test_a_key_ends_at_its_time() -> None:
    ring = KeyRing()
    ring.put(build_api_key(stored_key(expires_at=datetime.fromtimestamp(100, UTC))))
    assert ring.authenticate(key_text(), 99.9) is not None
    assert ring.authenticate(key_text(), 100) is None


def test_a_revoked_key_is_refused() -> None:
    ring = KeyRing()
    ring.put(api_key())
    ring.remove("secret-0")
    ring.remove("secret-0")
    assert ring.authenticate(key_text(), 0) is None
    assert len(ring) == 0


def test_two_secrets_of_one_key_each_hold_until_deleted() -> None:
    ring = KeyRing()
    ring.put(api_key())
    ring.put(replace(api_key(), name="second"))
    ring.remove("secret-0")
    found = ring.authenticate(key_text(), 0)
    assert found is not None
    assert found.name == "second"


def test_a_secret_that_changes_its_id_revokes_the_old_key() -> None:
    ring = KeyRing()
    ring.put(api_key())
    ring.put(replace(api_key(1), name="secret-0"))
    assert ring.authenticate(key_text(0), 0) is None
    assert ring.authenticate(key_text(1), 0) is not None


@given(st.lists(st.lists(st.integers(0, 4)), max_size=6))
def test_replacing_all_keys_leaves_exactly_these(rounds: list[list[int]]) -> None:
    ring = KeyRing()
    for numbers in rounds:
        ring.replace([api_key(number) for number in numbers])
        valid = {number for number in range(5) if ring.authenticate(key_text(number), 0)}
        assert valid == set(numbers)


def test_a_key_sees_its_namespaces_only() -> None:
    key = api_key(namespaces=("red",))
    assert key.may_see("red", "chat")
    assert not key.may_see("blue", "chat")
    assert ANONYMOUS.may_see("blue", "chat")


def test_model_patterns_narrow_the_namespaces_and_never_widen_them() -> None:
    key = api_key(namespaces=("red", "green"), models=("red/*", "embed-*"))
    assert key.may_see("red", "chat")
    assert key.may_see("green", "embed-small")
    assert not key.may_see("green", "chat")
    assert not key.may_see("blue", "embed-small")


def test_a_key_may_be_limited_to_parts_of_the_api() -> None:
    assert replace(api_key(), endpoints=("embeddings",)).may_use("embeddings")
    assert not replace(api_key(), endpoints=("embeddings",)).may_use("chat")
    assert api_key().may_use("chat")
