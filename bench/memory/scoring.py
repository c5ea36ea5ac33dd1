"""Predicts every observation and measures how far off the predictions are.

Error of a row: |predicted - observed| / observed. MAPE is their mean. A KV cache that was zero or negative has no such
error; it counts only among the decisions. A decision is wrong in the dangerous way ("fits" where the engine refused) or
in the wasteful way (refused where the engine started); both are counted.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.memory.observations import Observation
from llmos_operator.planning.engine_profile import PROFILES, EngineProfile
from llmos_operator.planning.memory_estimate import MemoryEstimate, estimate_memory

KAITO_WEIGHT_EXPANSION = 1.02
KAITO_BASE_GIB = 2.3
KAITO_WEIGHT_OVERHEAD = 0.05


@dataclass(frozen=True)
class Prediction:
    """One observation beside what was predicted for it, in GiB for one GPU."""

    observation: Observation
    estimate: MemoryEstimate

    @property
    def kv_error_percent(self) -> float | None:
        """Error of available KV, weights predicted too."""
        return error_percent(self.estimate.available_kv_gib, self.observation.available_kv_gib)

    @property
    def kv_error_with_logged_weights_percent(self) -> float | None:
        """The same with the weights that the engine logged, as some published scores do it."""
        weights = self.observation.weights_gib
        if weights is None:
            return None
        corrected = self.estimate.available_kv_gib + self.estimate.weights_gib - weights
        return error_percent(corrected, self.observation.available_kv_gib)

    @property
    def weights_error_percent(self) -> float | None:
        """Error of the weights."""
        return error_percent(self.estimate.weights_gib, self.observation.weights_gib)

    @property
    def kaito_error_percent(self) -> float | None:
        """KAITO's formula on our weights: 2 % expansion, then 2.3 GiB + 5 % of the weights as overhead."""
        loaded = KAITO_WEIGHT_EXPANSION * self.estimate.weights_gib
        return error_percent(kaito_kv_gib(self.estimate.requested_gib, loaded), self.observation.available_kv_gib)

    @property
    def kaito_error_with_logged_weights_percent(self) -> float | None:
        """KAITO's formula on the weights that the engine logged."""
        weights = self.observation.weights_gib
        if weights is None:
            return None
        return error_percent(kaito_kv_gib(self.estimate.requested_gib, weights), self.observation.available_kv_gib)


@dataclass(frozen=True)
class Decision:
    """Whether an engine started at a length, and whether the planner would have let it."""

    row: str
    model: str
    max_model_len: int
    started: bool
    predicted_fits: bool

    @property
    def verdict(self) -> str:
        if self.started == self.predicted_fits:
            return "right"
        return "wasteful" if self.started else "dangerous"


@dataclass(frozen=True)
class Score:
    """Summary of percentage errors."""

    count: int
    mape: float
    median: float
    p95: float
    worst: float


def error_percent(predicted: float, observed: float | None) -> float | None:
    """Absolute percentage error; None where the observed value has none."""
    if observed is None or observed <= 0:
        return None
    return 100 * abs(predicted - observed) / observed


def kaito_kv_gib(requested_gib: float, weights_gib: float) -> float:
    """Available KV by the formula of KAITO's estimator (pkg/workspace/estimator/budget.go)."""
    return requested_gib - weights_gib - (KAITO_BASE_GIB + KAITO_WEIGHT_OVERHEAD * weights_gib)


def predict(observation: Observation, profiles: tuple[EngineProfile, ...] = PROFILES, length: int = 0) -> Prediction:
    """What the planner expects of this start, from the configuration alone."""
    return Prediction(
        observation,
        estimate_memory(
            observation.architecture,
            memory_gib=observation.memory_gib,
            max_model_len=length or observation.max_model_len,
            tensor_parallel_size=observation.tensor_parallel_size,
            pipeline_parallel_size=observation.pipeline_parallel_size,
            settings=observation.settings,
            profiles=profiles,
        ),
    )


def decide(observations: Iterable[Observation]) -> list[Decision]:
    """One decision for every start and every refusal that was logged."""
    decisions = []
    for observation in observations:
        lengths = {observation.max_model_len: True} if observation.started else {}
        if observation.failed_at_tokens is not None:
            lengths[observation.failed_at_tokens] = False
        for length, started in lengths.items():
            fits = predict(observation, length=length).estimate.fits
            decisions.append(Decision(observation.row, observation.model, length, started, fits))
    return decisions


def summarize(errors: Iterable[float | None]) -> Score | None:
    """Mean, median, 95th percentile (nearest rank) and maximum; None without a single error."""
    present = sorted(error for error in errors if error is not None)
    if not present:
        return None
    rank = max(0, -(-95 * len(present) // 100) - 1)
    return Score(len(present), statistics.fmean(present), statistics.median(present), present[rank], present[-1])


def summarize_by(
    predictions: Iterable[Prediction],
    key: Callable[[Observation], str],
    error: Callable[[Prediction], float | None],
) -> dict[str, Score]:
    """One score for every value of the key that has any."""
    groups: dict[str, list[float | None]] = {}
    for prediction in predictions:
        groups.setdefault(key(prediction.observation), []).append(error(prediction))
    scores = {name: summarize(errors) for name, errors in sorted(groups.items())}
    return {name: score for name, score in scores.items() if score is not None}
