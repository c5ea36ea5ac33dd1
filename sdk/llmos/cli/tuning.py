"""What `llmos tune` makes: the FineTuneJob of a wish, and what is checked in the cluster before it exists.

Most mistakes would only show after minutes of preparing, or hours of training, when the result is to be attached. All
that can be known at once is said at once, with what to do about it. The wish's own contradictions are found without a
cluster (`build_job`), what depends on other objects by reading these (`check_job`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from llmos.api import FineTuneJob, LLMModel
from llmos.api.meta import POD_NAME_PART
from llmos.api.names import CPU_CLASS, LABEL_JOB
from llmos.api.search import Search
from llmos.cli.gates import EVAL_LOSS, BadGateError, parse_gate
from llmos.cli.search_words import BadParameterError, parse_parameter
from llmos.client import Client, ForbiddenError, InvalidError, NotFoundError, Verdict, judge
from llmos.client.readiness import build_not_ready, ready_condition

MAX_TRIALS: Final[int] = Search.model_fields["max_trials"].default
_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME: Final = 40
_SCHEMES: Final = ("hf", "s3", "gs", "oci", "https", "http", "pvc", "pypi")
_URI: Final = re.compile(rf"({'|'.join(_SCHEMES)})://\S+")


class BadWishError(ValueError):
    """An option is wrong or contradicts another; `option` names it."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


@dataclass(frozen=True)
class TuneWish:
    """The options of the command. None leaves the choice to the API's default."""

    name: str
    base: str
    data: str
    format: str | None = None
    method: str = "lora"
    output: str | None = None
    secret: str | None = None
    attach: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    epochs: float | None = None
    max_steps: int | None = None
    learning_rate: float | None = None
    batch_tokens: int | None = None
    max_length: int | None = None
    seed: int | None = None
    rank: int | None = None
    alpha: int | None = None
    eval_fraction: float | None = None
    pii: str | None = None
    near_dedup: float | None = None
    patience: int | None = None
    replaces: str | None = None
    weight: int | None = None
    promote_after: str | None = None
    storage: str | None = None
    storage_class: str | None = None
    memory: str | None = None
    nodes: int | None = None
    accelerators: int | None = None
    teacher: str | None = None
    temperature: float | None = None
    teacher_share: float | None = None
    search: str | None = None
    tries: tuple[str, ...] = ()
    trials: int | None = None
    parallel: int | None = None
    budget: float | None = None


def build_job(wish: TuneWish, class_name: str) -> FineTuneJob:
    """The job, with only those fields set that the wish sets.

    Raises:
        BadWishError: the wish contradicts itself, or an option is wrong.
    """
    _check_names(wish)
    _check_contradictions(wish)
    _check_teacher(wish)
    _check_search(wish)
    if class_name == CPU_CLASS and (wish.accelerators or 1) > 1:
        raise BadWishError("--accelerators", "a node of class cpu has one: give --nodes, or another --class")
    suites = [_parse_suite(text, wish) for text in wish.suites]
    metrics = _find_metrics(suites, wish)
    try:
        gates = [parse_gate(text, metrics) for text in wish.gates]
        manifest = {"metadata": {"name": wish.name}, "spec": _build_spec(wish, class_name)}
        if evaluate := _drop_empty({"suites": suites, "gates": [gate.to_manifest() for gate in gates]}):
            manifest["spec"]["evaluate"] = evaluate
        return FineTuneJob.model_validate(manifest)
    except BadGateError as error:
        raise BadWishError("--gate", str(error)) from error
    except ValidationError as error:
        raise _explain(error) from error


def _build_spec(wish: TuneWish, class_name: str) -> dict[str, Any]:
    numbers = {
        "epochs": wish.epochs,
        "maxSteps": wish.max_steps,
        "learningRate": wish.learning_rate,
        "batchTokens": wish.batch_tokens,
        "maxLength": wish.max_length,
        "seed": wish.seed,
    }
    clean = {"pii": wish.pii, "nearDedup": _drop_empty({"threshold": wish.near_dedup})}
    dataset = {
        "source": _drop_empty({"uri": wish.data, "secretRef": wish.secret and {"name": wish.secret}}),
        "format": _drop_empty({"type": wish.format}),
        "clean": _drop_empty(clean),
        "split": _drop_empty({"evalFraction": wish.eval_fraction}),
    }
    lora = _drop_empty({"rank": wish.rank, "alpha": wish.alpha})
    trainer = {
        "accelerator": {"class": class_name},
        "nodes": wish.nodes,
        "acceleratorsPerNode": wish.accelerators,
        "memory": wish.memory,
        "hyperparameters": _drop_empty(numbers),
    }
    canary = {"replaces": wish.replaces, "weight": wish.weight, "promoteAfter": wish.promote_after}
    attach = [_drop_empty({"pool": pool, **canary}) for pool in wish.attach]
    return _drop_empty(
        {
            "baseModelRef": {"name": wish.base},
            "method": _drop_empty({**_build_task(wish), "tuning": wish.method, "lora": lora}),
            "dataset": _drop_empty(dataset),
            "trainer": _drop_empty(trainer),
            "checkpoint": _drop_empty({"storage": _build_storage(wish)}),
            "earlyStopping": None if wish.patience is None else {"patience": wish.patience},
            "search": _build_search(wish),
            "output": _drop_empty({"name": wish.output or wish.name, "attachTo": attach}),
        }
    )


def _build_task(wish: TuneWish) -> dict[str, Any]:
    if wish.teacher is None:
        return {}
    taught = {"teacherRef": {"name": wish.teacher}, "temperature": wish.temperature, "alpha": wish.teacher_share}
    return {"task": "distill", "distill": _drop_empty(taught)}


def _build_storage(wish: TuneWish) -> dict[str, Any]:
    # Several nodes can share no other claim.
    access = "ReadWriteMany" if (wish.nodes or 1) > 1 else None
    return _drop_empty({"size": wish.storage, "storageClassName": wish.storage_class, "accessMode": access})


def _build_search(wish: TuneWish) -> dict[str, Any]:
    if not wish.tries:
        return {}
    numbers = {"maxTrials": wish.trials, "parallelism": wish.parallel, "budgetAcceleratorHours": wish.budget}
    try:
        parameters = [parse_parameter(text) for text in wish.tries]
    except BadParameterError as error:
        raise BadWishError("--try", str(error)) from error
    return _drop_empty({"algorithm": wish.search, **numbers, "parameters": parameters})


def _drop_empty(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was not said."""
    return {name: value for name, value in fields.items() if value not in (None, (), [], {})}


def _check_names(wish: TuneWish) -> None:
    if not _NAME.fullmatch(wish.name) or len(wish.name) > _LONGEST_NAME:
        raise BadWishError("--name", f"{wish.name!r}: {POD_NAME_PART.message}")
    _check_uri("--data", wish.data)


def _check_uri(option: str, uri: str) -> None:
    if "://" not in uri and Path(uri).exists():
        raise BadWishError(
            option,
            f"{uri} is a file of this machine, which the cluster cannot read: put it on a web server, into a "
            "bucket or a claim, and name it as https://, s3:// or pvc://",
        )
    if not _URI.fullmatch(uri):
        raise BadWishError(
            option,
            f"{uri!r} must start with one of {', '.join(f'{each}://' for each in _SCHEMES)} and hold no spaces",
        )


def _check_contradictions(wish: TuneWish) -> None:
    if wish.method == "full" and wish.attach:
        raise BadWishError(
            "--attach", "only adapters are attached: leave --method at lora, or serve the result by a pool of its own"
        )
    if wish.method == "full" and (wish.rank or wish.alpha):
        raise BadWishError("--rank" if wish.rank else "--alpha", "an adapter has it, and --method full makes none")
    if wish.epochs is not None and wish.max_steps is not None:
        raise BadWishError("--max-steps", "it takes the place of --epochs: give one of them")
    if wish.eval_fraction == 0 and wish.patience is not None:
        raise BadWishError("--patience", "it needs held-out examples: give --eval-fraction above 0")
    if wish.replaces and not wish.attach:
        raise BadWishError("--replaces", "it says what is replaced in the pools of --attach: name one")
    if not wish.replaces and (wish.weight or wish.promote_after):
        option = "--weight" if wish.weight else "--promote-after"
        raise BadWishError(option, "only a canary has it: name with --replaces what it replaces")
    if wish.replaces == (wish.output or wish.name):
        raise BadWishError("--replaces", f"{wish.replaces} is the name of the result itself: name the result otherwise")
    if (wish.output or wish.name) == wish.base:
        raise BadWishError("--name", f"{wish.base} is the base model: name the result otherwise")


def _check_teacher(wish: TuneWish) -> None:
    if wish.teacher is None and (wish.temperature or wish.teacher_share):
        option = "--temperature" if wish.temperature else "--teacher-share"
        raise BadWishError(option, "it says how a teacher is learned from: name one with --teacher")
    if wish.teacher == wish.base:
        raise BadWishError("--teacher", f"{wish.base} is the base model, and cannot teach itself")


def _check_search(wish: TuneWish) -> None:
    numbers = (("--trials", wish.trials), ("--parallel", wish.parallel), ("--budget", wish.budget))
    said = (("--search", wish.search), *numbers)
    if not wish.tries:
        if option := next((name for name, value in said if value is not None), None):
            raise BadWishError(option, "it needs something to vary: give --try, such as --try rank=8,16,32")
        return
    if (wish.nodes or 1) > 1:
        raise BadWishError("--nodes", "each trial of a search trains on one node: leave it out, or --try")
    if (wish.parallel or 1) > (wish.trials or MAX_TRIALS):
        raise BadWishError("--parallel", f"it must not be above --trials, which is {wish.trials or MAX_TRIALS}")
    if wish.eval_fraction == 0:
        raise BadWishError("--eval-fraction", "trials are compared by held-out examples: give one above 0")
    found = _build_search(wish)["parameters"]
    names = [each["name"] for each in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadWishError("--try", f"{twice} is given twice")
    if wish.method == "full" and (of_adapter := {"rank", "alpha", "dropout"} & {*names}):
        raise BadWishError("--try", f"{min(of_adapter)} is an adapter's, and --method full makes none")
    if wish.search == "grid" and any("values" not in each for each in found):
        raise BadWishError("--try", "a grid has values, such as rank=8,16,32, and no ranges")


def _parse_suite(text: str, wish: TuneWish) -> dict[str, Any]:
    name, _, uri = text.partition("=")
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise BadWishError("--suite", f"{text!r} is no NAME or NAME=URI, where NAME has only a-z, 0-9 and _")
    if not uri and wish.eval_fraction == 0:
        raise BadWishError("--suite", f"{name} has no URI and --eval-fraction 0 holds nothing out: give one of them")
    if uri:
        _check_uri("--suite", uri)
    metrics = ["loss"] if wish.format == "text" else ["loss", "exact_match"]
    metrics += ["kl"] if wish.teacher else []
    return {"name": name, "metrics": metrics} | ({"source": {"uri": uri}} if uri else {})


def _find_metrics(suites: list[dict[str, Any]], wish: TuneWish) -> frozenset[str]:
    """Names of what the job computes of base and result."""
    of_suites = {f"{suite['name']}_{metric}" for suite in suites for metric in suite["metrics"]}
    held_out = {EVAL_LOSS, *(["eval_kl"] if wish.teacher else [])}
    return frozenset(of_suites if wish.eval_fraction == 0 else {*held_out, *of_suites})


def _explain(error: ValidationError) -> BadWishError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    last = [str(part) for part in first["loc"][-2:]]
    option = _OPTIONS.get(".".join(last)) or _OPTIONS.get(last[-1], path)
    return BadWishError(option, f"{first['input']!r}: {first['msg']} ({path})")


_OPTIONS: Final = {
    "uri": "--data",
    "size": "--storage",
    "memory": "--memory",
    "class": "--class",
    "type": "--format",
    "tuning": "--method",
    "pii": "--pii",
    "name": "--base",
    "pool": "--attach",
    "replaces": "--replaces",
    "weight": "--weight",
    "promoteAfter": "--promote-after",
    "epochs": "--epochs",
    "maxSteps": "--max-steps",
    "learningRate": "--learning-rate",
    "batchTokens": "--batch-tokens",
    "maxLength": "--max-length",
    "seed": "--seed",
    "rank": "--rank",
    "alpha": "--alpha",
    "evalFraction": "--eval-fraction",
    "patience": "--patience",
    "threshold": "--near-dedup",
    "storageClassName": "--storage-class",
    "nodes": "--nodes",
    "acceleratorsPerNode": "--accelerators",
    "teacherRef.name": "--teacher",
    "temperature": "--temperature",
    "distill.alpha": "--teacher-share",
    "maxTrials": "--trials",
    "parallelism": "--parallel",
    "budgetAcceleratorHours": "--budget",
}


def choose_class(client: Client) -> str:
    """The accelerator class where nobody named one: the cluster's only one, or the processor if there is none.

    Raises:
        InvalidError: there are several, or the user may not see them.
    """
    try:
        names = [each.metadata.name for each in client.accelerators.list()]
    except ForbiddenError as error:
        raise InvalidError("You may not list accelerator classes.", "Name one with --class, or give cpu.") from error
    if len(names) > 1:
        raise InvalidError("There are several accelerator classes.", f"Choose with --class: {', '.join(names)}, cpu.")
    return names[0] if names else CPU_CLASS


def check_job(client: Client, job: FineTuneJob) -> tuple[str, ...]:
    """Look at everything that the job refers to; return what is worth knowing but stops nothing.

    Raises:
        LlmosError: the job could not succeed; nothing was made.
    """
    distill = job.spec.method.distill
    models = [_check_whole(client, job.spec.base_model_ref.name, "--base", "are not tuned further")]
    if distill is not None:
        models.append(_check_whole(client, distill.teacher_ref.name, "--teacher", "teach nobody"))
    _check_class(client, job.spec.trainer.accelerator.class_name)
    _check_output(client, job)
    for target in job.spec.output.attach_to:
        _check_pool(client, target.pool, job)
    return tuple(note for model in models if (note := _say_waiting(model)))


def _say_waiting(model: LLMModel) -> str:
    condition = ready_condition(model)
    if condition is None or condition.status == "True":
        return ""
    return f"LLMModel {model.metadata.name} is not ready yet ({condition.reason}): the job waits for it."


def _check_whole(client: Client, name: str, option: str, adapters: str) -> LLMModel:
    """Return a whole model; `adapters` says why it must be no adapter."""
    try:
        model = client.models.get(name)
    except NotFoundError as error:
        names = [model.metadata.name for model in client.models.list() if model.spec.adapter is None]
        remedy = f"Choose one with {option}: {', '.join(names)}." if names else _MAKE
        raise NotFoundError(error.cause, remedy) from error
    if model.spec.adapter is not None:
        raise InvalidError(
            f"LLMModel {name} is an adapter, and adapters {adapters}.",
            f"Take its base model: {option} {model.spec.adapter.base_model_ref.name}.",
        )
    if judge(model) is Verdict.FAILED:
        raise build_not_ready(model)
    return model


_MAKE: Final = "Apply an LLMModel for it first, or look into another namespace with -n."


def _check_class(client: Client, name: str) -> None:
    if name == CPU_CLASS:
        return
    try:
        client.accelerators.get(name)
    except ForbiddenError:
        return  # The operator will tell.
    except NotFoundError as error:
        names = [each.metadata.name for each in client.accelerators.list()]
        raise NotFoundError(error.cause, f"Choose one with --class: {', '.join([*names, CPU_CLASS])}.") from error


def _check_output(client: Client, job: FineTuneJob) -> None:
    name = job.spec.output.name
    try:
        there = client.models.get(name)
    except NotFoundError:
        return
    if there.metadata.labels.get(LABEL_JOB) != job.metadata.name:
        raise InvalidError(
            f"There is an LLMModel {name} that another job or a person made; the result could not be registered.",
            "Give the result another name with --output, or delete that LLMModel.",
        )


def _check_pool(client: Client, name: str, job: FineTuneJob) -> None:
    pool = client.pools.get(name)
    base, rank = job.spec.base_model_ref.name, job.spec.method.lora.rank
    if pool.spec.model_ref.name != base:
        raise InvalidError(
            f"InferencePool {name} serves {pool.spec.model_ref.name}, and an adapter of {base} does not fit it.",
            f"Attach it to a pool of {base}, or tune --base {pool.spec.model_ref.name}.",
        )
    if pool.spec.adapters is None:
        patch = f'{{"spec":{{"adapters":{{"maxRank":{_find_max_rank(rank)}}}}}}}'
        raise InvalidError(
            f"InferencePool {name} cannot load adapters: it has no spec.adapters.",
            f"Give it some, which starts new replicas once: kubectl patch ipool {name} --type=merge -p '{patch}'",
        )
    if rank > pool.spec.adapters.max_rank:
        raise InvalidError(
            f"InferencePool {name} holds adapters up to rank {pool.spec.adapters.max_rank}, and this one has {rank}.",
            f"Lower --rank, or raise spec.adapters.maxRank of the pool to {_find_max_rank(rank)}.",
        )


def _find_max_rank(rank: int) -> int:
    """The smallest size that vLLM sets memory aside for."""
    return next(size for size in (16, 32, 64, 128, 256, 320, 512) if size >= rank)
