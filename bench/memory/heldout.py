"""How good the planner is on models and engine versions that its constants never saw.

The shipped constants were fitted on the very rows they are scored on, so that score flatters. Two harder ones:

* leave one family out: for every family, the constants of each engine version (copies of the logits, non-torch memory)
  are fitted again on the rows of all other families, and score the rows of that family. What no other family tells (a
  version with rows of one family only) is taken from the next newer version, else the next older.
* leave one version out: the rows of each version are predicted with the constants of the neighbouring version, as if
  that version were new. This is what an engine upgrade costs until its logs have been added.

The three constants of the activation formula that no version owns (4.25, 0.035 GiB, 0.06 GiB) and those of CUDA graphs
are not fitted again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from bench.memory.observations import Observation
from bench.memory.scoring import Prediction, predict
from llmos_operator.planning.engine_profile import (
    PROFILES,
    EngineProfile,
    compute_activation_gib,
    compute_batch,
    find_profile,
)

_COPIES_GRID = tuple(step / 20 for step in range(20, 241))


def predict_leaving_family_out(observations: Sequence[Observation]) -> list[Prediction]:
    """Every observation, predicted with constants of the other families."""
    predictions = []
    for family in sorted({observation.architecture.family for observation in observations}):
        others = [observation for observation in observations if observation.architecture.family != family]
        profiles = fit_profiles(others)
        predictions += [
            predict(observation, profiles) for observation in observations if observation.architecture.family == family
        ]
    return predictions


def predict_leaving_version_out(observations: Sequence[Observation]) -> list[Prediction]:
    """Every observation, predicted with the constants of the neighbouring version."""
    predictions = []
    for observation in observations:
        own = find_profile(observation.settings.version)
        index = PROFILES.index(own)
        neighbour = PROFILES[index - 1] if index else PROFILES[1]
        stranger = replace(
            neighbour,
            since=own.since,
            counts_cuda_graphs=own.counts_cuda_graphs,
            default_utilization=own.default_utilization,
        )
        profiles = tuple(stranger if profile is own else profile for profile in PROFILES)
        predictions.append(predict(observation, profiles))
    return predictions


def fit_profiles(observations: Sequence[Observation]) -> tuple[EngineProfile, ...]:
    """The constants of every version that these observations give."""
    fitted: list[EngineProfile | None] = [_fit(profile, observations) for profile in PROFILES]
    complete = []
    for index, (profile, fit) in enumerate(zip(PROFILES, fitted, strict=True)):
        donors = [*fitted[index + 1 :], *reversed(fitted[:index])]
        donor = fit or next((other for other in donors if other is not None), profile)
        complete.append(
            replace(
                donor,
                since=profile.since,
                counts_cuda_graphs=profile.counts_cuda_graphs,
                default_utilization=profile.default_utilization,
            )
        )
    return tuple(complete)


def _fit(profile: EngineProfile, observations: Sequence[Observation]) -> EngineProfile | None:
    own = [
        observation
        for observation in observations
        if find_profile(observation.settings.version) is profile and observation.pipeline_parallel_size == 1
    ]
    if not any(observation.activation_gib for observation in own):
        return None
    single = _median_non_torch(own, {1}) or profile.non_torch_gib
    pair = _median_non_torch(own, {2}) or single
    doublings = [
        (observation.non_torch_gib - pair) / (math.log2(observation.tensor_parallel_size) - 1)
        for observation in own
        if observation.tensor_parallel_size > 2 and observation.non_torch_gib is not None
    ]
    return replace(
        profile,
        logit_copies=_fit_copies(profile, own),
        non_torch_gib=single,
        non_torch_group_gib=pair,
        non_torch_doubling_gib=statistics.median(doublings) if doublings else 0.0,
    )


def _median_non_torch(observations: Sequence[Observation], sizes: set[int]) -> float | None:
    values = [
        observation.non_torch_gib
        for observation in observations
        if observation.tensor_parallel_size in sizes and observation.non_torch_gib is not None
    ]
    return statistics.median(values) if values else None


def _fit_copies(profile: EngineProfile, observations: Sequence[Observation]) -> float:
    """The number of copies with the smallest sum of absolute errors of the activation peak."""

    def loss(copies: float) -> float:
        candidate = replace(profile, logit_copies=copies)
        return sum(
            abs(_activation_gib(observation, candidate) - observation.activation_gib)
            for observation in observations
            if observation.activation_gib is not None
        )

    return min(_COPIES_GRID, key=loss)


def _activation_gib(observation: Observation, profile: EngineProfile) -> float:
    batch = compute_batch(observation.settings, observation.memory_gib, observation.max_model_len)
    return compute_activation_gib(observation.architecture, observation.tensor_parallel_size, batch, profile)
