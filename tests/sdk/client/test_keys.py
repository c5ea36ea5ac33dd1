"""Keys made, listed, rotated and revoked, by both clients, against a scripted API server."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmos.api.apikeys import SECRET_SELECTOR, StoredKey, build_key_secret, compute_digest, find_key_id
from llmos.client import ConflictError, ForbiddenError, InvalidError, KeyRights, NotFoundError, Rotation
from llmos.client.keys import generate_key
from tests.sdk.client.support import BORN, Handler, Json, Script, Twin, answer, objects, refusal

SECRETS = "/api/v1/namespaces/llmos-system/secrets"
TENANT = {"metadata": {"name": "acme"}}
NEXT_YEAR = datetime(2027, 1, 1, tzinfo=UTC)

ClientFor = Callable[[Handler], Twin]


def secret(name: str = "ci", key_id: str = "abcdefghijkl", **data: str) -> Json:
    stored = StoredKey(key_id, name, compute_digest("key"), frozenset({"team"}))
    item: dict[str, Any] = build_key_secret(stored, "llmos-system")
    item["metadata"] |= {"uid": f"uid-of-{name}", "creationTimestamp": BORN.isoformat()}
    item["data"] |= {field: base64.b64encode(value.encode()).decode() for field, value in data.items()}
    return item


def test_two_keys_are_never_the_same_and_look_like_keys() -> None:
    made = {generate_key() for _ in range(100)}
    assert len({find_key_id(key) for key in made} - {None}) == 100


async def test_a_new_key_is_in_the_answer_and_only_its_hash_in_the_cluster(client_for: ClientFor) -> None:
    script = Script(answer(TENANT), answer({}, 201))
    rights = KeyRights(frozenset({"b", "a"}), ("chat*",), ("chat",), NEXT_YEAR, "acme")
    made = await client_for(script).call("keys", "create", rights, name="ci")
    sent = script.body()
    assert script.asked[0] == "GET /apis/llmos.dev/v1alpha1/tenants/acme"
    data = {field: base64.b64decode(value).decode() for field, value in sent["data"].items()}
    assert (script.asked[1:], sent["metadata"]["name"]) == ([f"POST {SECRETS}"], "ci")
    assert data == {
        "id": find_key_id(made.key),
        "sha256": compute_digest(made.key).hex(),
        "namespaces": "a,b",
        "models": "chat*",
        "endpoints": "chat",
        "expiresAt": "2027-01-01T00:00:00+00:00",
        "tenant": "acme",
        "tail": made.key[-4:],
    }
    assert made.key.rpartition("-")[2] not in str(sent) + str(data)


async def test_a_name_that_is_taken_is_a_conflict(client_for: ClientFor) -> None:
    with pytest.raises(ConflictError, match="llmos-system/ci exists already"):
        await client_for(Script(refusal(409, "exists"))).call("keys", "create", KeyRights(), name="ci")


async def test_a_namespace_that_is_not_there_is_named(client_for: ClientFor) -> None:
    with pytest.raises(NotFoundError, match="Namespace elsewhere does not exist"):
        await client_for(Script(refusal(404, "no"))).call("keys", "create", KeyRights(), system_namespace="elsewhere")


async def test_all_pages_are_listed_in_order_and_what_is_no_key_says_why(client_for: ClientFor) -> None:
    script = Script(objects(secret("b"), more="2"), objects(secret("a"), secret("c", id="short")))
    listed = await client_for(script).call("keys", "list")
    assert [(key.name, key.stored is None) for key in listed] == [("a", False), ("b", False), ("c", True)]
    assert "id is not" in listed[2].problem
    assert [request.url.params["labelSelector"] for request in script.requests] == [SECRET_SELECTOR] * 2
    assert script.requests[1].url.params["continue"] == "2"


@pytest.mark.parametrize("word", ["ci", "abcdefghijkl"])
async def test_a_key_is_revoked_by_name_or_id(client_for: ClientFor, word: str) -> None:
    script = Script(objects(secret("other", "000000000000"), secret()), answer({}))
    gone = await client_for(script).call("keys", "revoke", word)
    assert (gone.name, script.asked[-1]) == ("ci", f"DELETE {SECRETS}/ci")
    assert script.body()["preconditions"] == {"uid": "uid-of-ci"}


async def test_what_is_no_key_is_not_deleted(client_for: ClientFor) -> None:
    script = Script(objects(secret()))
    with pytest.raises(NotFoundError, match="no API key password"):
        await client_for(script).call("keys", "revoke", "password")
    assert script.asked == [f"GET {SECRETS}"]


async def test_a_key_of_a_tenant_that_does_not_exist_is_not_made(client_for: ClientFor) -> None:
    script = Script(refusal(404, 'tenants.llmos.dev "acme" not found'))
    with pytest.raises(NotFoundError, match="no Tenant acme"):
        await client_for(script).call("keys", "create", KeyRights(tenant="acme"))
    assert script.asked == ["GET /apis/llmos.dev/v1alpha1/tenants/acme"]


async def test_whoever_may_not_see_tenants_makes_no_keys_of_them(client_for: ClientFor) -> None:
    with pytest.raises(ForbiddenError, match="cannot get tenants"):
        await client_for(Script(refusal(403, "cannot get tenants"))).call("keys", "create", KeyRights(tenant="acme"))


NOW = BORN + timedelta(days=10)
ROTATION = Rotation(NOW, timedelta(hours=24))


def read(item: Json) -> dict[str, str]:
    return {field: base64.b64decode(value).decode() for field, value in item["data"].items()}


async def test_a_rotated_key_has_the_same_rights_and_the_old_one_ends_after_the_overlap(client_for: ClientFor) -> None:
    old = secret(models="chat*", tenant="acme", expiresAt=(BORN + timedelta(days=30)).isoformat())
    script = Script(objects(old), answer(TENANT), answer({}, 201), answer({}))
    rotated = await client_for(script).call("keys", "rotate", "ci", ROTATION)
    made, patched = (read(script.body(at)) for at in (2, 3))
    name = rotated.new.stored.name
    assert script.asked[2:] == [f"POST {SECRETS}", f"PATCH {SECRETS}/ci"]
    assert {field: made[field] for field in ("namespaces", "models", "tenant")} == {
        "namespaces": "team", "models": "chat*", "tenant": "acme"
    }  # fmt: skip
    assert made["expiresAt"] == (NOW + timedelta(days=30)).isoformat()
    assert patched == {"expiresAt": (NOW + timedelta(hours=24)).isoformat()}
    assert script.body(3)["metadata"] == {"uid": "uid-of-ci"}
    assert (name[:3], find_key_id(rotated.new.key)) == ("ci-", made["id"])
    assert rotated.old.expires_at == NOW + timedelta(hours=24)


async def test_an_overlap_never_lengthens_a_life(client_for: ClientFor) -> None:
    ends_at = NOW + timedelta(hours=1)
    script = Script(objects(secret(expiresAt=ends_at.isoformat())), answer({}, 201), answer({}))
    rotated = await client_for(script).call("keys", "rotate", "ci", ROTATION)
    assert rotated.old.expires_at == ends_at
    assert read(script.body(2)) == {"expiresAt": ends_at.isoformat()}


async def test_a_key_without_an_end_gets_one_and_its_successor_none(client_for: ClientFor) -> None:
    script = Script(objects(secret("key-0a1b2c3d")), answer({}, 201), answer({}))
    rotated = await client_for(script).call("keys", "rotate", "key-0a1b2c3d", ROTATION)
    assert rotated.new.stored.expires_at is None
    assert len(rotated.new.stored.name) == len("key-0a1b2c3d")
    assert rotated.new.stored.name != "key-0a1b2c3d"


async def test_where_the_old_key_cannot_be_changed_there_is_no_new_one(client_for: ClientFor) -> None:
    script = Script(objects(secret()), answer({}, 201), refusal(403, "cannot patch secrets"), answer({}))
    with pytest.raises(ForbiddenError, match="cannot patch"):
        await client_for(script).call("keys", "rotate", "ci", Rotation(NOW, timedelta(hours=1), "next"))
    assert script.asked[-1] == f"DELETE {SECRETS}/next"


async def test_what_holds_no_key_cannot_be_rotated(client_for: ClientFor) -> None:
    with pytest.raises(InvalidError, match="id is not"):
        await client_for(Script(objects(secret(id="short")))).call("keys", "rotate", "ci", ROTATION)
