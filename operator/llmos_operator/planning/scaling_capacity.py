"""What one replica can do, learned from what its engine counts. Pure.

An engine works in steps. A step that decodes `n` sequences and prefills `p` prompt tokens takes

    t = a + b*n + c*p

with `a` for reading the weights, `b` for a further sequence (its KV cache included) and `c` for a further prompt token.
Summed over the steps of a busy second, with `S` steps, `D` decoded tokens and `P` prefilled tokens:

    1 = a*S + b*D + c*P

Each busy second of each replica is one such equation. `a`, `b` and `c` are the non-negative least-squares solution of
all of them, older ones weighing less. The step-time form is that of Sarathi-Serve (OSDI'24) and of Vidur (MLSys'24);
here nothing is profiled beforehand.

From it follow, for `R` replicas that together take `x` prompt tokens and generate `y` tokens a second:
the share of time for work `rho = (b*y + c*x) / R`, the step `t = a / (1 - rho)`, and so the number of replicas that
holds a time per output token. Only seconds in which a replica had work at both ends count, because an engine that
waited for work says nothing about its speed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, combinations
from statistics import median
from typing import Final

from llmos.api.scaling import ReplicaCapacity
from llmos_operator.planning.scaling_inputs import PoolSample, ReplicaSample

FORGETTING: Final = 1 / 600
"""Share of its weight that an equation loses with each new one: some minutes of one busy replica."""
ENOUGH_SAMPLES: Final = 8.0
"""Busy seconds before the estimate is used."""
RESTORED_WEIGHT: Final = 60.0
"""Busy seconds that a capacity of an earlier life counts for at most; new ones then outvote it within minutes."""
PULL: Final = (1e-4, 3e-3, 1e-4)
"""How strongly what the data leave open is pulled to what was believed before. A further sequence is pulled most: at
small batches a step is all weights, so where steps and tokens are proportional the step is to blame."""
UNKNOWN_START_S: Final = 60.0
"""Start-up time before one was measured."""
FULL_KV: Final = 0.9
"""Share of the KV cache beyond which an engine begins to preempt."""
STARTS_KEPT: Final = 5
CROWDED_SAMPLES: Final = 5

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]
_ZERO: Final[Vector] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class StepModel:
    """Times of an engine step in seconds."""

    base_s: float = 0.0
    per_sequence_s: float = 0.0
    per_prompt_token_s: float = 0.0

    def compute_work(self, prompt_tokens: float, generated_tokens: float) -> float:
        """Return the replica-seconds that these tokens take beyond the base of their steps."""
        return self.per_prompt_token_s * prompt_tokens + self.per_sequence_s * generated_tokens

    def compute_step_s(self, sequences: float) -> float:
        """Return the time of a step that only decodes."""
        return self.base_s + self.per_sequence_s * sequences


@dataclass(frozen=True, slots=True)
class Learned:
    """Everything that was learned of a replica so far."""

    gram: Matrix = (_ZERO, _ZERO, _ZERO)
    moment: Vector = _ZERO
    model: StepModel = StepModel()
    samples: float = 0.0
    fastest_step_s: float = 0.0
    """Shortest mean step of a busy second; the base cannot be longer. 0 if unknown."""
    kv_per_sequence: float = 0.0
    """Share of the KV cache that one request takes. 0 if unknown."""
    limit: float = 0.0
    """Requests that an engine ran while others waited for a place. 0 if unknown."""
    crowded: int = 0
    """Samples in a row in which requests waited in all engines."""
    chunk: float = 0.0
    """Most prompt tokens that a step took, on average over a busy second."""
    starts_s: tuple[float, ...] = ()
    busy: frozenset[str] = frozenset()
    """Replicas that had work when they were last seen."""

    @property
    def is_known(self) -> bool:
        """Whether the step model rests on enough."""
        return self.samples >= ENOUGH_SAMPLES and self.model.compute_work(1.0, 1.0) > 0

    @property
    def base_share(self) -> float:
        """What the base of steps full of prompts adds to the work of prompts, as a share of it."""
        work_s = self.model.per_prompt_token_s * self.chunk
        return min(1.0, self.model.base_s / work_s) if work_s > 0 else 0.0

    @property
    def start_s(self) -> float:
        """Time from a replica's creation to its readiness, as far as known."""
        return median(self.starts_s) if self.starts_s else UNKNOWN_START_S

    @property
    def concurrency_limit(self) -> float:
        """Requests that one replica can run at once; 0 if unknown."""
        by_kv = FULL_KV / self.kv_per_sequence if self.kv_per_sequence > 0 else 0.0
        known = [limit for limit in (by_kv, self.limit) if limit > 0]
        return min(known, default=0.0)


def learn(learned: Learned, sample: PoolSample) -> Learned:
    """Return what is known after one more sample."""
    busy = [replica for replica in sample.replicas if replica.running > 0]
    steady = [replica for replica in busy if replica.name in learned.busy]
    learned = replace(
        learned,
        busy=frozenset(replica.name for replica in busy),
        starts_s=(learned.starts_s + tuple(max(0.0, start) for start in sample.started_s))[-STARTS_KEPT:],
    )
    if sample.interval_s > 0 and steady:
        for replica in steady:
            learned = _learn_steps(learned, replica, sample.interval_s)
        learned = replace(learned, model=_solve(learned))
    return _learn_limit(_learn_kv(learned, busy), sample)


def _learn_steps(learned: Learned, replica: ReplicaSample, interval_s: float) -> Learned:
    """Add one equation. Heavier seconds weigh more: the engine may have idled within a light one."""
    decoded, prefilled = float(replica.generation_tokens), float(replica.prompt_tokens)
    if decoded + prefilled <= 0:
        return learned
    # Without a counter of steps: each running sequence gets one token a step.
    steps = float(replica.steps) or max(1.0, decoded / replica.running)
    row = (steps / interval_s, decoded / interval_s, prefilled / interval_s)
    weight = min(1.0, (replica.running + replica.waiting) / 4)
    keep = 1.0 - FORGETTING * weight
    first, second, third = (_add_scaled(_scale(learned.gram[i], keep), row, weight * row[i]) for i in range(3))
    return replace(
        learned,
        gram=(first, second, third),
        moment=_add_scaled(_scale(learned.moment, keep), row, weight),
        samples=min(learned.samples + 1.0, 1e9),
        fastest_step_s=min(learned.fastest_step_s * 1.001 or interval_s / steps, interval_s / steps),
        chunk=max(learned.chunk * (1 - FORGETTING / 10), prefilled / steps),
    )


def _learn_kv(learned: Learned, busy: list[ReplicaSample]) -> Learned:
    """Learn what share of the KV cache a request takes."""
    kv = learned.kv_per_sequence
    for replica in busy:
        if 1e-4 < replica.kv_usage <= 1 and replica.running >= 2:
            share = replica.kv_usage / replica.running
            kv = share if kv == 0 else kv + (share - kv) * 0.02
    return replace(learned, kv_per_sequence=kv)


def _learn_limit(learned: Learned, sample: PoolSample) -> Learned:
    """Learn how many requests an engine runs at most, whatever limits it.

    A few requests always wait for the step that runs. If for seconds many wait for every engine, and prompts are not
    what holds them up, they cannot get in. Gateways let no more through than engines run, so most wait there.
    """
    replicas, limit = sample.replicas, learned.limit
    held = sample.gateway.queued / len(replicas) if sample.gateway and replicas else 0.0
    is_crowded = bool(replicas) and all(r.waiting + held > max(1, r.running / 4) for r in replicas)
    crowded = min(CROWDED_SAMPLES, learned.crowded + 1) if is_crowded else 0
    prompts_s = learned.model.per_prompt_token_s * sum(replica.prompt_tokens for replica in replicas)
    if crowded == CROWDED_SAMPLES and prompts_s < 0.3 * sample.interval_s * len(replicas):
        limit = sum(replica.running for replica in replicas) / len(replicas)
    elif limit:
        limit = max(limit, *(float(replica.running) for replica in replicas), 0.0)
    return replace(learned, crowded=crowded, limit=limit)


def _solve(learned: Learned) -> StepModel:
    """Return the best non-negative solution. With three unknowns every set of those that are not 0 can be tried."""
    gram, moment, before = learned.gram, learned.moment, learned.model
    believed = (before.base_s, before.per_sequence_s, before.per_prompt_token_s)
    ridge = [PULL[i] * gram[i][i] for i in range(3)]
    right = [moment[i] + ridge[i] * believed[i] for i in range(3)]
    best, best_error = _ZERO, 0.0
    for chosen in chain.from_iterable(combinations(range(3), size) for size in (1, 2, 3)):
        solution = _solve_chosen(gram, ridge, right, chosen)
        if solution is None:
            continue
        error = _compute_error(gram, ridge, right, solution)
        if error < best_error:
            best, best_error = solution, error
    return StepModel(min(best[0], learned.fastest_step_s), best[1], best[2])


def _solve_chosen(gram: Matrix, ridge: list[float], right: list[float], chosen: tuple[int, ...]) -> Vector | None:
    """Solve for the chosen unknowns with the others at 0, by Gauss elimination; None if one comes out negative."""
    rows = [[gram[i][j] + (ridge[i] if i == j else 0.0) for j in chosen] + [right[i]] for i in chosen]
    size = len(chosen)
    for pivot in range(size):
        # Also refuses what is so small that its inverse is no finite number.
        if rows[pivot][pivot] <= 1e-12:
            return None
        for below in range(pivot + 1, size):
            factor = rows[below][pivot] / rows[pivot][pivot]
            rows[below] = [value - factor * above for value, above in zip(rows[below], rows[pivot], strict=True)]
    solution = [0.0, 0.0, 0.0]
    for pivot in reversed(range(size)):
        rest = sum(rows[pivot][j] * solution[chosen[j]] for j in range(pivot + 1, size))
        solution[chosen[pivot]] = (rows[pivot][size] - rest) / rows[pivot][pivot]
    if min(solution) < 0:
        return None
    return (solution[0], solution[1], solution[2])


def _compute_error(gram: Matrix, ridge: list[float], right: list[float], x: Vector) -> float:
    """Return the squared error less its constant part."""
    quadratic = sum(x[i] * gram[i][j] * x[j] for i in range(3) for j in range(3))
    return quadratic + sum(ridge[i] * x[i] ** 2 for i in range(3)) - 2 * sum(right[i] * x[i] for i in range(3))


def _scale(vector: Vector, factor: float) -> Vector:
    return (vector[0] * factor, vector[1] * factor, vector[2] * factor)


def _add_scaled(vector: Vector, other: Vector, factor: float) -> Vector:
    return (vector[0] + other[0] * factor, vector[1] + other[1] * factor, vector[2] + other[2] * factor)


def restore_learned(capacity: ReplicaCapacity) -> Learned:
    """Return what a capacity of an earlier life says, as equations: a second filled by steps alone, by sequences alone
    and by prompt tokens alone."""
    starts_s = (capacity.start_seconds,) if capacity.start_seconds > 0 else ()
    times_s = (
        capacity.step_milliseconds / 1000,
        capacity.milliseconds_per_sequence / 1000,
        capacity.milliseconds_per_prompt_token / 1000,
    )
    if capacity.samples < ENOUGH_SAMPLES or sum(times_s) <= 0:
        return Learned(starts_s=starts_s)
    weight = min(float(capacity.samples), RESTORED_WEIGHT)
    rates = [1 / time_s if time_s > 1e-9 else 0.0 for time_s in times_s]
    gram: Matrix = (
        (weight * rates[0] ** 2, 0.0, 0.0),
        (0.0, weight * rates[1] ** 2, 0.0),
        (0.0, 0.0, weight * rates[2] ** 2),
    )
    return Learned(
        gram=gram,
        moment=(weight * rates[0], weight * rates[1], weight * rates[2]),
        model=StepModel(*times_s),
        samples=float(capacity.samples),
        fastest_step_s=times_s[0],
        limit=capacity.concurrency,
        starts_s=starts_s,
    )


def build_capacity(learned: Learned, revision: str, concurrency: float) -> ReplicaCapacity:
    """Return what is kept in status, to three digits so that it does not change with each second.

    Args:
        learned: what is known.
        revision: of the replicas that were measured.
        concurrency: requests at once at which the target still holds.
    """
    model = learned.model
    step_s = model.compute_step_s(concurrency)
    return ReplicaCapacity(
        revision=revision,
        prefill_tokens_per_second=_round(1 / model.per_prompt_token_s if model.per_prompt_token_s > 1e-9 else 0.0),
        decode_tokens_per_second=_round(concurrency / step_s if step_s > 1e-9 else 0.0),
        concurrency=_round(concurrency),
        step_milliseconds=_round(model.base_s * 1000),
        milliseconds_per_sequence=_round(model.per_sequence_s * 1000),
        milliseconds_per_prompt_token=_round(model.per_prompt_token_s * 1000),
        start_seconds=_round(median(learned.starts_s) if learned.starts_s else 0.0),
        samples=int(learned.samples),
    )


def _round(value: float) -> float:
    return float(f"{value:.3g}")
