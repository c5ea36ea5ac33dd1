"""All that the next step depends on, copied to memory that training does not touch, and put back.

    weights     what is learned: the adapter, or the whole model       weights.pt
    optimizer   AdamW's moments and step counts                        training.pt
    scheduler   the place in the schedule                              training.pt
    random      of torch, of the accelerator, of Python and numpy,     training.pt
                of each rank
    state       step, position, early stopping                         state.json

The copy takes as much memory as what is copied (three times the learned weights, for AdamW), once. What is cut over
several ranks is gathered at rank 0, tensor by tensor, so a checkpoint does not depend on how many there were.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import set_seed

from llmos_workers.train.files import FileEntry, open_hashing, write_text
from llmos_workers.train.model import Device, get_learned
from llmos_workers.train.sharding import cut_like, put_together
from llmos_workers.train.state import State
from llmos_workers.train.step import capture_random, restore_random

WEIGHTS: Final = "weights.pt"
TRAINING: Final = "training.pt"
STATE: Final = "state.json"


@dataclass(frozen=True)
class Learner:
    """The things that change while training."""

    model: Any
    optimizer: Any
    scheduler: Any
    device: Device


@dataclass(frozen=True)
class Snapshot:
    """A copy of all that the next step depends on."""

    state: State
    weights: dict[str, Any]
    training: dict[str, Any]

    def write(self, folder: Path) -> dict[str, FileEntry]:
        """Write the files, each of them on the disk when this returns, and say what they are."""
        entries = {STATE: write_text(folder / STATE, self.state.model_dump_json(by_alias=True, indent=1) + "\n")}
        for name, value in ((WEIGHTS, self.weights), (TRAINING, self.training)):
            with open_hashing(folder / name) as file, _own_errors(file):
                torch.save(value, file)
            entries[name] = file.entry
        return entries


@contextmanager
def _own_errors(file: Any) -> Iterator[None]:
    """torch's writer turns an OSError into a RuntimeError; let the first one through."""
    try:
        yield
    except RuntimeError as error:
        if file.error is not None:
            raise file.error from error
        raise


def take_snapshot(
    learner: Learner, state: State, others: Sequence[dict[str, Any]] = (), *, keeps: bool = True
) -> Snapshot:
    """Copy everything; training may go on when this returns.

    Args:
        learner: what changes while training.
        state: where it is.
        others: the random numbers of the ranks after 0.
        keeps: false at a rank that only gives its shares to the one that saves, and keeps nothing.
    """
    copied = _copy(
        {
            "weights": {name: parameter.detach() for name, parameter in get_learned(learner.model).items()},
            "optimizer": learner.optimizer.state_dict(),
            "scheduler": learner.scheduler.state_dict(),
            "random": capture_all_random(learner.device),
            "others": list(others),
        },
        keeps=keeps,
    )
    return Snapshot(state=state, weights=copied.pop("weights"), training=copied)


def read_state(folder: Path) -> State:
    """The facts of a checkpoint."""
    return State.model_validate_json((folder / STATE).read_bytes())


def restore_snapshot(learner: Learner, folder: Path, *, rank: int = 0, seed: int = 0) -> State:
    """Put everything back and return the state. A rank that was not there when it was saved begins from a seed."""
    restore_weights(learner.model, folder)
    # Of a file that is mapped a rank reads what it has a share of.
    training = torch.load(folder / TRAINING, map_location="cpu", weights_only=True, mmap=True)
    _restore_optimizer(learner.optimizer, training["optimizer"])
    learner.scheduler.load_state_dict(training["scheduler"])
    state, others = read_state(folder), training.get("others", [])
    if rank == 0:
        _restore_random(training["random"])
    elif rank <= len(others):
        _restore_random(others[rank - 1])
    else:
        seed_rank(seed, rank, state.step)
    return state


def _restore_optimizer(optimizer: Any, saved: dict[str, Any]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = {
        # A copy: the file may be removed while training goes on.
        number: {name: cut_like(value, parameters[number]).clone() for name, value in moments.items()}
        for number, moments in saved["state"].items()
    }
    optimizer.load_state_dict({**saved, "state": own})


def seed_rank(seed: int, rank: int, step: int = 0) -> None:
    """Give a rank random numbers of its own: the dropout of two micro-batches must not be the same."""
    set_seed(int(np.random.SeedSequence((seed, rank, step)).generate_state(1)[0]))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The learned weights of a checkpoint, by name."""
    weights: dict[str, torch.Tensor] = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True, mmap=True)
    return weights


def restore_weights(model: Any, folder: Path) -> None:
    """Put the learned weights back."""
    weights = read_weights(folder)
    with torch.no_grad():
        for name, parameter in get_learned(model).items():
            parameter.copy_(cut_like(weights[name], parameter))


def capture_all_random(device: Device) -> dict[str, Any]:
    """The states of all random number generators of this process."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    return {
        "torch": capture_random(device),
        "python": [version, list(internal), gauss_next],
        "numpy": [[int(key) for key in keys], int(position), int(has_gauss), float(gauss)],
    }


def _restore_random(states: dict[str, Any]) -> None:
    restore_random(states["torch"])
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, gauss))


def _copy(value: Any, *, keeps: bool) -> Any:
    """A deep copy with all tensors whole and on the processor; without `keeps` in the same order, but without them."""
    if isinstance(value, torch.Tensor):
        whole = put_together(value)
        return whole.detach().to("cpu", copy=True) if keeps else None
    if isinstance(value, dict):
        return {key: _copy(item, keeps=keeps) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(item, keeps=keeps) for item in value)
    return value
