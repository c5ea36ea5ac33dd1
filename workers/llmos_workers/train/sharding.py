"""A model that is cut over the ranks (fully sharded data parallelism), for what one accelerator cannot hold.

Of each parameter, its gradient and AdamW's moments a rank holds one n-th, cut along the first dimension. A layer is put
together where it is computed, and given back at once; gradients are added and cut while they are computed:

    in memory = everything / n + what stands outside of layers (embeddings, output) + two layers
                                                                 (one that is computed, and the next on its way)

Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel" (2023); Rajbhandari et al., "ZeRO"
(2020), stage 3. It is torch's `fully_shard`. Numbers are those of ranks that hold everything: gradients are sums, and
the compute type is that of autocast, so a checkpoint is the same, too: whole tensors, gathered at rank 0 one by one.

Putting layers together is done by all at once, so each rank computes equally often (with fillers, whose loss counts
nothing), and what ends early ends everywhere at the same place. Activations within layers are always computed twice,
for a rank must not begin a step again by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard
from transformers.modeling_layers import GradientCheckpointingLayer

from llmos_workers.train.errors import TrainError
from llmos_workers.train.gang import ManyRanks
from llmos_workers.train.host_memory import return_freed_memory
from llmos_workers.train.meeting import Meeting
from llmos_workers.train.model import Device

log = logging.getLogger(__name__)


class ShardedRanks(ManyRanks):
    """One rank of several that hold a share of the model each."""

    is_sharded = True

    def __init__(self, meeting: Meeting, *, turn: int, turns: int, touch: Callable[[], None]) -> None:
        """Wait for the others. Of the `turns` ranks on a node this is number `turn`; `touch` is called after each."""
        super().__init__(meeting)
        self._turn, self._turns, self._touch = turn, turns, touch

    def load(self, read: Callable[[Device], Any], device: Device) -> Any:
        """This rank's share of a model. The memory of a node holds it whole only once: its ranks take turns.

        Raises:
            TrainError: the model has no layers that are known as such.
        """
        model: Any = None
        for turn in range(self._turns):
            if turn == self._turn:
                model = self._shard(read(replace(device, device=torch.device("cpu"))), device.device)
            # Of no numbers there would be no sum to wait for.
            self.add(0.0)
            self._touch()
        return model

    def _shard(self, model: Any, device: torch.device) -> Any:
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not layers or not model.supports_gradient_checkpointing:
            raise TrainError(
                f"The architecture {type(model).__name__} has no layers by which it could be sharded",
                "Set trainer.sharding to none, on a class with enough memory, or use another base model.",
            )
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        mesh = init_device_mesh(device.type, (self.size,))
        # What stands within another one comes first. Nothing stays put together after it was computed: where
        # parameters are looked at (to save, to restore) they are always shares.
        for module in (*reversed(layers), model):
            share = fully_shard(module, mesh=mesh, reshard_after_forward=True)
            # Sums, as ours are; gloo knows no other.
            share.set_force_sum_reduction_for_comms(True)
            share.set_gradient_divide_factor(1.0)
            # The experts that a micro-batch visits are not the same everywhere.
            share.set_reduce_scatter_unused_params(True, recurse=False)
        if hasattr(model, "generate"):
            register_fsdp_forward_method(model, "generate")
        shares = list(model.parameters())
        held = sum(share.to_local().numel() for share in shares)
        log.info("this rank holds %d of %d parameters", held, sum(share.numel() for share in shares))
        return model

    def add_gradients(self, parameters: Any) -> None:
        """They were added while they were computed."""

    def copy_from_leader(self, tensors: Any) -> None:
        """Each rank has a share of its own; equal seeds make equal first weights."""

    def should_stop(self, requested: bool) -> bool:
        """Whether any rank was asked to stop: what all compute together is left by all at the same place."""
        return bool(self.add(requested)[0])


def put_together(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor of which each rank has a share; all ranks have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(whole: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor of the parameter's shape; all of it where the parameter is no share."""
    if not isinstance(parameter, DTensor) or whole.shape != parameter.shape:
        return whole
    mesh, placements = parameter.device_mesh, parameter.placements
    if placements != (Shard(0),):
        raise ValueError(f"a share that is not cut along the first dimension: {placements}")
    chunks = whole.chunk(mesh.size())
    own = chunks[mesh.get_local_rank()] if mesh.get_local_rank() < len(chunks) else whole[:0]
    return DTensor.from_local(
        own.to(parameter.device), mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def release(model: Any) -> None:
    """Give back the memory of a model that is not used any more, wherever it is still known."""
    for parameter in model.parameters():
        if isinstance(parameter, DTensor):
            parameter.to_local().untyped_storage().resize_(0)
    model.to("meta")
    return_freed_memory()
