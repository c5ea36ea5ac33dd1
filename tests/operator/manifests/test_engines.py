"""The command line of each engine: what is planned first, what the user says last."""

from __future__ import annotations

from llmos_operator.manifests.engines import build_engine_command
from llmos_operator.manifests.engines.base import build_user_args
from llmos_operator.manifests.replica import build_replica_pods
from tests.operator.manifests.samples import PLAN, model, pool, template


def words(*, on_cpu: bool = False, trusted: bool = False, **engine: object) -> list[str]:
    item = model(trustRemoteCode={"revision": "a" * 40}) if trusted else model()
    chosen = pool(engine={"name": "vllm", **engine}).spec.engine
    return list(build_engine_command(chosen, item, PLAN, on_cpu=on_cpu).args)


def test_vllm_on_accelerators_gets_what_was_planned() -> None:
    assert words() == [
        *("--max-model-len", "8192"),
        *("--prefix-caching-hash-algo", "sha256"),
        *("--allowed-media-domains", "none.invalid"),
        *("--tensor-parallel-size", "2"),
        *("--gpu-memory-utilization", "0.9"),
    ]


def test_vllm_on_the_processor_gets_its_memory_by_environment() -> None:
    command = build_engine_command(pool().spec.engine, model(), PLAN, on_cpu=True)
    assert dict(command.env)["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert "--tensor-parallel-size" not in command.args


def test_an_engine_fetches_nothing_for_a_request_unless_its_pool_names_domains() -> None:
    assert words()[words().index("--allowed-media-domains") + 1] == "none.invalid"
    chosen = words(args={"allowed-media-domains": "images.example.com"})
    assert chosen[-2:] == ["--allowed-media-domains", "images.example.com"]
    env = dict(build_engine_command(pool().spec.engine, model(), PLAN, on_cpu=False).env)
    assert (env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"], env["HF_HUB_OFFLINE"]) == ("0", "1")


def test_what_the_user_says_comes_last_and_wins() -> None:
    assert words(args={"gpu-memory-utilization": 0.5})[-2:] == ["--gpu-memory-utilization", "0.5"]


def test_code_of_the_model_runs_only_if_it_was_trusted() -> None:
    assert "--trust-remote-code" in words(trusted=True)
    assert "--trust-remote-code" not in words()


def test_arguments_become_words_of_the_command_line() -> None:
    args = {"z-last": "a b", "flag": True, "off": False, "number": 3, "share": 0.25, "empty": ""}
    engine = pool(engine={"name": "vllm", "args": args}).spec.engine
    assert build_user_args(engine) == ("--empty", "", "--flag", "--number", "3", "--share", "0.25", "--z-last", "a b")


def test_kubernetes_expands_nothing_in_what_a_user_wrote() -> None:
    """Or a source `https://host/$(HF_TOKEN)` would carry the token of its Secret away."""
    args = {"stop": "$(HOME) costs $$"}
    (pod,) = build_replica_pods(
        template(engine={"name": "vllm", "args": args}, of=model(source={"uri": "https://host/$(HF_TOKEN)"})),
        revision="r",
        ordinal=0,
        attempt=0,
    )
    assert "$$(HOME) costs $$$$" in pod["spec"]["containers"][0]["command"]
    assert "https://host/$$(HF_TOKEN)" in pod["spec"]["initContainers"][0]["command"]


def test_the_simulator_needs_no_files() -> None:
    command = build_engine_command(pool(engine={"name": "simulator"}).spec.engine, None, PLAN, on_cpu=True)
    assert (command.args, command.needs_files) == (("--max-model-len", "8192"), False)
