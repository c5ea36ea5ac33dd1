"""What training needs, in numbers that can be checked by hand, and when it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.api import AcceleratorClass, FineTuneJobSpec, LLMModel, Reason
from llmos.api.architecture import ModelArchitecture
from llmos_operator.planning.engine_profile import GIB
from llmos_operator.planning.finetune_memory import (
    compute_training_memory,
    count_adapter_parameters,
    plan_container_memory,
    refuse_memory,
    should_shard,
)

PARAMETERS = 8_000_000_000


def architecture(**more: Any) -> ModelArchitecture:
    return ModelArchitecture.model_validate(
        {
            "name": "LlamaForCausalLM",
            "family": "llama",
            "layers": 32,
            "hiddenSize": 4096,
            "attentionHeads": 32,
            "keyValueHeads": 8,
            "headDim": 128,
            "vocabularySize": 128256,
            "maxContextTokens": 8192,
            "intermediateSize": 14336,
            "cache": [{"kind": "full", "layers": 32, "heads": 8, "keyDim": 128, "valueDim": 128}],
            "weights": [{"part": "mlp", "parameters": PARAMETERS, "bytes": 2 * PARAMETERS, "split": "tensor"}],
            **more,
        }
    )


def spec(
    tuning: str = "lora", class_name: str = "h100", kind: str | None = None, task: str = "causal-lm", **trainer: Any
) -> FineTuneJobSpec:
    taught = {"distill": {"teacherRef": {"name": "t"}}} if task == "distill" else {}
    return FineTuneJobSpec.model_validate(
        {
            "baseModelRef": {"name": "m"},
            "method": {"tuning": tuning, "task": task, **taught},
            "dataset": {"source": {"uri": "hf://a/b"}},
            "trainer": {"accelerator": {"class": class_name}, **trainer},
            "output": {"name": "out", "kind": kind},
        }
    )


def model(**more: Any) -> LLMModel:
    facts = {"digest": "d", "architecture": "a", "parameters": 1, "layers": 1, "kvHeads": 1, "headDim": 1}
    resolved = {**facts, "vocabulary": 1, "maxContext": 1, "weightsBytes": 1, "dtype": "bfloat16"}
    config = architecture(**more).model_dump(by_alias=True)
    return LLMModel.model_validate(
        {
            "metadata": {"name": "m"},
            "spec": {"source": {"uri": "hf://a/b"}},
            "status": {"resolved": {**resolved, "config": config}},
        }
    )


def accelerator(memory: str = "80Gi") -> AcceleratorClass:
    return AcceleratorClass.model_validate({"metadata": {"name": "h100"}, "spec": {"memory": memory}})


def test_full_tuning_takes_18_bytes_for_each_parameter_in_bfloat16() -> None:
    memory = compute_training_memory(spec("full"), architecture())
    assert (memory.weights_gib + memory.states_gib) * GIB == pytest.approx(18 * PARAMETERS)


def test_an_adapter_adds_rank_times_inputs_and_outputs_of_each_layer() -> None:
    only_q = spec().method.lora.model_copy(update={"target_modules": ("q_proj",), "rank": 4})
    assert count_adapter_parameters(architecture(), only_q) == 32 * 4 * (4096 + 4096)
    memory = compute_training_memory(spec(), architecture())
    assert memory.weights_gib * GIB == pytest.approx(2 * PARAMETERS)
    assert memory.states_gib * GIB == pytest.approx(16 * count_adapter_parameters(architecture(), spec().method.lora))


def test_a_module_of_unknown_shape_counts_as_the_widest() -> None:
    lora = spec().method.lora
    unknown = lora.model_copy(update={"target_modules": ("something",)})
    wide = lora.model_copy(update={"target_modules": ("up_proj",)})
    assert count_adapter_parameters(architecture(), unknown) == count_adapter_parameters(architecture(), wide)


def test_what_fits_is_not_refused_and_what_cannot_is_refused_with_the_numbers() -> None:
    assert refuse_memory(spec(), model(), accelerator()) is None
    refused = refuse_memory(spec("full"), model(), accelerator())
    assert refused is not None
    assert refused.reason is Reason.DoesNotFit
    assert "GiB on one h100" in refused.message
    assert "tuning to lora" in refused.message


def test_more_nodes_do_not_make_a_model_fit_that_is_not_sharded_and_the_refusal_says_so() -> None:
    one, two = (compute_training_memory(spec("full", nodes=nodes), architecture()) for nodes in (1, 2))
    assert two.needs_gib > one.needs_gib
    refused = refuse_memory(spec("full", nodes=2, sharding="none"), model(), accelerator())
    assert refused is not None
    assert "Each of the 2 accelerators holds the whole model: set trainer.sharding to auto" in refused.message


OUTSIDE, RANKS = 2 * 128256 * 4096, 4
LAYER = (PARAMETERS - OUTSIDE) / 32
OUTSIDE_AND_LAYERS = [
    {"part": "embedding", "parameters": OUTSIDE, "bytes": 2 * OUTSIDE, "split": "tensor"},
    {"part": "mlp", "parameters": PARAMETERS - OUTSIDE, "bytes": 2 * (PARAMETERS - OUTSIDE), "split": "tensor"},
]


@pytest.mark.parametrize(
    ("tuning", "held", "gathered"),
    [
        # In float32: what is outside and two layers; their gradients; in bfloat16, what is cast of the output.
        ("full", 16 * PARAMETERS, 4 * (OUTSIDE + 2 * LAYER) + 4 * 2 * OUTSIDE + 2 * OUTSIDE),
        ("lora", 2 * PARAMETERS + 16 * 41943040, 2 * (OUTSIDE + 2 * LAYER)),
    ],
)
def test_shares_take_an_nth_and_what_is_put_together(tuning: str, held: float, gathered: float) -> None:
    whole, share = (
        compute_training_memory(
            spec(tuning, nodes=RANKS), architecture(weights=OUTSIDE_AND_LAYERS), is_sharded=is_sharded
        )
        for is_sharded in (False, True)
    )
    assert (share.weights_gib + share.states_gib) * GIB == pytest.approx(held / RANKS)
    assert share.gathered_gib * GIB == pytest.approx(gathered)
    # The work is dealt out, not cut.
    assert share.activations_gib == whole.activations_gib
    assert share.exchange_gib == whole.exchange_gib > 0


@pytest.mark.parametrize(
    ("sharding", "tuning", "nodes", "expected"),
    [
        ("auto", "full", 4, True),
        ("auto", "full", 1, False),
        ("auto", "lora", 4, False),
        ("full", "lora", 4, True),
        ("none", "full", 4, False),
    ],
)
def test_a_model_is_sharded_where_one_accelerator_cannot_hold_it(
    sharding: str, tuning: str, nodes: int, *, expected: bool
) -> None:
    assert should_shard(spec(tuning, nodes=nodes, sharding=sharding), model(), accelerator()) is expected


def test_four_bits_take_about_half_a_byte_for_what_is_linear_and_are_never_sharded() -> None:
    layers = PARAMETERS - OUTSIDE
    lora, qlora = (
        compute_training_memory(spec(tuning), architecture(weights=OUTSIDE_AND_LAYERS)) for tuning in ("lora", "qlora")
    )
    constants = 1 / 64 + 4 / (64 * 256)
    expected = (0.5 + constants) * layers + 2 * OUTSIDE + 2 * 4096 * 14336
    assert qlora.weights_gib * GIB == pytest.approx(expected)
    assert (qlora.states_gib, qlora.activations_gib) == (lora.states_gib, lora.activations_gib)
    assert not should_shard(spec("qlora", nodes=4), model(), accelerator("4Gi"))


@pytest.mark.parametrize(
    ("tuning", "advice"),
    [
        ("full", "set method.tuning to lora."),
        ("lora", "set method.tuning to qlora."),
        ("qlora", "A model of four bits is not sharded: choose a class with more memory. "),
    ],
)
def test_what_does_not_fit_is_told_what_takes_less(tuning: str, advice: str) -> None:
    refused = refuse_memory(spec(tuning), model(), accelerator("4Gi"))
    assert refused is not None
    assert advice in refused.message


def test_experts_are_not_quantized() -> None:
    experts = [{"part": "experts", "parameters": PARAMETERS, "bytes": 2 * PARAMETERS, "split": "tensor"}]
    memory = compute_training_memory(spec("qlora"), architecture(weights=experts))
    assert memory.weights_gib * GIB > 2 * PARAMETERS


def test_on_the_processor_auto_means_none() -> None:
    assert not should_shard(spec("full", "cpu", nodes=4), model(), None)
    assert should_shard(spec("full", "cpu", nodes=4, sharding="full"), model(), None)


def test_a_model_that_fits_by_shares_is_not_refused_and_one_that_does_not_is_with_the_numbers() -> None:
    assert refuse_memory(spec("full", accelerators_per_node=8), model(), accelerator("64Gi")) is None
    refused = refuse_memory(spec("full", accelerators_per_node=2), model(), accelerator("64Gi"))
    assert refused is not None
    assert "GiB on each of the 2 h100 over which the model is sharded" in refused.message
    assert "layers that are put together" in refused.message
    assert "Shard it over more accelerators" in refused.message


def test_a_host_holds_a_model_that_is_sharded_once_whatever_the_number_of_its_processes() -> None:
    two, eight = (
        int(
            plan_container_memory(spec("lora", accelerators_per_node=count, sharding="full"), model(), accelerator())[
                :-2
            ]
        )
        for count in (2, 8)
    )
    assert (eight - two) * 2**20 == 6 * 2 * GIB
    assert 2 * PARAMETERS < two * 2**20 < 2 * 2 * PARAMETERS
    # What a checkpoint is written from is there after the model was read.
    full = plan_container_memory(spec("full", accelerators_per_node=2), model(), accelerator())
    assert 12 * PARAMETERS < int(full[:-2]) * 2**20 < 14 * PARAMETERS


def test_each_process_of_a_pod_reads_the_model_by_itself() -> None:
    one, eight = (
        int(plan_container_memory(spec(accelerators_per_node=count), model(), accelerator()).removesuffix("Mi"))
        for count in (1, 8)
    )
    assert eight * 2**20 > 8 * 2 * PARAMETERS
    assert eight < 8 * one


def host_bytes(each: FineTuneJobSpec, taught_by: LLMModel | None = None) -> int:
    """What the container asks for beside accelerators that hold everything."""
    return int(plan_container_memory(each, model(), accelerator("640Gi"), taught_by).removesuffix("Mi")) * 2**20


@pytest.mark.parametrize("processes", [1, 8])
@pytest.mark.parametrize(
    ("tuning", "precision", "read", "copied"),
    [("full", "auto", 8, 12), ("full", "float32", 8, 12), ("lora", "auto", 2, 0), ("lora", "float32", 4, 0)],
)
def test_each_process_reads_the_model_in_the_type_that_it_trains_with_or_its_moments(
    processes: int, tuning: str, precision: str, read: int, copied: int
) -> None:
    """Both moments of what is learned are more than its float32 weights; a checkpoint is written by one of them."""
    each = spec(tuning, accelerators_per_node=processes, precision=precision, sharding="none")
    adapter = 0 if copied else 12 * count_adapter_parameters(architecture(), each.method.lora)
    expected = processes * (2 * GIB + read * PARAMETERS) + copied * PARAMETERS + adapter
    assert expected <= host_bytes(each) < expected + GIB


def test_each_process_reads_the_teacher_in_the_compute_type_where_that_is_more() -> None:
    two, one = (
        host_bytes(spec(task="distill", accelerators_per_node=count, precision="float32"), teacher())
        for count in (2, 1)
    )
    assert two - one == pytest.approx(2 * GIB + 4 * 9 * PARAMETERS, abs=GIB)


def test_a_shorter_length_takes_less() -> None:
    short = spec(hyperparameters={"maxLength": 512})
    long = spec(hyperparameters={"maxLength": 4096})
    sizes = [compute_training_memory(each, architecture()).activations_gib for each in (short, long)]
    assert sizes[1] == pytest.approx(8 * sizes[0])


def test_the_container_asks_for_what_the_user_says_or_what_is_planned() -> None:
    assert plan_container_memory(spec(memory="7Gi"), model(), None) == "7Gi"
    on_processor = plan_container_memory(spec(class_name="cpu"), model(), None)
    assert int(on_processor.removesuffix("Mi")) * 2**20 > 4 * PARAMETERS
    assert int(on_processor.removesuffix("Mi")) % 256 == 0


@pytest.mark.parametrize(("class_name", "beside"), [("cpu", 16 * PARAMETERS), ("h100", 2 * PARAMETERS)])
def test_the_container_has_room_for_the_copy_that_a_checkpoint_is_written_from(class_name: str, beside: int) -> None:
    planned = plan_container_memory(
        spec("full", class_name), model(), None if class_name == "cpu" else accelerator(memory="640Gi")
    )
    assert int(planned.removesuffix("Mi")) * 2**20 > beside + 12 * PARAMETERS


@pytest.mark.parametrize(
    ("tuning", "kind", "copies"), [("lora", None, 1), ("lora", "merged", 2), ("full", None, 4)], ids=str
)
def test_preferences_take_two_answers_at_once_and_a_reference_beside_what_is_no_adapter(
    tuning: str, kind: str | None, copies: int
) -> None:
    """Copies in bfloat16: frozen weights; these and the reference; float32 (two), its cast and the reference."""
    plain, paired = (
        compute_training_memory(spec(tuning, kind=kind, task=task), architecture()) for task in ("causal-lm", "dpo")
    )
    assert paired.weights_gib * GIB == pytest.approx(copies * 2 * PARAMETERS)
    assert paired.activations_gib == pytest.approx(2 * plain.activations_gib)
    assert paired.states_gib == plain.states_gib


@pytest.mark.parametrize(
    ("task", "rows"), [("token-classification", 1), ("sequence-classification", 1), ("embedding", 2)]
)
def test_what_does_not_speak_has_no_logits_of_a_vocabulary(task: str, rows: int) -> None:
    plain, labelled = (compute_training_memory(spec(task=each), architecture()) for each in ("causal-lm", task))
    logits = (2 + 8) * 2048 * 128256
    assert (plain.activations_gib - labelled.activations_gib / rows) * GIB == pytest.approx(logits)
    assert (plain.weights_gib, plain.states_gib) == (labelled.weights_gib, labelled.states_gib)


@pytest.mark.parametrize(("kind", "is_enough"), [("adapter", False), ("merged", True)])
def test_the_host_has_room_for_the_float32_weights_that_are_merged(kind: str, *, is_enough: bool) -> None:
    planned = plan_container_memory(spec(kind=kind), model(), accelerator())
    assert (int(planned.removesuffix("Mi")) * 2**20 > 4 * PARAMETERS) == is_enough


def test_a_host_that_merges_has_room_for_the_processes_that_wait_for_it() -> None:
    shared, alone = (
        int(
            plan_container_memory(
                spec(kind="merged", accelerators_per_node=8, sharding=sharding), model(), accelerator("16Gi")
            ).removesuffix("Mi")
        )
        for sharding in ("full", "none")
    )
    merging = 1.1 * 4 * PARAMETERS + 1.5 * GIB
    assert shared * 2**20 >= merging + 7 * 2 * GIB
    assert alone * 2**20 >= merging


def teacher() -> LLMModel:
    """Nine times as large as the student, and of the same vocabulary."""
    weights = [{"part": "mlp", "parameters": 9 * PARAMETERS, "bytes": 18 * PARAMETERS, "split": "tensor"}]
    return model(layers=80, hiddenSize=8192, attentionHeads=64, intermediateSize=28672, weights=weights)


def test_a_teacher_takes_its_weights_and_what_it_says() -> None:
    taught, plain = spec(task="distill"), spec()
    resolved = teacher().status.resolved
    assert resolved is not None
    alone, both = (
        compute_training_memory(plain, architecture()),
        compute_training_memory(taught, architecture(), resolved.config),
    )
    assert both.teacher_gib * GIB == pytest.approx(2 * 9 * PARAMETERS)
    assert (both.weights_gib, both.states_gib) == (alone.weights_gib, alone.states_gib)
    said = (2 + 16) * 2048 * 128256
    assert both.activations_gib * GIB == pytest.approx(alone.activations_gib * GIB + said)
    assert both.needs_gib > alone.needs_gib + both.teacher_gib


def test_a_teacher_that_does_not_fit_beside_its_student_is_refused_with_its_number() -> None:
    assert refuse_memory(spec(task="distill"), model(), accelerator("80Gi"), model()) is None
    refused = refuse_memory(spec(task="distill"), model(), accelerator("80Gi"), teacher())
    assert refused is not None
    assert refused.reason is Reason.DoesNotFit
    assert "134.1 those of the teacher" in refused.message
    assert refuse_memory(spec(task="distill"), model(), accelerator("192Gi"), teacher()) is None


def test_a_teacher_of_which_nothing_is_known_is_refused() -> None:
    unknown = LLMModel.model_validate({"metadata": {"name": "t"}, "spec": {"source": {"uri": "hf://a/t"}}})
    refused = refuse_memory(spec(task="distill"), model(), accelerator(), unknown)
    assert refused is not None
    assert refused.reason is Reason.UnknownArchitecture


@pytest.mark.parametrize("kind", [None, "merged"])
def test_the_container_has_room_for_the_teacher_also_while_it_merges(kind: str | None) -> None:
    on_processor = plan_container_memory(spec(class_name="cpu", task="distill", kind=kind), model(), None, teacher())
    assert int(on_processor.removesuffix("Mi")) * 2**20 > 1.1 * 4 * (9 + 1) * PARAMETERS
    # Beside an accelerator both are only read through it, one after the other.
    beside = plan_container_memory(spec(task="distill"), model(), accelerator(), teacher())
    assert 18 * PARAMETERS < int(beside.removesuffix("Mi")) * 2**20 < 20 * PARAMETERS
