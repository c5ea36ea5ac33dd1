"""How vLLM divides a given amount of memory into KV-cache blocks, and how many sequences those hold.

Follows the engine's own arithmetic (vllm/v1/core/kv_cache_utils.py, kv_cache_interface.py, 0.19 to 0.32):

1. A layer's page is the memory of one block of tokens: `heads_on_this_gpu x (key + value) x bytes x tokens`.
2. Layers of one kind share block tables. Models with several kinds are cut into groups with equally many layers: as
   many as the rarest kind has (as the commonest, if that is less than 1.5 times as many). All pages are made equally
   large by giving narrow layers more tokens in a block; recurrent layers need a page that holds one whole state.
3. `blocks = memory / (page x layers of a group)`. One sequence of length n takes, from every group, n / block tokens
   for full attention; (window - 1 + tokens in flight) / block + 1 for a sliding window; (chunk + tokens in flight) /
   block for chunked attention; two states for a recurrent layer.
4. The engine refuses to start unless one sequence of max_model_len fits beside one reserved block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmos.api.architecture import CacheGroup, ModelArchitecture
from llmos_operator.planning.engine_profile import GIB, Batch, EngineSettings, parse_version

_ONE_BYTE_PREFIXES: Final = ("fp8", "int8")
_FIRST_WITH_CHECKPOINT_KV_DTYPE: Final = (0, 11)
_RECURRENT_STATES_PER_SEQUENCE: Final = 2  # the running one and the one that prefix caching keeps
_PADDING_TOLERANCE: Final = 1.5
_SEARCH_STEP_TOKENS: Final = 16


@dataclass(frozen=True)
class KvCache:
    """The KV cache of one replica. Sizes are for one GPU; tokens and concurrency for the replica."""

    bytes_per_token: float
    block_bytes: int
    blocks: int
    blocks_per_sequence: int
    tokens: int
    max_concurrency: float

    @property
    def sequence_gib(self) -> float:
        """Memory on each GPU that one sequence of the planned length takes, with the block the engine reserves."""
        return (self.blocks_per_sequence + 1) * self.block_bytes / GIB

    @property
    def holds_one_sequence(self) -> bool:
        """What the engine demands before it starts."""
        return self.blocks > self.blocks_per_sequence


@dataclass(frozen=True)
class _Lane:
    """Layers of one cache group on one GPU."""

    group: CacheGroup
    layers: int
    token_bytes: float


def compute_kv_cache(
    architecture: ModelArchitecture,
    *,
    available_gib: float,
    max_model_len: int,
    tensor_parallel_size: int,
    pipeline_parallel_size: int,
    batch: Batch,
    settings: EngineSettings,
) -> KvCache:
    """Blocks, tokens and concurrency of a KV cache of `available_gib` on each GPU."""
    element_bytes = compute_element_bytes(architecture, settings)
    lanes = [
        _build_lane(group, tensor_parallel_size, pipeline_parallel_size, element_bytes) for group in architecture.cache
    ]
    bytes_per_token = sum(lane.layers * lane.token_bytes for lane in lanes if lane.group.window_tokens == 0)
    available = max(0, int(available_gib * GIB))
    if all(lane.group.kind in {"full", "latent"} and lane.group.tokens_per_entry == 1 for lane in lanes):
        block_tokens = settings.block_size_tokens
        block_bytes = int(bytes_per_token * block_tokens)
        blocks_per_sequence = _ceil(max_model_len, block_tokens)
    else:
        block_bytes, blocks_per_sequence = _hybrid_blocks(
            lanes, max_model_len, tensor_parallel_size, batch, settings.block_size_tokens
        )
    blocks = available // block_bytes
    concurrency = blocks / blocks_per_sequence
    uniform = len(lanes) == 1
    tokens = blocks * settings.block_size_tokens if uniform else int(concurrency * max_model_len)
    return KvCache(bytes_per_token, block_bytes, blocks, blocks_per_sequence, tokens, concurrency)


def compute_element_bytes(architecture: ModelArchitecture, settings: EngineSettings) -> int:
    """Bytes of one cached number: the setting decides, then (in newer engines) the checkpoint, else 16 bits."""
    if settings.kv_cache_dtype.startswith(_ONE_BYTE_PREFIXES):
        return 1
    honours_checkpoint = parse_version(settings.version) >= _FIRST_WITH_CHECKPOINT_KV_DTYPE
    if settings.kv_cache_dtype == "auto" and honours_checkpoint and architecture.kv_cache_bits == 8:
        return 1
    return 2


def compute_longest_model_len(
    architecture: ModelArchitecture,
    *,
    available_gib: float,
    longest: int,
    tensor_parallel_size: int,
    pipeline_parallel_size: int,
    batch: Batch,
    settings: EngineSettings,
) -> int:
    """Longest sequence, in steps of 16 tokens, of which one fits; 0 if none does."""
    low, high = 0, longest // _SEARCH_STEP_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        cache = compute_kv_cache(
            architecture,
            available_gib=available_gib,
            max_model_len=middle * _SEARCH_STEP_TOKENS,
            tensor_parallel_size=tensor_parallel_size,
            pipeline_parallel_size=pipeline_parallel_size,
            batch=batch,
            settings=settings,
        )
        low, high = (middle, high) if cache.holds_one_sequence else (low, middle - 1)
    return low * _SEARCH_STEP_TOKENS


def _build_lane(group: CacheGroup, tensor_parallel_size: int, pipeline_parallel_size: int, element_bytes: int) -> _Lane:
    heads = max(1, group.heads // tensor_parallel_size) if group.heads else 0
    token_bytes = heads * (group.key_dim + group.value_dim) * element_bytes / group.tokens_per_entry
    return _Lane(group, _ceil(group.layers, pipeline_parallel_size), token_bytes)


def _hybrid_blocks(
    lanes: list[_Lane], max_model_len: int, tensor_parallel_size: int, batch: Batch, block_tokens: int
) -> tuple[int, int]:
    """Bytes of one block of a group of layers, and the blocks of one sequence over all groups."""
    counts = [lane.layers for lane in lanes]
    group_layers = max(counts) if max(counts) < _PADDING_TOLERANCE * min(counts) else min(counts)
    page = max(
        _ceil(lane.group.state_bytes, tensor_parallel_size)
        if lane.token_bytes == 0
        else lane.token_bytes * block_tokens
        for lane in lanes
    )
    # Attention pages are whole multiples of 16 tokens of the widest layer, also when a recurrent state sets the size.
    widest = max(lane.token_bytes for lane in lanes) * block_tokens
    page = _ceil(page, widest) * widest if widest else page
    blocks = sum(
        _ceil(lane.layers, group_layers) * _sequence_blocks(lane, page, max_model_len, batch, block_tokens)
        for lane in lanes
    )
    return int(page) * group_layers, blocks


def _sequence_blocks(lane: _Lane, page: float, max_model_len: int, batch: Batch, block_tokens: int) -> int:
    if lane.token_bytes == 0:
        return _RECURRENT_STATES_PER_SEQUENCE
    tokens_in_page = max(block_tokens, int(page // lane.token_bytes) // block_tokens * block_tokens)
    group = lane.group
    if group.kind == "sliding":
        return _ceil(min(group.window_tokens - 1 + batch.tokens_in_flight, max_model_len), tokens_in_page) + 1
    if group.kind == "chunked":
        return _ceil(min(group.window_tokens + batch.tokens_in_flight, max_model_len), tokens_in_page)
    return _ceil(max_model_len, tokens_in_page)


def _ceil(value: float, unit: float) -> int:
    return int(-(-value // unit))
