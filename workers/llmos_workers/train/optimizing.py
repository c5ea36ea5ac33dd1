"""What moves the weights: AdamW, at a rate that rises and falls by `schedule`."""

from __future__ import annotations

import logging
from typing import Any, Final

import torch
from transformers import get_scheduler

from llmos_workers.train.model import Device, get_learned
from llmos_workers.train.settings import Settings
from llmos_workers.train.snapshot import Learner

log = logging.getLogger(__name__)

# transformers' names.
_SCHEDULES: Final = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def build_learner(model: Any, settings: Settings, total_steps: int, device: Device) -> Learner:
    """A model with the optimizer and the schedule of a run of so many optimizer steps."""
    learned = list(get_learned(model).values())
    log.info(
        "%s of %d parameters, computed in %s on %s",
        "a model" if settings.tuning == "full" else "an adapter",
        sum(parameter.numel() for parameter in learned),
        device.compute,
        device.name,
    )
    optimizer = torch.optim.AdamW(learned, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    scheduler = get_scheduler(
        _SCHEDULES[settings.schedule],
        optimizer,
        num_warmup_steps=round(settings.warmup_fraction * total_steps),
        num_training_steps=total_steps,
    )
    return Learner(model, optimizer, scheduler, device)
