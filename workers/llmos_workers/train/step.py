"""One optimizer step: what is computed, and what is done when a number is none or the memory does not suffice.

    loss = sum over the step's learned tokens of -log p(token | those before) / number of the step's learned tokens

so that each learned token weighs the same, however the step is cut into micro-batches (means of means would weigh
tokens of short batches more). The number is known before the first micro-batch, so each one's part is right when it
is computed.

Memory: where a micro-batch does not fit, the activations within layers are from then on computed a second time
instead of kept (gradient checkpointing), and the step is done again from its beginning, with the same random numbers.
This costs about a third more time, and is not paid where it is not needed. Ranks that hold shares of the model compute
together, so that one of them cannot do a step again: there it is always paid.
"""

from __future__ import annotations

import gc
import logging
import math
import resource
from collections.abc import Callable, Sequence
from typing import Any

import torch

from llmos_workers.train.dataset import MicroBatch
from llmos_workers.train.errors import LossNotFiniteError, OutOfMemoryError
from llmos_workers.train.gang import Gang
from llmos_workers.train.model import Device, get_learned
from llmos_workers.train.sharding import put_together
from llmos_workers.train.state import StepLoss

log = logging.getLogger(__name__)


LossFunction = Callable[[Any, MicroBatch], torch.Tensor]
"""The sum of the losses of a micro-batch, whose part in the step is its `learned`."""
Part = tuple[MicroBatch, float]
"""A micro-batch, and how much its loss counts."""


def compute_loss_sum(model: Any, batch: MicroBatch) -> torch.Tensor:
    """Sum of the losses of a micro-batch's learned tokens, in float32."""
    logits = model(input_ids=batch.input_ids, use_cache=False).logits
    learned = logits.flatten(0, 1).index_select(0, batch.positions)
    return torch.nn.functional.cross_entropy(learned.float(), batch.targets, reduction="sum")


class Stepper:
    """Does optimizer steps on a model, each with the other ranks."""

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        scheduler: Any,
        device: Device,
        max_grad_norm: float,
        gang: Gang | None = None,
        tick: Callable[[], None] = lambda: None,
        loss: LossFunction = compute_loss_sum,
    ) -> None:
        """Learn what of `model` can be learned; `tick` is called after each micro-batch."""
        self._model, self._optimizer, self._scheduler, self._device = model, optimizer, scheduler, device
        self._max_grad_norm, self._gang, self._tick = max_grad_norm, gang or Gang(), tick
        self._compute_loss_sum = loss
        self._learned = list(get_learned(model).values())
        self._saves_memory = self._gang.is_sharded

    def run(self, step: int, batches: Sequence[MicroBatch], fillers: Sequence[MicroBatch] = ()) -> StepLoss:
        """Do step number `step`; `batches` are those of this rank, and what `fillers` teach counts nothing.

        Raises:
            LossNotFiniteError: the loss or gradient is no finite number; the weights are as they were.
            OutOfMemoryError: a micro-batch does not fit.
        """
        random = capture_random(self._device)
        # Before the gradients are added nothing is done together, so each rank may save memory for itself.
        learned = round(self._gang.add(sum(batch.learned for batch in batches))[0])
        parts = [*((batch, 1.0) for batch in batches), *((batch, 0.0) for batch in fillers)]
        loss = self._compute_gradient_or_save_memory(parts, learned)
        if loss is None:
            # Only here, where the traceback of the failure no longer holds the tensors that did not fit.
            self._optimizer.zero_grad(set_to_none=True)
            self._free_memory()
            restore_random(random)
            loss = self._compute_gradient_or_save_memory(parts, learned)
        self._gang.add_gradients(self._learned)
        norm = clip_gradients(self._learned, self._max_grad_norm)
        # One copy from the accelerator for both: each one would wait for all that is computed.
        own, length = (float(value) for value in torch.stack((loss, norm.to(loss))).tolist())
        (total,) = self._gang.add(own)
        self._check(step, total / max(1, learned), length)
        self._optimizer.step()
        self._scheduler.step()
        self._optimizer.zero_grad(set_to_none=True)
        return StepLoss(total=total, learned=learned)

    def _compute_gradient(self, parts: Sequence[Part], learned: int) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64 if self._device.device.type == "cpu" else torch.float32)
        total = total.to(self._device.device)
        for batch, weight in parts:
            with self._device.autocast():
                loss = weight * self._compute_loss_sum(self._model, batch.to(self._device.device))
            (loss / max(1, learned)).backward()
            total += loss.detach()
            self._tick()
        return total

    def _compute_gradient_or_save_memory(self, parts: Sequence[Part], learned: int) -> Any:
        """The loss; None where memory did not suffice, and is saved from now on."""
        try:
            return self._compute_gradient(parts, learned)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self._saves_memory or not self._model.supports_gradient_checkpointing:
                raise build_out_of_memory(self._device, [batch for batch, _ in parts], error) from error
            log.warning("memory does not suffice (%s): activations are computed twice from now on", _first_line(error))
        self._saves_memory = True
        self._model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return None

    def _free_memory(self) -> None:
        gc.collect()
        if self._device.device.type == "cuda":
            torch.cuda.empty_cache()

    def _check(self, step: int, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        what = f"The loss is {loss}" if not math.isfinite(loss) else f"The gradient's length is {norm}"
        rate = self._scheduler.get_last_lr()[0]
        raise LossNotFiniteError(
            f"{what} at step {step}, at learning rate {rate:.3g}",
            "Lower trainer.hyperparameters.learningRate (or maxGradNorm), look at the data, make a new FineTuneJob.",
        )


def clip_gradients(parameters: Sequence[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
    """Cut the gradient to a length; return that which it had. Of shares it is the length of all ranks' together."""
    norm = put_together(
        torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    )
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch says that memory does not suffice; for a processor it has no class of its own."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "not enough memory" in text)


def build_out_of_memory(device: Device, batches: Sequence[MicroBatch], error: BaseException) -> OutOfMemoryError:
    """The error with the numbers that a person needs."""
    rows, columns = max((tuple(batch.input_ids.shape) for batch in batches), key=math.prod)
    return OutOfMemoryError(
        f"A micro-batch of {rows} x {columns} tokens does not fit into the memory of {device.name}: "
        f"{_describe_memory(device)}; {_first_line(error)}",
        "Lower hyperparameters.maxLength (in a new FineTuneJob), use tuning lora or a smaller rank, or more memory: "
        "trainer.memory for the processor, another accelerator class else.",
    )


def _describe_memory(device: Device) -> str:
    if device.device.type == "cuda":
        free_bytes, total_bytes = torch.cuda.mem_get_info()
        peak_bytes = torch.cuda.max_memory_allocated()
        return (
            f"{_gib(total_bytes)} GiB in all, {_gib(free_bytes)} free, at most {_gib(peak_bytes)} were used by tensors"
        )
    return f"the process used {_gib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)} GiB at most"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def capture_random(device: Device) -> dict[str, torch.Tensor]:
    """The states of torch's random number generators."""
    states = {"cpu": torch.get_rng_state()}
    if device.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random(states: dict[str, torch.Tensor]) -> None:
    """Put the states back."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
