"""What a replica runs at once is learned wherever the requests wait that do not fit."""

from __future__ import annotations

import pytest

from llmos_operator.planning.scaling_capacity import CROWDED_SAMPLES, Learned, learn
from llmos_operator.planning.scaling_inputs import GatewaySample, PoolSample, ReplicaSample


def learn_limit(*, queued: int, waiting: int) -> float:
    """Return the limit after seconds in which two replicas run 8 requests each."""
    learned = Learned()
    for second in range(CROWDED_SAMPLES + 1):
        sample = PoolSample(
            now_s=float(second),
            interval_s=1.0,
            gateway=GatewaySample(queued=queued, running=16),
            replicas=tuple(
                ReplicaSample(name=name, running=8, waiting=waiting, generation_tokens=400, steps=50)
                for name in ("a", "b")
            ),
        )
        learned = learn(learned, sample)
    return learned.limit


@pytest.mark.parametrize(("queued", "waiting"), [(0, 20), (40, 0), (20, 2)])
def test_requests_that_do_not_get_in_show_the_limit_in_engines_or_in_gateways(queued: int, waiting: int) -> None:
    assert learn_limit(queued=queued, waiting=waiting) == 8


def test_a_few_that_wait_show_none() -> None:
    assert learn_limit(queued=2, waiting=1) == 0
