"""Keys made, listed and revoked, by both clients, against a scripted API server."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from llmos.api.apikeys import SECRET_SELECTOR, StoredKey, build_key_secret, compute_digest, find_key_id
from llmos.client import ConflictError, KeyRights, NotFoundError
from llmos.client.keys import generate_key
from tests.sdk.client.support import BORN, Handler, Json, Script, Twin, answer, objects, refusal

SECRETS = "/api/v1/namespaces/llmos-system/secrets"
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
    script = Script(answer({}, 201))
    rights = KeyRights(frozenset({"b", "a"}), ("chat*",), ("chat",), NEXT_YEAR, "acme")
    made = await client_for(script).call("keys", "create", rights, name="ci")
    sent = script.body()
    data = {field: base64.b64decode(value).decode() for field, value in sent["data"].items()}
    assert (script.asked, sent["metadata"]["name"]) == ([f"POST {SECRETS}"], "ci")
    assert data == {
        "id": find_key_id(made.key),
        "sha256": compute_digest(made.key).hex(),
        "namespaces": "a,b",
        "models": "chat*",
        "endpoints": "chat",
        "expiresAt": "2027-01-01T00:00:00+00:00",
        "tenant": "acme",
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
