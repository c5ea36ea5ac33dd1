"""What decides the weights, read from a FineTuneJob, and nothing else.

A checkpoint goes on only with the very settings it was made with. How often is saved or evaluated is not among them:
it may be changed on a running job. New settings of a later version, which an old checkpoint does not name, are not
compared.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from llmos.api import FineTuneJob

Task = Literal["causal-lm", "dpo", "distill", "token-classification", "sequence-classification", "embedding"]
LEARNING_RATES: Final = {
    ("causal-lm", "lora"): 2e-4,
    ("causal-lm", "full"): 2e-5,
    # A preference moves a model that can speak already: a tenth of the former and less, as TRL and Zephyr have it.
    ("dpo", "lora"): 1e-5,
    ("dpo", "full"): 1e-6,
    ("distill", "lora"): 2e-4,
    ("distill", "full"): 2e-5,
    ("token-classification", "lora"): 2e-4,
    ("token-classification", "full"): 2e-5,
    ("sequence-classification", "lora"): 2e-4,
    ("sequence-classification", "full"): 2e-5,
    ("embedding", "lora"): 2e-4,
    ("embedding", "full"): 2e-5,
}


@dataclass(frozen=True)
class Settings:
    """Settings of a run. `facts` is what a checkpoint keeps of them."""

    tuning: Literal["lora", "qlora", "full"]
    rank: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]
    epochs: float
    max_steps: int | None
    learning_rate: float
    schedule: Literal["cosine", "linear", "constant"]
    warmup_fraction: float
    weight_decay: float
    max_grad_norm: float
    batch_tokens: int
    max_length: int
    seed: int
    task: Task = "causal-lm"
    beta: float = 0.1
    temperature: float = 0.05
    teacher: str = ""
    """Digest of the model that teaches (distill)."""
    teacher_temperature: float = 1.0
    teacher_share: float = 0.0

    @property
    def facts(self) -> dict[str, Any]:
        """Names and values, as JSON has them."""
        facts: dict[str, Any] = json.loads(json.dumps(vars(self)))
        return facts

    @property
    def digest(self) -> str:
        """Sha256 of the facts."""
        return "sha256:" + hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()


def build_settings(job: FineTuneJob, teacher_digest: str = "") -> Settings:
    """The settings of a job, with what it leaves out filled in."""
    method, wanted = job.spec.method, job.spec.trainer.hyperparameters
    distill = method.distill
    rate = LEARNING_RATES[method.task, "full" if method.tuning == "full" else "lora"]
    return Settings(
        tuning=method.tuning,
        rank=method.lora.rank,
        alpha=method.lora.alpha,
        dropout=method.lora.dropout,
        target_modules=tuple(sorted(method.lora.target_modules)),
        epochs=wanted.epochs,
        max_steps=wanted.max_steps,
        learning_rate=wanted.learning_rate or rate,
        schedule=wanted.schedule,
        warmup_fraction=wanted.warmup_fraction,
        weight_decay=wanted.weight_decay,
        max_grad_norm=wanted.max_grad_norm,
        batch_tokens=wanted.batch_tokens,
        max_length=wanted.max_length,
        seed=wanted.seed,
        task=method.task,
        beta=wanted.beta,
        temperature=wanted.temperature,
        teacher=teacher_digest if distill else "",
        teacher_temperature=distill.temperature if distill else 1.0,
        teacher_share=distill.alpha if distill else 0.0,
    )


def find_changes(saved: dict[str, Any], now: dict[str, Any]) -> tuple[str, ...]:
    """What differs, for people: `rank: 16, now 8`."""
    return tuple(
        f"{name}: {saved[name]}, now {now[name]}" for name in sorted(saved) if name in now and saved[name] != now[name]
    )
