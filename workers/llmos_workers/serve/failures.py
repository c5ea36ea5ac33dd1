"""Why an engine failed, read from its last lines and its exit status. Pure.

One rule is one known way to fail: what the engine prints, and which reason of `llmos.api.reasons` that is. The first
rule that matches any line wins, so the rules stand from the telling to the general: vLLM repeats a cause in several
processes and ends with a sentence that only points upwards ("See root cause above"). The words are those of vLLM
0.32 (kv_cache_utils.py, registry.py, config/model.py, default_loader.py), PyTorch and argparse.

Of an engine that was ready only the out-of-memory rules are asked: the others are about its start.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llmos.api.reasons import REASONS, Reason

_MAX_CAUSE: Final = 600


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, what to do, and the engine's own words: its last lines, and the one that told the cause."""

    reason: Reason
    cause: str
    lines: tuple[str, ...] = ()
    telling_line: str = ""

    @property
    def remedy(self) -> str:
        """What to do, from the table of reasons."""
        return REASONS[self.reason].remedy

    @property
    def message(self) -> str:
        """Cause and remedy in one text."""
        return f"{self.cause} {self.remedy}"


@dataclass(frozen=True, slots=True)
class _Rule:
    reason: Reason
    pattern: re.Pattern[str]
    says: str


def _rule(reason: Reason, pattern: str, says: str) -> _Rule:
    return _Rule(reason, re.compile(pattern), says)


_RULES: Final = (
    _rule(
        Reason.ContextTooLong,
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len \([a-z_]+=(\d+)",
        "A context of {0} tokens was asked for, the model has {1}.",
    ),
    _rule(
        Reason.UnknownArchitecture,
        r"Model architectures (\[.*?\]) (?:are not supported|failed to be inspected)",
        "The engine does not know the model's architecture {0}.",
    ),
    _rule(
        Reason.UnknownArchitecture,
        r"Model architecture (\S+) (?:was supported in vLLM until|is not supported in-tree)",
        "The engine does not know the model's architecture {0} any more.",
    ),
    _rule(
        Reason.UnknownArchitecture,
        r"model type `([^`]+)` but Transformers does not recognize this architecture",
        "The engine's transformers library does not know model type {0}.",
    ),
    _rule(
        Reason.UnknownArchitecture,
        r"(?:set `?trust_remote_code=True`?|contains custom code which must be executed)",
        "The model needs code of its own, which is not allowed to run.",
    ),
    _rule(
        Reason.DoesNotFit,
        r"To serve at least one request with the models?'?s? max seq len \((\d+)\), \(?(.*? KV cache is needed), "
        r"which is larger than the available KV cache memory \((.*?)\)",
        "For a context of {0} tokens {1}, but only {2} is free for it.",
    ),
    _rule(
        Reason.DoesNotFit,
        r"max seq len \((\d+)\) is larger than the maximum number of tokens that can be stored in KV cache \((\d+)\)",
        "A context of {0} tokens was asked for, the KV cache holds {1}.",
    ),
    _rule(
        Reason.DoesNotFit,
        r"No available memory for the cache blocks",
        "The weights fill the accelerator: no memory is left for the KV cache.",
    ),
    _rule(
        Reason.DoesNotFit,
        r"Free memory on device (?:\S+ )?\(([\d.]+)/([\d.]+) GiB\) on startup is less than desired",
        "Only {0} of {1} GiB of the accelerator are free: something else uses it too.",
    ),
    _rule(
        Reason.OutOfMemory,
        r"((?:CUDA|HIP|XPU) out of memory\. Tried to allocate [\d.]+ \w+)",
        "The accelerator ran out of memory ({0}).",
    ),
    _rule(
        Reason.OutOfMemory,
        r"(?:torch\.(?:cuda\.)?OutOfMemoryError|CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY)",
        "The accelerator ran out of memory.",
    ),
    _rule(
        Reason.OutOfMemory,
        r"Available memory on node \d+ \(([\d.]+)/([\d.]+) GiB\).* less than requested memory for kv \(([\d.]+) GiB\)",
        "Only {0} of the container's {1} GiB of memory were left when the engine wanted {2} GiB for its KV cache.",
    ),
    _rule(
        Reason.OutOfMemory,
        r"\b(MemoryError|std::bad_alloc|DefaultCPUAllocator: can't allocate memory|Cannot allocate memory)",
        "The engine ran out of host memory ({0}).",
    ),
    _rule(
        Reason.ModelFilesMissing,
        r"Cannot find any model weights with `(.+?)`",
        "There are no weights in {0}.",
    ),
    _rule(
        Reason.ModelFilesMissing,
        r"((?:FileNotFoundError|PermissionError): .*(?:safetensors|config|tokenizer|\.json|\.bin|\.model).*)",
        "A file of the model is missing or unreadable ({0}).",
    ),
    _rule(
        Reason.ModelFilesMissing,
        r"((?:Can't load|Couldn't instantiate|Invalid repository ID|does not appear to have a file named).*)",
        "A file of the model is missing or unreadable ({0}).",
    ),
    _rule(
        Reason.ModelFilesMissing,
        r"(SafetensorError: .*)",
        "A file of the model is broken ({0}).",
    ),
    _rule(
        Reason.BadEngineArgument,
        r"error: (unrecognized arguments: .*|ambiguous option: .*|argument .*|the following arguments are .*)",
        "The engine says: {0}.",
    ),
    _rule(Reason.BadEngineArgument, r"Value error, (.*?)(?: \[type=|$)", "The engine says: {0}"),
)


def compute_exit_failure(
    lines: Sequence[str], exit_status: int, *, was_ready: bool = False, oom_killed: bool = False
) -> Failure:
    """Why the engine ended by itself.

    `exit_status` is the negative number of a signal that ended it, as in `subprocess`; `oom_killed` says that the
    kernel killed a process of this container for memory.
    """
    if oom_killed:
        cause = "The kernel killed the engine because the container reached its memory limit."
        return Failure(Reason.OutOfMemory, cause, tuple(lines))
    for rule in _RULES:
        if was_ready and rule.reason is not Reason.OutOfMemory:
            continue
        found = next(((line, match) for line in lines if (match := rule.pattern.search(line))), None)
        if found:
            line, match = found
            cause = rule.says.format(*match.groups())[:_MAX_CAUSE]
            return Failure(rule.reason, cause, tuple(lines), line)
    return Failure(Reason.EngineCrashed, _describe_exit(exit_status, lines), tuple(lines))


def compute_start_timeout(timeout_s: float, last_answer: str | None) -> Failure:
    """Why the engine did not become ready in time. `last_answer` is None if it was never healthy."""
    if last_answer is None:
        return Failure(Reason.EngineStartTimeout, f"The engine was not healthy after {timeout_s:g} s.")
    cause = f"The engine is healthy, but generated no token within {timeout_s:g} s (last answer: {last_answer})."
    return Failure(Reason.ReadinessNeverReached, cause[:_MAX_CAUSE])


def compute_owned_arguments_failure(owned: dict[str, str]) -> Failure:
    """The user set arguments that LLMOS sets."""
    named = "; ".join(f"--{name} is set by {owner}" for name, owner in owned.items())
    return Failure(Reason.BadEngineArgument, f"Arguments that are not the engine's to take: {named}.")


def _describe_exit(exit_status: int, lines: Sequence[str]) -> str:
    last_error = next((line for line in reversed(lines) if re.search(r"\b\w*(?:Error|Exception): ", line)), "")
    words = f" Its last error: {last_error.strip()}" if last_error else ""
    if exit_status >= 0:
        return f"The engine ended by itself with status {exit_status}.{words}"[:_MAX_CAUSE]
    name = signal.Signals(-exit_status).name if -exit_status in set(signal.Signals) else str(-exit_status)
    hint = " (often the memory limit of the pod or the node)" if -exit_status == signal.SIGKILL else ""
    return f"The engine was ended by signal {name}{hint}.{words}"[:_MAX_CAUSE]
