"""Command line and start-up of the simulator: which engine to imagine, and what is wrong with it from the start.

The defaults imagine an 8-billion-parameter model in 16 bits on one H100: 16 GB of weights at 3.35 TB/s and about 70 %
of it usable make 7 ms a decode step, a KV cache of about 50 GiB at 128 KiB a token holds 26,000 blocks of 16 tokens.

What a real engine refuses at its start is refused here in vLLM's own words, so that the code that reads those words
(llmos_workers.serve.failures) meets the same text from both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

from llmos_workers.simulate.gang import Meeting
from llmos_workers.simulate.scheduler import Limits, Timing
from llmos_workers.simulate.tokens import BLOCK_TOKENS

DEFAULT_MODEL_LEN: Final = 8192
DEFAULT_EMBEDDING_SIZE: Final = 384

StartFault = Literal["oom", "badarg", "crash", "hang"]


class StartError(Exception):
    """The simulator cannot start with these settings; the message is what vLLM would say."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong on request. Readiness probes count as requests."""

    at_start: StartFault | None = None
    crash_after_requests: int | None = None
    hang_after_requests: int | None = None
    error_rate: float = 0.0
    delay_s: float = 0.0
    adapter: str = ""
    """The adapter whose requests alone have errors and delays; empty: all have."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the simulator reads from a model's config.json. None = not said there."""

    max_model_len: int | None = None
    embedding_size: int | None = None


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """How many adapters are kept, and how large their ranks may be."""

    max_cpu_loras: int
    max_lora_rank: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the server needs to know."""

    served_model_name: str
    host: str
    port: int
    seed: int
    runner: Literal["generate", "pooling"]
    mean_output_tokens: int
    max_num_queued_reqs: int
    embedding_size: int
    limits: Limits
    timing: Timing
    faults: Faults
    start_delay_s: float
    shutdown_timeout_s: int
    meeting: Meeting
    adapters: AdapterLimits | None = None
    """None if no adapters can be loaded."""


def build_parser() -> argparse.ArgumentParser:
    """The simulator's arguments. Anything else is refused with argparse's "unrecognized arguments", as by vLLM."""
    parser = argparse.ArgumentParser(
        prog="llmos-simulate",
        description="An OpenAI-compatible server that imitates vLLM's scheduling and timing without a GPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model-dir", default="none", help="folder with a config.json to take sizes from, or none")
    add("--served-model-name", default="simulated", help="name of the model in requests and metrics")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8000, help="port to listen on")
    add("--seed", type=int, default=0, help="equal seeds and requests give equal answers")
    add("--runner", choices=("generate", "pooling"), default="generate", help="pooling answers embeddings only")
    add("--output-tokens", type=_positive, default=128, help="mean length of an answer that nothing cuts")
    add("--shutdown-timeout", type=int, default=10, help="seconds that requests in flight get at SIGTERM")
    add("--start-delay-s", type=float, default=0.0, help="seconds that loading the model takes")
    _add_sizes(parser)
    _add_adapters(parser)
    _add_gang(parser)
    _add_faults(parser)
    return parser


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--prefill-tokens-per-s", type=float, default=25000.0, help="prompt tokens computed per second")
    add("--decode-step-ms", type=float, default=7.0, help="milliseconds of a step before anything else")
    add("--decode-step-ms-per-seq", type=float, default=0.03, help="milliseconds that each decoding sequence adds")
    add("--max-num-seqs", type=_positive, default=256, help="sequences in one batch")
    add("--max-num-batched-tokens", type=_positive, default=8192, help="tokens computed in one step")
    add("--max-model-len", type=_positive, help="longest prompt plus answer in tokens; empty = the model's")
    add("--kv-blocks", type=_positive, default=26000, help=f"KV cache in blocks of {BLOCK_TOKENS} tokens")
    add("--max-num-queued-reqs", type=_positive, default=16384, help="requests held at once; more get status 503")
    add("--tensor-parallel-size", type=_positive, default=1, help="recorded only: give the timing of the whole group")
    add("--pipeline-parallel-size", type=_positive, default=1, help="recorded only, as above")


def _add_adapters(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--enable-lora", action="store_true", help="serve adapters beside the model")
    add("--max-loras", type=_positive, default=1, help="adapters in one batch: recorded only")
    add("--max-cpu-loras", type=_positive, help="adapters kept; empty = as many as in one batch")
    add("--max-lora-rank", type=_positive, default=16, help="adapters of a larger rank are refused")


def _add_gang(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--nnodes", type=_positive, default=1, help="engines of the gang")
    add("--node-rank", type=int, default=0, help="which of them this is; 0 leads and answers")
    add("--master-addr", default="127.0.0.1", help="address of the leader")
    add("--master-port", type=int, default=29500, help="port of the leader where the others connect")
    add("--headless", action="store_true", help="follow the leader and answer nothing")


def _add_faults(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--fault-start", choices=("oom", "badarg", "crash", "hang"), help="fail like this instead of starting")
    add("--fault-slow-start-s", type=float, default=0.0, help="seconds that loading takes longer than it should")
    add("--fault-crash-after-requests", type=int, help="serve this many requests, die at the next")
    add("--fault-hang-after-requests", type=int, help="serve this many requests, then compute no further step")
    add("--fault-error-rate", type=_share, default=0.0, help="share of requests answered with status 500, 0 to 1")
    add("--fault-delay-s", type=float, default=0.0, help="seconds that a request waits before it is looked at")
    add("--fault-adapter", default="", help="adapter whose requests alone have these errors and delays; empty = all")


def parse_settings(argv: Sequence[str]) -> Settings:
    """Settings of a command line.

    Raises:
        SystemExit: argparse refused an argument (status 2).
        StartError: the sizes do not go together, or the model's files are not there.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    facts = observe_model_facts(args.model_dir)
    return Settings(
        served_model_name=args.served_model_name,
        host=args.host,
        port=args.port,
        seed=args.seed,
        runner=args.runner,
        mean_output_tokens=args.output_tokens,
        max_num_queued_reqs=args.max_num_queued_reqs,
        embedding_size=facts.embedding_size or DEFAULT_EMBEDDING_SIZE,
        limits=build_limits(args, facts),
        timing=Timing(args.prefill_tokens_per_s, args.decode_step_ms, args.decode_step_ms_per_seq),
        faults=Faults(
            at_start=args.fault_start,
            crash_after_requests=args.fault_crash_after_requests,
            hang_after_requests=args.fault_hang_after_requests,
            error_rate=args.fault_error_rate,
            delay_s=args.fault_delay_s,
            adapter=args.fault_adapter,
        ),
        start_delay_s=args.start_delay_s + args.fault_slow_start_s,
        shutdown_timeout_s=args.shutdown_timeout,
        meeting=Meeting(args.nnodes, args.node_rank, args.master_addr, args.master_port),
        adapters=_parse_adapters(args),
    )


def _parse_adapters(args: argparse.Namespace) -> AdapterLimits | None:
    return AdapterLimits(args.max_cpu_loras or args.max_loras, args.max_lora_rank) if args.enable_lora else None


def build_limits(args: argparse.Namespace, facts: ModelFacts) -> Limits:
    """Sizes of the engine, checked in the order and the words of vLLM.

    Raises:
        StartError: they do not go together.
    """
    asked, derived = args.max_model_len, facts.max_model_len
    if asked is not None and derived is not None and asked > derived:
        raise StartError(
            f"User-specified max_model_len ({asked}) is greater than the derived max_model_len "
            f"(max_position_embeddings={derived} or model_max_length=None in model's config.json)."
        )
    model_len = asked or derived or DEFAULT_MODEL_LEN
    held = args.kv_blocks * BLOCK_TOKENS
    if model_len > held:
        raise StartError(
            f"To serve at least one request with the model's max seq len ({model_len}), "
            f"({-(-model_len // BLOCK_TOKENS)} blocks of KV cache is needed, which is larger than the available "
            f"KV cache memory ({args.kv_blocks} blocks). Based on the available memory, the estimated maximum model "
            f"length is {held}. "
            "Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
        )
    try:
        return Limits(args.max_num_seqs, args.max_num_batched_tokens, model_len, args.kv_blocks)
    except ValueError as error:
        raise StartError(f"1 validation error for SchedulerConfig\n  Value error, {error}") from error


def observe_model_facts(model_dir: str) -> ModelFacts:
    """Sizes from the config.json in `model_dir`, none for "none".

    Raises:
        StartError: there is no such file, or it is not JSON.
    """
    if model_dir == "none":
        return ModelFacts()
    path = Path(model_dir) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartError(f"Can't load the configuration of '{model_dir}': {error}") from error
    return compute_model_facts(cast("Mapping[str, object]", config))


def compute_model_facts(config: Mapping[str, object]) -> ModelFacts:
    """Sizes that a config.json names, at its top or in the text part of a multimodal model."""
    text = config.get("text_config")
    merged = {**config, **text} if isinstance(text, dict) else dict(config)

    def read(*names: str) -> int | None:
        return next((value for name in names if isinstance(value := merged.get(name), int)), None)

    return ModelFacts(read("max_position_embeddings", "n_positions"), read("hidden_size", "n_embd"))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value
