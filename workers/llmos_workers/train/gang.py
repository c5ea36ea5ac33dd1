"""What the ranks of an attempt do together. A gang of one computes alone, sends nothing, and waits for nobody.

Each rank has the whole model (data parallelism), or a share of it (`sharding.py`). It computes the micro-batches r,
r + n, r + 2n ... of a step, then the gradients of all are added:

    gradient of a step = sum over all micro-batches of all ranks of d(loss of its learned tokens) / all learned tokens

which is the gradient that one rank computes for the step, but for the order in which numbers are added. So are the
losses. Everything else is decided once: by rank 0, or from numbers that are the same everywhere. torch's
DistributedDataParallel would add after each micro-batch, divide by the number of ranks instead of tokens, and ask for
as many micro-batches from each; so the few lines are here.

A rank that waits for another one in here is told by torch when that one ends (gloo), or ended by its `Meeting` (NCCL,
whose kernels wait on). `STALL_S` is the longest wait for one that is alive: it may be writing the last checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist

from llmos.api import Reason
from llmos_workers.train.errors import PeerLostError
from llmos_workers.train.meeting import Loss, Meeting
from llmos_workers.train.model import Device

Value = TypeVar("Value")

STALL_S: Final = 3600.0
BUCKET_BYTES: Final = 32 * 2**20
"""Small gradients are added this many bytes at once."""


class Gang:
    """One rank, alone."""

    rank = 0
    size = 1
    is_sharded = False
    """Whether each rank holds a share of the model: then what computes with it is done by all, equally often."""

    @property
    def is_leader(self) -> bool:
        """Whether this rank writes and reports."""
        return self.rank == 0

    def load(self, read: Callable[[Device], Any], device: Device) -> Any:
        """What this rank holds of the model that `read` reads onto a device."""
        return read(device)

    def should_stop(self, requested: bool) -> bool:
        """Whether to leave what is being computed, where this rank was asked to stop or not."""
        return requested

    def add(self, *numbers: float) -> tuple[float, ...]:
        """The sums over all ranks."""
        return numbers

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Put the sums over all ranks in the place of the gradients."""

    def copy_from_leader(self, tensors: Iterable[torch.Tensor]) -> None:
        """Put the leader's numbers in the place of these."""

    def gather(self, value: Value) -> list[Value]:
        """The value of each rank, on each rank."""
        return [value]

    def decide(self, value: Value) -> Value:
        """The leader's value."""
        return value

    def part(self) -> None:
        """Nothing more is done together: each may end when it likes."""

    def fail(self, reason: Reason, message: str) -> None:
        """Tell the others that this rank failed."""

    def find_loss(self, within_s: float) -> Loss | None:
        """Why another rank ended, if one did."""
        return None

    def close(self) -> None:
        """End connections."""


class ManyRanks(Gang):
    """One rank of several."""

    def __init__(self, meeting: Meeting) -> None:
        """Wait for the others.

        Raises:
            PeerLostError: they did not come, or one ended meanwhile.
        """
        place = meeting.place
        self.rank, self.size, self._meeting = place.rank, place.size, meeting
        stores: list[Any] = []

        def prepare(address: str) -> int:
            stores.append(self._open_store(address, 0))
            return int(stores[0].port)

        address, port = meeting.meet(prepare)
        with _peers():
            store = stores[0] if stores else self._open_store(address, port)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                store=store,
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=STALL_S),
            )

    def _open_store(self, address: str, port: int) -> Any:
        wait = timedelta(seconds=self._meeting.place.timeout_s)
        return dist.TCPStore(address, port, self.size, self.is_leader, timeout=wait, wait_for_workers=False)

    def add(self, *numbers: float) -> tuple[float, ...]:
        """The sums over all ranks."""
        sums = torch.tensor(numbers, dtype=torch.float64)
        with _peers():
            dist.all_reduce(sums)
        return tuple(sums.tolist())

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Put the sums over all ranks in the place of the gradients. What no rank has a gradient for gets none."""
        used = self.add(*(float(parameter.grad is not None) for parameter in parameters))
        learned = [parameter for parameter, ranks in zip(parameters, used, strict=True) if ranks]
        for parameter in learned:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in learned if parameter.grad is not None]
        for bucket in cut_into_buckets(gradients, BUCKET_BYTES):
            _add_bucket(bucket)

    def copy_from_leader(self, tensors: Iterable[torch.Tensor]) -> None:
        """Put the leader's numbers in the place of these."""
        for tensor in tensors:
            with _peers():
                dist.broadcast(tensor, 0)

    def gather(self, value: Value) -> list[Value]:
        """The value of each rank, on each rank."""
        values: list[Any] = [None] * self.size
        with _peers():
            dist.all_gather_object(values, value)
        return values

    def decide(self, value: Value) -> Value:
        """The leader's value."""
        values = [value]
        with _peers():
            dist.broadcast_object_list(values, 0)
        return values[0]

    def part(self) -> None:
        """Nothing more is done together: each may end when it likes."""
        self._meeting.part()

    def fail(self, reason: Reason, message: str) -> None:
        """Tell the others that this rank failed."""
        self._meeting.fail(reason, message)

    def find_loss(self, within_s: float) -> Loss | None:
        """Why another rank ended, if one did."""
        return self._meeting.find_loss(within_s)

    def close(self) -> None:
        """End connections."""
        self._meeting.close()
        # With a rank that is gone NCCL might wait for ever; the process ends in any case.
        if dist.is_initialized() and self.find_loss(0.0) is None:
            dist.destroy_process_group()


def is_loss_of_peer(error: BaseException) -> bool:
    """Whether torch says that another rank does not answer; of gloo only the words tell."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def build_peer_lost(error: BaseException) -> PeerLostError:
    """The error that says so."""
    words = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
    return PeerLostError(f"What the ranks do together failed: {words}")


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """What torch says in here is about another rank: it has no class of its own for that."""
    try:
        yield
    except RuntimeError as error:
        raise build_peer_lost(error) from error


def cut_into_buckets(tensors: Iterable[torch.Tensor], most_bytes: int) -> list[list[torch.Tensor]]:
    """Neighbours of the same type in groups of at most so many bytes; larger tensors alone."""
    buckets: list[list[torch.Tensor]] = []
    size_bytes = most_bytes
    for tensor in tensors:
        is_alike = bool(buckets) and (buckets[-1][0].dtype, buckets[-1][0].device) == (tensor.dtype, tensor.device)
        size_bytes += tensor.nbytes
        if not is_alike or size_bytes > most_bytes:
            buckets.append([])
            size_bytes = tensor.nbytes
        buckets[-1].append(tensor)
    return buckets


def _add_bucket(gradients: Sequence[torch.Tensor]) -> None:
    if len(gradients) == 1 and gradients[0].is_contiguous():
        with _peers():
            dist.all_reduce(gradients[0])
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    with _peers():
        dist.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
