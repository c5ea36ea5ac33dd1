"""What a FineTuneJob asks for and will not get, though nothing stops its training: said early, with the remedy. Pure.

- A pool that is to load the adapter cannot: it is not there, takes no adapters, serves another model, or has too little
  room for the rank.
- Early stopping that can never act. It needs one evaluation to compare with and `patience` more, all before the last
  step: with S steps, one each E steps, there are (S - 1) // E of them.
- The object store takes no checkpoints (`checkpoint.storage.uri`), as the trainer says in its progress lines. Between
  two of them the warning stays as it is.
- The operator may not read the log of the attempt: it knows neither its progress nor whether it hangs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llmos.api import FineTuneJob, InferencePool
from llmos.api.finetunejob_evaluation import compute_evaluate_every

_LONGEST = 400
_STORAGE = "checkpoint.storage.uri:"
_CHECKPOINT = "checkpoint:"


def shorten(words: Iterable[str]) -> tuple[str, ...]:
    """Return what is said, each no longer than a status may be."""
    return tuple(each[:_LONGEST] for each in words if each)


def find_attach_warnings(job: FineTuneJob, pools: Iterable[InferencePool]) -> tuple[str, ...]:
    """Return what keeps pools from loading the adapter.

    Args:
        job: the job.
        pools: those of `output.attachTo` that are there and can be read.
    """
    found = {pool.metadata.name: pool for pool in pools}
    words = (_judge_pool(job, each.pool, found.get(each.pool)) for each in job.spec.output.attach_to)
    return shorten(words)


def _judge_pool(job: FineTuneJob, name: str, pool: InferencePool | None) -> str:
    base, searched = job.spec.base_model_ref.name, _find_searched_ranks(job)
    rank = int(max(searched)) if searched else _find_rank(job)
    if pool is None:
        return (
            f"output.attachTo: there is no InferencePool {name} in namespace {job.metadata.namespace}. Create it, or "
            "name another one; the adapter is registered all the same, and loaded when the pool is there."
        )
    if pool.spec.model_ref.name != base:
        return (
            f"output.attachTo: InferencePool {name} serves {pool.spec.model_ref.name}, the adapter is one of {base}: "
            f"it will not be loaded there. Name a pool whose modelRef is {base}."
        )
    if pool.spec.adapters is None:
        return (
            f"output.attachTo: InferencePool {name} takes no adapters. Set its spec.adapters, for example "
            f"{{maxLoaded: 4}}; its replicas are then started anew."
        )
    if rank > pool.spec.adapters.max_rank:
        return (
            f"output.attachTo: the adapter's rank is {'up to ' if searched else ''}{rank}, InferencePool {name} takes "
            f"at most {pool.spec.adapters.max_rank}. Raise its spec.adapters.maxRank; its replicas are then started "
            "anew."
        )
    return ""


def _find_searched_ranks(job: FineTuneJob) -> tuple[float, ...]:
    """Return the ranks between or of which a search chooses that has no result yet."""
    if job.spec.search is None or job.status.output is not None:
        return ()
    ranks = next((each for each in job.spec.search.parameters if each.name == "rank"), None)
    return () if ranks is None else ranks.values or (ranks.max or 0.0,)


def _find_rank(job: FineTuneJob) -> int:
    """Return the rank of the job's result."""
    best = next((trial for trial in job.status.trials if trial.number == job.status.best_trial), None)
    searched = (int(each.value) for each in (best.parameters if best else ()) if each.name == "rank")
    return next(searched, job.spec.method.lora.rank)


def find_warnings(
    job: FineTuneJob, *, total_steps: int, unheard: str, trouble: str | None = None, unsaved: str | None = None
) -> tuple[str, ...]:
    """Return what else does not act.

    Args:
        job: the job.
        total_steps: of the run; 0 if they are not known yet.
        unheard: why the log of the attempt cannot be read; empty if it can.
        trouble: what the attempt says is wrong with the object store; None if it was not asked in this pass.
        unsaved: why its last checkpoint could not be written; None if it was not asked in this pass.
    """
    found = (
        *_judge_stopping(job, total_steps),
        *_repeat(job, _STORAGE, "checkpoints are not uploaded. ", trouble),
        *_repeat(job, _CHECKPOINT, "", unsaved),
        *_judge_log(unheard),
    )
    return shorten(found)


def _repeat(job: FineTuneJob, subject: str, what: str, words: str | None) -> Iterator[str]:
    """Say what the attempt says; where it was not asked, what it said before."""
    if words is None:
        yield from (each for each in job.status.warnings if each.startswith(f"{subject} "))
    elif words:
        yield f"{subject} {what}{words}"


def _judge_stopping(job: FineTuneJob, total_steps: int) -> Iterator[str]:
    stopping = job.spec.early_stopping
    total = total_steps or job.spec.trainer.hyperparameters.max_steps or 0
    if stopping is None or not total:
        return
    every = compute_evaluate_every(job.spec.evaluate, total)
    before_the_end = (total - 1) // every
    if before_the_end > stopping.patience:
        return
    most = (total - 1) // (stopping.patience + 1)
    remedy = f"Set evaluate.everySteps to {most} or less" if most else "The run is too short for it"
    yield (
        f"earlyStopping cannot act: the run has {total} steps, {stopping.metric} is computed each {every}, and "
        f"patience is {stopping.patience}. {remedy}, or lower the patience."
    )


def _judge_log(unheard: str) -> Iterator[str]:
    if unheard:
        yield (
            "The operator may not read the log of the attempt: progress is not shown, and one that hangs is not "
            f"noticed. Grant its account get on pods/log. {unheard}"
        )
