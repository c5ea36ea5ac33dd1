"""Each known way to fail is told from the lines that a real engine prints."""

from __future__ import annotations

import pytest

from llmos.api.reasons import Reason
from llmos_workers.serve.failures import compute_exit_failure, compute_owned_arguments_failure, compute_start_timeout

# Lines of vLLM 0.32 as logged by real runs; the older wordings are those of vLLM 0.8 and before.
LOGGED = [
    (
        "api_server.py: error: unrecognized arguments: --no-such-flag 3",
        Reason.BadEngineArgument,
        "unrecognized arguments: --no-such-flag 3",
    ),
    (
        "api_server.py: error: argument --dtype: invalid choice: 'int3' (choose from 'auto', 'bfloat16')",
        Reason.BadEngineArgument,
        "invalid choice: 'int3'",
    ),
    (
        "  Value error, Total number of attention heads (4) must be divisible by tensor parallel size (3). "
        "[type=value_error, input_value=ArgsKwargs((), {'model_co...}), input_type=ArgsKwargs]",
        Reason.BadEngineArgument,
        "heads (4) must be divisible by tensor parallel size (3).",
    ),
    (
        "  Value error, User-specified max_model_len (100000) is greater than the derived max_model_len "
        "(max_position_embeddings=2048.0 or model_max_length=None in model's config.json). To allow overriding",
        Reason.ContextTooLong,
        "A context of 100000 tokens was asked for, the model has 2048.",
    ),
    (
        "  Value error, Model architectures ['FooForCausalLM'] are not supported for now. Supported architectures:",
        Reason.UnknownArchitecture,
        "['FooForCausalLM']",
    ),
    (
        "  Value error, The checkpoint you are trying to load has model type `foo` but Transformers does not recognize "
        "this architecture. This could be because of an issue with the checkpoint",
        Reason.UnknownArchitecture,
        "model type foo",
    ),
    (
        "ValueError: The repository /model contains custom code which must be executed to correctly load the model.",
        Reason.UnknownArchitecture,
        "code of its own",
    ),
    (
        "(Worker pid=32255) ERROR 11-22 17:16:39 [multiproc_executor.py:953] RuntimeError: Cannot find any model "
        "weights with `/model`",
        Reason.ModelFilesMissing,
        "no weights in /model",
    ),
    (
        "PermissionError: [Errno 13] Permission denied: '/model/model.safetensors'",
        Reason.ModelFilesMissing,
        "model.safetensors",
    ),
    (
        "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",
        Reason.ModelFilesMissing,
        "is broken",
    ),
    (
        "ValueError: To serve at least one request with the model's max seq len (4194304), (2.0 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (1.0 GiB). Based on",
        Reason.DoesNotFit,
        "For a context of 4194304 tokens 2.0 GiB KV cache is needed, but only 1.0 GiB is free for it.",
    ),
    (
        "ValueError: To serve at least one request with the model's max seq len (200), 13 blocks of KV cache is "
        "needed, which is larger than the available KV cache memory (10 blocks).",
        Reason.DoesNotFit,
        "only 10 blocks",
    ),
    (
        "ValueError: The model's max seq len (32768) is larger than the maximum number of tokens that can be stored in "
        "KV cache (10240). Try increasing `gpu_memory_utilization`",
        Reason.DoesNotFit,
        "the KV cache holds 10240",
    ),
    (
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when",
        Reason.DoesNotFit,
        "no memory is left for the KV cache",
    ),
    (
        "ValueError: Free memory on device cuda:0 (10.12/79.11 GiB) on startup is less than desired GPU memory "
        "utilization (0.92, 72.78 GiB).",
        Reason.DoesNotFit,
        "Only 10.12 of 79.11 GiB",
    ),
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has a total capacity of 79.11",
        Reason.OutOfMemory,
        "Tried to allocate 1.96 GiB",
    ),
    ("RuntimeError: CUDA error: out of memory", Reason.OutOfMemory, "accelerator ran out of memory"),
    (
        "(Worker pid=41) ERROR 11-22 18:07:43 [multiproc_executor.py:1063] ValueError: Available memory on node 0 "
        "(0.95/3.0 GiB) on kv cache allocation is less than requested memory for kv (1.0 GiB). Decrease "
        "--kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by other processes.",
        Reason.OutOfMemory,
        "0.95 of the container's 3.0 GiB",
    ),
    ("terminate called after throwing an instance of 'std::bad_alloc'", Reason.OutOfMemory, "host memory"),
]

TAIL = [
    "    raise RuntimeError(",
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}",
]


@pytest.mark.parametrize(("line", "reason", "words"), LOGGED)
def test_the_telling_line_is_found_above_the_sentence_that_points_upwards(
    line: str, reason: Reason, words: str
) -> None:
    failure = compute_exit_failure(["INFO starting", line, *TAIL], 1)
    assert failure.reason is reason
    assert words in failure.cause
    assert failure.telling_line == line
    assert failure.message.endswith(failure.remedy)


def test_the_most_telling_of_several_lines_wins() -> None:
    lines = ["  Value error, something", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."]
    assert compute_exit_failure(lines, 1).reason is Reason.OutOfMemory


def test_an_unknown_end_is_a_crash_with_its_status_and_last_error() -> None:
    failure = compute_exit_failure(["AssertionError: 3 != 4", "INFO bye"], 7)
    assert failure.reason is Reason.EngineCrashed
    assert failure.cause == "The engine ended by itself with status 7. Its last error: AssertionError: 3 != 4"


def test_a_signal_is_named_and_sigkill_explained() -> None:
    assert "signal SIGSEGV" in compute_exit_failure([], -11).cause
    assert "memory limit" in compute_exit_failure([], -9).cause


def test_a_kill_by_the_kernel_for_memory_is_told_before_anything_else() -> None:
    failure = compute_exit_failure(["  Value error, x"], 0, oom_killed=True)
    assert failure.reason is Reason.OutOfMemory
    assert "memory limit" in failure.cause


def test_an_engine_that_was_ready_did_not_fail_for_its_arguments() -> None:
    assert compute_exit_failure(["  Value error, in some request"], 1, was_ready=True).reason is Reason.EngineCrashed
    lines = ["torch.OutOfMemoryError: CUDA out of memory."]
    assert compute_exit_failure(lines, 1, was_ready=True).reason is Reason.OutOfMemory


def test_a_late_start_tells_whether_the_engine_was_ever_healthy() -> None:
    assert compute_start_timeout(60, None).reason is Reason.EngineStartTimeout
    failure = compute_start_timeout(60, "status 500: oops")
    assert failure.reason is Reason.ReadinessNeverReached
    assert "status 500: oops" in failure.cause


def test_owned_arguments_name_their_owner() -> None:
    failure = compute_owned_arguments_failure({"port": "LLMOS"})
    assert failure.reason is Reason.BadEngineArgument
    assert "--port is set by LLMOS" in failure.cause
