"""vLLM's metrics, with its names, labels and buckets, so that nothing that reads them can tell the difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_TTFT_S: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_TPOT_S: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_REQUEST_S: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0,
    40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_STEP_TOKENS: Final = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
FINISH_REASONS: Final = ("stop", "length", "abort", "error")


class Metrics:
    """One registry of an engine's metrics. Gauges are read from the engine when they are scraped."""

    def __init__(self, model_name: str, block_tokens: int, kv_blocks: int) -> None:
        self.registry = CollectorRegistry()
        self._adapters: Gauge | None = None
        self._labels = {"model_name": model_name, "engine": "0"}
        self.prompt_tokens = self._counter("prompt_tokens", "Number of prefill tokens processed.")
        self.cached_prompt_tokens = self._counter("prompt_tokens_cached", "Number of cached prompt tokens.")
        self.generation_tokens = self._counter("generation_tokens", "Number of generation tokens processed.")
        self.prefix_queries = self._counter("prefix_cache_queries", "Prefix cache queries, in queried tokens.")
        self.prefix_hits = self._counter("prefix_cache_hits", "Prefix cache hits, in cached tokens.")
        self.preemptions = self._counter("num_preemptions", "Cumulative number of preemptions.")
        self.step_tokens = self._histogram(
            "iteration_tokens_total", "Histogram of number of tokens per engine_step.", _STEP_TOKENS
        )
        self.first_token_s = self._histogram("time_to_first_token_seconds", "Time to first token.", _TTFT_S)
        self.inter_token_s = self._histogram("inter_token_latency_seconds", "Inter-token latency.", _TPOT_S)
        self.output_token_s = self._histogram(
            "request_time_per_output_token_seconds", "Time per output token, one value a request.", _TPOT_S
        )
        self.request_s = self._histogram("e2e_request_latency_seconds", "End-to-end request latency.", _REQUEST_S)
        self.queue_s = self._histogram("request_queue_time_seconds", "Time in the WAITING phase.", _REQUEST_S)
        self._finished = Counter(
            "vllm:request_success",
            "Count of processed requests.",
            [*self._labels, "finished_reason"],
            registry=self.registry,
        )
        for reason in FINISH_REASONS:
            self._finished.labels(**self._labels, finished_reason=reason)
        config = {"block_size": str(block_tokens), "num_gpu_blocks": str(kv_blocks), "enable_prefix_caching": "True"}
        Gauge(
            "vllm:cache_config_info", "Configuration of the KV cache.", ["engine", *config], registry=self.registry
        ).labels(engine="0", **config).set(1)

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add the gauge `vllm:NAME`, whose value `read` gives."""
        gauge = Gauge(f"vllm:{name}", help_text, [*self._labels], registry=self.registry)
        gauge.labels(**self._labels).set_function(read)

    def tell_adapters(self, used: Sequence[str]) -> None:
        """Say which adapters requests use, as vLLM does: labels name them, the value is the time."""
        if self._adapters is None:
            labels = ["max_lora", "waiting_lora_adapters", "running_lora_adapters"]
            self._adapters = Gauge("vllm:lora_requests_info", "LoRA requests.", labels, registry=self.registry)
        self._adapters.clear()
        told = {"max_lora": "1", "waiting_lora_adapters": "", "running_lora_adapters": ",".join(used)}
        self._adapters.labels(**told).set_to_current_time()

    def count_finished(self, reason: str) -> None:
        """Count one request that ended for `reason`, one of FINISH_REASONS."""
        self._finished.labels(**self._labels, finished_reason=reason).inc()

    def _counter(self, name: str, help_text: str) -> Counter:
        return Counter(f"vllm:{name}", help_text, [*self._labels], registry=self.registry).labels(**self._labels)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(f"vllm:{name}", help_text, [*self._labels], registry=self.registry, buckets=buckets)
        return histogram.labels(**self._labels)
