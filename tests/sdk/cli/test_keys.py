"""`llmos keys`, over a scripted API server."""

from __future__ import annotations

import base64
import json
from typing import get_args

import pytest

from llmos.api.apikeys import Part, find_key_id
from llmos.cli.keys import PARTS
from tests.sdk.cli.conftest import Run
from tests.sdk.client.support import Script, answer, objects, refusal
from tests.sdk.client.test_keys import SECRETS, secret

MADE = answer({}, 201)


def read(script: Script, field: str) -> str:
    return base64.b64decode(script.body()["data"].get(field, "")).decode()


def test_the_parts_of_the_api_are_those_of_the_model() -> None:
    assert get_args(Part) == PARTS


def test_the_key_alone_goes_to_standard_output(llmos: Run) -> None:
    script = Script(MADE)
    result = llmos(script, "keys", "create", "--name", "ci")
    assert result.exit_code == 0
    assert find_key_id(result.stdout.strip()) == read(script, "id")
    assert "only its hash is stored" in result.stderr
    assert (script.asked, read(script, "namespaces")) == ([f"POST {SECRETS}"], "team")


def test_what_a_key_may_do_is_said_by_options(llmos: Run) -> None:
    script = Script(answer({"metadata": {"name": "acme"}}), MADE)
    arguments = ["-n", "red", "-n", "blue", "--model", "red/*", "--endpoint", "chat", "--expires", "30d"]
    result = llmos(script, "keys", "create", *arguments, "--tenant", "acme", "--json", "--system-namespace", "sys")
    facts = json.loads(result.stdout)
    assert facts["namespaces"] == ["blue", "red"]
    assert (facts["models"], facts["endpoints"], facts["tenant"]) == (["red/*"], ["chat"], "acme")
    assert facts["expiresAt"] == "2026-01-31T00:00:05+00:00"
    assert find_key_id(facts["key"]) == facts["id"]
    assert script.asked[1:] == ["POST /api/v1/namespaces/sys/secrets"]


def test_a_key_for_all_namespaces_says_so(llmos: Run) -> None:
    script = Script(MADE)
    assert llmos(script, "keys", "create", "-A").exit_code == 0
    assert read(script, "namespaces") == "*"


def test_a_tenants_key_may_call_all_that_its_tenant_may(llmos: Run) -> None:
    script = Script(answer({"metadata": {"name": "acme"}}), MADE)
    result = llmos(script, "keys", "create", "--tenant", "acme")
    assert (result.exit_code, read(script, "namespaces"), read(script, "tenant")) == (0, "*", "acme")
    assert "of tenant acme for all that it may call" in result.stderr


def test_a_key_of_a_tenant_that_is_not_there_ends_with_3(llmos: Run) -> None:
    result = llmos(Script(refusal(404, "not found")), "keys", "create", "--tenant", "acme")
    assert (result.exit_code, "There is no Tenant acme" in result.stderr, result.stdout) == (3, True, "")


def test_a_rotated_key_alone_goes_to_standard_output(llmos: Run) -> None:
    script = Script(objects(secret()), MADE, answer({}))
    result = llmos(script, "keys", "rotate", "ci", "--overlap", "2h", "--name", "next")
    assert result.exit_code == 0
    assert find_key_id(result.stdout.strip()) is not None
    assert "Key ci (id abcdefghijkl) is good until 2026-01-01 02:00 UTC." in result.stderr


def test_a_rotated_key_is_told_to_programs(llmos: Run) -> None:
    script = Script(objects(secret()), MADE, answer({}))
    facts = json.loads(llmos(script, "keys", "rotate", "abcdefghijkl", "--expires", "30d", "--json").stdout)
    assert find_key_id(facts["key"]) == facts["id"]
    assert facts["expiresAt"] == "2026-01-31T00:00:05+00:00"
    assert facts["replaces"]["expiresAt"] == "2026-01-02T00:00:05+00:00"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-A", "-n", "team"],
        ["--expires", "soon"],
        ["--expires", "0d"],
        ["rotate", "ci", "--overlap", "0h"],
        ["--endpoint", "images"],
        ["--model", "a/b/c"],
        ["--model", "a,b"],
    ],
)
def test_a_wrong_command_line_ends_with_2(llmos: Run, arguments: list[str]) -> None:
    command = [] if arguments[0] == "rotate" else ["create"]
    assert llmos(Script(), "keys", *command, *arguments).exit_code == 2


def test_keys_are_listed_with_what_they_may_do(llmos: Run) -> None:
    ended = secret("ci", expiresAt="2025-12-31T00:00:00Z", tenant="acme", tail="aB3d")
    script = Script(objects(ended, secret("bad", sha256="zz")))
    result = llmos(script, "keys", "list")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["NAME", "ID", "LAST", "TENANT", "NAMESPACES", "MODELS", "ENDPOINTS", "EXPIRES"]
    assert rows[1][0] == "bad"
    assert "sha256 is not hexadecimal" in result.stdout
    assert rows[2] == [
        "ci",
        "abcdefghijkl",
        "aB3d",
        "acme",
        "team",
        "all",
        "all",
        "2025-12-31",
        "00:00",
        "UTC",
        "(over)",
    ]


def test_keys_are_listed_for_programs(llmos: Run) -> None:
    (facts,) = json.loads(llmos(Script(objects(secret())), "keys", "list", "--json").stdout)
    assert (facts["name"], facts["namespaces"], facts["expiresAt"]) == ("ci", ["team"], None)


def test_a_key_is_revoked(llmos: Run) -> None:
    script = Script(objects(secret()), answer({}))
    result = llmos(script, "keys", "revoke", "ci")
    assert (result.exit_code, result.stdout) == (0, "Revoked ci.\n")


def test_a_key_that_is_not_there_ends_with_3(llmos: Run) -> None:
    assert llmos(Script(objects()), "keys", "revoke", "ci").exit_code == 3


def test_who_may_not_write_secrets_is_told(llmos: Run) -> None:
    result = llmos(Script(refusal(403, 'secrets is forbidden: User "u" cannot create')), "keys", "create")
    assert (result.exit_code, "cannot create" in result.stderr) == (1, True)
