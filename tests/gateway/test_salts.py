"""Salts: who shares cached prompts with whom."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.keys import ANONYMOUS
from llmos_gateway.salts import MIN_SECRET_BYTES, CacheSalts
from tests.gateway.values import api_key

SALTS = CacheSalts(b"s" * MIN_SECRET_BYTES)


def test_keys_of_one_tenant_share_and_others_do_not() -> None:
    red, blue = api_key(1, tenant="red"), api_key(2, tenant="blue")
    assert SALTS.compute(red) == SALTS.compute(api_key(3, tenant="red"))
    assert SALTS.compute(red) != SALTS.compute(blue)


def test_keys_without_a_tenant_share_with_nobody() -> None:
    salts = {SALTS.compute(key) for key in (api_key(1), api_key(2), ANONYMOUS, api_key(tenant=api_key(1).id))}
    assert len(salts) == 4


def test_adapters_share_nothing_with_their_base_each_other_or_their_own_older_files() -> None:
    keys = api_key(1), api_key(1, tenant="support"), ANONYMOUS
    adapters = "", "support@a", "support@b", "legal@a"
    assert len({SALTS.compute(key, adapter) for key in keys for adapter in adapters}) == 12


def test_a_new_secret_of_the_same_key_changes_nothing() -> None:
    assert SALTS.compute(api_key(1)) == SALTS.compute(replace(api_key(1), name="renamed"))


@given(st.binary(min_size=MIN_SECRET_BYTES, max_size=64), st.text(max_size=30))
def test_a_salt_is_256_bits_that_depend_on_the_secret(secret: bytes, tenant: str) -> None:
    salt = CacheSalts(secret).compute(api_key(tenant=tenant))
    assert len(base64.urlsafe_b64decode(salt + "=")) == 32
    assert salt != CacheSalts(secret + b"x").compute(api_key(tenant=tenant))


def test_a_secret_that_is_too_short_is_none() -> None:
    with pytest.raises(ValueError, match="it has 31 bytes, and must have at least 32"):
        CacheSalts(b"s" * 31)
