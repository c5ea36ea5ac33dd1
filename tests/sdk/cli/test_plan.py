"""`llmos plan`: the operator's own answer, before anything exists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmos.api.architecture_config import parse_architecture
from llmos.cli.planning import build_resolved
from tests.sdk.cli.conftest import Run
from tests.sdk.client.support import Script, accelerator, answer, condition, model, refusal

LLAMA_70B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "intermediate_size": 28672,
    "torch_dtype": "bfloat16",
}
NO_CLUSTER = Script()


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA_70B))
    return str(file)


def test_what_does_not_fit_ends_with_1_and_says_what_would(llmos: Run, config: str) -> None:
    result = llmos(NO_CLUSTER, "plan", config, "--accelerator", "nvidia-h100")
    assert result.exit_code == 1
    assert "Does not fit (DoesNotFit)" in result.stdout
    assert "on 1 x nvidia-h100 (79.6 GiB each)" in result.stdout
    assert "use count 2" in result.stdout


def test_what_fits_ends_with_0_and_shows_the_numbers(llmos: Run, config: str) -> None:
    result = llmos(NO_CLUSTER, "plan", config, "-a", "nvidia-h100", "--count", "4", "--context-length", "8192")
    assert result.exit_code == 0
    assert result.stdout.startswith("Fits: ")
    for words in ("weights", "KV cache", "8192 tokens", "tensor 4, pipeline 1", "70.55 B parameters", "count: 4"):
        assert words in result.stdout, words


def test_what_no_node_holds_is_planned_over_several(llmos: Run, config: str) -> None:
    result = llmos(NO_CLUSTER, "plan", config, "-a", "nvidia-h100", "--count", "16")
    assert result.exit_code == 0
    assert "tensor 8, pipeline 2, over 2 pods of 8" in result.stdout
    uneven = llmos(NO_CLUSTER, "plan", config, "-a", "nvidia-h100", "--count", "9")
    assert uneven.exit_code == 1
    assert "Set spec.accelerator.count to 10." in uneven.stdout


def test_json_carries_the_plan_or_the_reason(llmos: Run, config: str) -> None:
    fits = json.loads(llmos(NO_CLUSTER, "plan", config, "--memory", "80Gi", "--count", "4", "--json").stdout)
    assert fits["fits"] is True
    assert fits["plan"]["tensorParallelSize"] == 4
    refused = json.loads(llmos(NO_CLUSTER, "plan", config, "--memory", "24Gi", "--json").stdout)
    assert (refused["fits"], refused["plan"], refused["reason"]) == (False, None, "DoesNotFit")


def test_wishes_reach_the_planner(llmos: Run, config: str) -> None:
    def plan(*wishes: str) -> dict[str, Any]:
        found = json.loads(
            llmos(NO_CLUSTER, "plan", config, "--memory", "80Gi", "--count", "4", "--json", *wishes).stdout
        )
        return dict(found["plan"])

    plain = plan("--context-length", "8192")
    assert (
        plan("--context-length", "8192", "--engine-arg", "kv-cache-dtype=fp8")["kvCacheTokens"] > plain["kvCacheTokens"]
    )
    assert plan("--weights-gib", "70")["weightsGib"] < plain["weightsGib"]
    assert plan("--tensor", "2", "--pipeline", "2")["pipelineParallelSize"] == 2


def test_a_folder_with_weights_counts_their_size(llmos: Run, config: str) -> None:
    folder = Path(config).parent
    with (folder / "model.safetensors").open("wb") as weights:
        weights.truncate(60 * 2**30)
    found = json.loads(llmos(NO_CLUSTER, "plan", str(folder), "--memory", "80Gi", "--json").stdout)
    assert found["fits"] is True


def test_a_processor_needs_no_accelerator(llmos: Run, config: str) -> None:
    result = llmos(NO_CLUSTER, "plan", config, "--accelerator", "cpu")
    assert result.exit_code == 0
    assert "container memory" in result.stdout


def test_a_model_of_the_cluster_is_planned_from_its_facts_even_before_it_is_fetched(llmos: Run) -> None:
    facts = build_resolved(parse_architecture(LLAMA_70B), 0).to_manifest()
    resolved = model("llama", condition("False", "Fetching"), resolved=facts)
    script = Script(answer(resolved), answer(accelerator("gold", "192Gi")))
    result = llmos(script, "plan", "llama", "--accelerator", "gold")
    assert result.exit_code == 0
    assert "llama on 1 x gold (192.0 GiB each)" in result.stdout


def test_a_model_without_facts_yet_is_not_ready(llmos: Run) -> None:
    inspecting = model("llama", condition("False", "Inspecting", "A short CPU pod reads the model's configuration."))
    result = llmos(Script(answer(inspecting)), "plan", "llama", "--memory", "80Gi")
    assert result.exit_code == 4
    assert "Inspecting" in result.stderr


def test_an_unknown_accelerator_lists_the_known_ones(llmos: Run, config: str) -> None:
    for reply in (refusal(404, "not found"), httpx.ConnectError("refused")):
        result = llmos(Script(reply), "plan", config, "--accelerator", "abacus")
        assert result.exit_code == 3
        assert "nvidia-h100" in result.stderr
        assert "--memory 80Gi" in result.stderr


def test_a_class_of_the_cluster_wins_over_the_well_known_one(llmos: Run) -> None:
    facts = build_resolved(parse_architecture(LLAMA_70B), 0).to_manifest()
    script = Script(answer(model("llama", resolved=facts)), answer(accelerator("nvidia-h100", "94Gi")))
    assert "94.0 GiB each" in llmos(script, "plan", "llama", "-a", "nvidia-h100").stdout


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 3, "There is no"),
        ("{}", 1, "architectures"),
        ("[1]", 1, "cannot be used"),
        ("nonsense", 1, "cannot be used"),
    ],
)
def test_a_file_that_is_no_model_says_what_is_missing(
    llmos: Run, tmp_path: Path, content: str | None, code: int, words: str
) -> None:
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content)
    result = llmos(NO_CLUSTER, "plan", str(file), "--memory", "80Gi")
    assert (result.exit_code, words in result.stderr) == (code, True), result.stderr


@pytest.mark.parametrize("wishes", [[], ["--memory", "80Gi", "--count", "0"]])
def test_a_wrong_command_line_ends_with_2(llmos: Run, config: str, wishes: list[str]) -> None:
    assert llmos(NO_CLUSTER, "plan", config, *wishes).exit_code == 2


def test_an_amount_that_is_none_is_refused_with_an_example(llmos: Run, config: str) -> None:
    result = llmos(NO_CLUSTER, "plan", config, "--memory", "much")
    assert (result.exit_code, "24576Mi" in result.stderr) == (1, True)
