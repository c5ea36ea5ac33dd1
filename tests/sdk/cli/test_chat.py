"""`llmos chat`: one answer, a conversation, and what happens when there is none."""

from __future__ import annotations

import json

import httpx
import pytest
from typer.testing import CliRunner

from llmos.cli.app import app
from llmos.cli.session import Session
from llmos.client import Client
from tests.sdk.cli.conftest import Run
from tests.sdk.client.support import (
    CONNECTION,
    PROXY,
    READY,
    STARTING,
    TOO_BIG,
    Script,
    answer,
    events,
    piece,
    pool,
    refusal,
    server_sent,
)

SERVING = answer(pool("smol", READY, readyReplicas=1))
MODELS = answer({"data": [{"id": "smollm2"}]})
USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
PARIS = server_sent(piece("The capital "), piece("is Paris.", "stop"), USAGE, "[DONE]")


def test_an_answer_is_printed_as_it_comes(llmos: Run) -> None:
    script = Script(SERVING, MODELS, PARIS)
    result = llmos(
        script, "chat", "smol", "Capital?", "--system", "Be brief.", "--max-tokens", "9", "--temperature", "0"
    )
    assert (result.exit_code, result.stdout) == (0, "The capital is Paris.\n")
    assert script.asked[-1] == f"POST {PROXY}/chat/completions"
    assert script.body()["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Capital?"},
    ]
    assert (script.body()["max_tokens"], script.body()["temperature"]) == (9, 0)


def test_json_is_one_object_with_the_whole_answer(llmos: Run) -> None:
    result = llmos(Script(SERVING, MODELS, PARIS), "chat", "smol", "Capital?", "--json")
    assert json.loads(result.stdout) == {
        "model": "smollm2",
        "content": "The capital is Paris.",
        "finishReason": "stop",
        "usage": {"promptTokens": 5, "completionTokens": 2},
    }


def test_a_prompt_may_come_through_a_pipe() -> None:
    script = Script(SERVING, MODELS, PARIS)
    session = Session(connect=lambda _: Client(connection=CONNECTION, transport=httpx.MockTransport(script)))
    result = CliRunner().invoke(app, ["chat", "smol"], obj=session, input="Capital?\n")
    assert (result.exit_code, script.body()["messages"][0]["content"]) == (0, "Capital?\n")


def test_a_conversation_remembers_and_survives_an_error(llmos: Run) -> None:
    script = Script(
        *(SERVING, MODELS, PARIS),
        *(SERVING, MODELS, answer({"error": {"message": "busy"}}, 503)),
        *(SERVING, MODELS, PARIS),
    )
    result = llmos(script, "chat", "smol", lines=["Capital?", "", "And the river?", "Sure?"])
    assert result.exit_code == 0
    assert "(HTTP 503): busy." in result.stderr
    assert [message["content"] for message in script.body()["messages"]] == [
        "Capital?",
        "The capital is Paris.",
        "Sure?",
    ]


class Interrupted(httpx.SyncByteStream):
    """An answer during which the user presses Ctrl-C."""

    def __iter__(self):  # type: ignore[no-untyped-def]  # httpx leaves it open
        yield f"data: {json.dumps(piece('The cap'))}\n\n".encode()
        raise KeyboardInterrupt


def test_ctrl_c_stops_the_answer_and_leaves_the_conversation(llmos: Run) -> None:
    script = Script(*(SERVING, MODELS), *(SERVING, MODELS, PARIS))
    interrupted = iter([httpx.Response(200, stream=Interrupted())])

    def handler(request: httpx.Request) -> httpx.Response:
        first = request.method == "POST" and next(interrupted, None)
        return first or script(request)

    result = llmos(handler, "chat", "smol", lines=["Capital?", "Go on."])
    assert result.exit_code == 0
    assert "The cap [stopped]\nThe capital is Paris." in result.stdout
    assert [message["content"] for message in script.body()["messages"]] == ["Capital?", "The cap", "Go on."]


def test_ctrl_c_during_a_single_answer_ends_with_130(llmos: Run) -> None:
    result = llmos(
        lambda request: httpx.Response(200, stream=Interrupted()) if request.method == "POST" else MODELS,
        *("chat", "--url", "http://engine.test", "Capital?"),
    )
    assert (result.exit_code, result.stdout) == (130, "The cap")


def test_a_pool_that_is_not_ready_says_why_and_ends_with_4(llmos: Run) -> None:
    result = llmos(Script(answer(pool("smol", STARTING))), "chat", "smol", "Hello")
    assert result.exit_code == 4
    assert "error: InferencePool smol is not ready (Starting): Replica smol-1 is starting." in result.stderr


def test_wait_shows_progress_and_then_talks(llmos: Run) -> None:
    script = Script(
        *(answer(pool("smol", STARTING)), events(("MODIFIED", pool("smol", READY, readyReplicas=1)))),
        *(SERVING, MODELS, PARIS),
    )
    result = llmos(script, "chat", "smol", "Capital?", "--wait")
    assert (result.exit_code, result.stdout) == (0, "The capital is Paris.\n")
    assert "smol: Starting: Replica smol-1 is starting." in result.stderr


def test_wait_does_not_wait_for_what_only_a_person_can_mend(llmos: Run) -> None:
    result = llmos(Script(answer(pool("smol", TOO_BIG))), "chat", "smol", "Hello", "--wait")
    assert (result.exit_code, "use count 2" in result.stderr) == (4, True)


@pytest.mark.parametrize(
    ("reply", "code"), [(refusal(404, "not found"), 3), (refusal(403, "forbidden"), 1), (refusal(503, "away"), 5)]
)
def test_the_exit_code_says_what_kind_of_error_it_was(llmos: Run, reply: httpx.Response, code: int) -> None:
    assert llmos(Script(reply), "chat", "smol", "Hello").exit_code == code


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["smol", "Hello", "--url", "http://engine.test"],
        ["smol", " "],
        ["smol", "--json"],
        ["smol", "Hello", "--temperature", "7"],
    ],
)
def test_a_wrong_command_line_ends_with_2(llmos: Run, arguments: list[str]) -> None:
    assert llmos(Script(), "chat", *arguments).exit_code == 2


GATEWAY = {"LLMOS_GATEWAY_URL": "http://gw.test/v1", "LLMOS_API_KEY": "sk-ours"}
OPENAI = {"OPENAI_BASE_URL": "http://openai.test/v1", "OPENAI_API_KEY": "sk-theirs"}


@pytest.mark.parametrize(
    ("arguments", "environment", "host", "key"),
    [
        (["--gateway", "http://gw.test", "--key", "sk-given"], OPENAI, "gw.test", "sk-given"),
        (["--gateway", "http://gw.test"], GATEWAY, "gw.test", "sk-ours"),
        ([], GATEWAY | OPENAI, "gw.test", "sk-ours"),
        ([], OPENAI, "openai.test", "sk-theirs"),
        (["--gateway", "http://openai.test/v1"], OPENAI, "openai.test", "sk-theirs"),
    ],
)
def test_a_gateway_is_asked_with_the_key_that_belongs_to_it(
    llmos: Run, arguments: list[str], environment: dict[str, str], host: str, key: str
) -> None:
    script = Script(PARIS)
    result = llmos(script, "chat", "smol", "Capital?", *arguments, environment=environment)
    assert (result.exit_code, result.stdout) == (0, "The capital is Paris.\n")
    (request,) = script.requests
    assert (request.url.host, request.url.path) == (host, "/v1/chat/completions")
    assert request.headers["Authorization"] == f"Bearer {key}"
    assert script.body()["model"] == "smol"


def test_a_key_for_openai_goes_to_no_other_server(llmos: Run) -> None:
    script = Script(PARIS)
    llmos(script, "chat", "smol", "Capital?", "--gateway", "http://gw.test", environment=OPENAI)
    assert "Authorization" not in script.requests[0].headers


def test_a_pool_of_another_namespace_is_asked_for_by_its_whole_name(llmos: Run) -> None:
    script = Script(PARIS)
    llmos(script, "chat", "smol", "Capital?", "-n", "red", "--gateway", "http://gw.test")
    assert script.body()["model"] == "red/smol"


def test_options_that_name_a_cluster_go_before_a_gateway_of_the_environment(llmos: Run) -> None:
    script = Script(SERVING, MODELS, PARIS)
    assert llmos(script, "chat", "smol", "Capital?", "-n", "team", environment=GATEWAY).exit_code == 0
    assert script.asked[-1] == f"POST {PROXY}/chat/completions"


def test_a_key_that_is_refused_ends_with_5(llmos: Run) -> None:
    script = Script(answer({"error": {"message": "no"}}, 401))
    result = llmos(script, "chat", "smol", "Hello", "--gateway", "http://gw.test", "--key", "sk-old")
    assert (result.exit_code, "llmos keys create" in result.stderr) == (5, True)


@pytest.mark.parametrize("further", [["--wait"], ["--url", "http://engine.test"]])
def test_a_gateway_is_one_way_of_several(llmos: Run, further: list[str]) -> None:
    assert llmos(Script(), "chat", "smol", "Hello", "--gateway", "http://gw.test", *further).exit_code == 2
