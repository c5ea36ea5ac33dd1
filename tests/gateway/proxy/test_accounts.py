"""What the gateway remembers of a pool's prompts, as pools come, change and go."""

from __future__ import annotations

from dataclasses import replace

from llmos_gateway.catalog import Catalog, Pool
from llmos_gateway.load import LoadBook
from llmos_gateway.proxy.accounts import Accounts
from llmos_gateway.routing import IndexLimits, PromptBlocks
from llmos_gateway.routing.blocks import BLOCK_TOKENS
from tests.gateway.values import endpoint, pool

BLOCKS = 100
TIGHT = IndexLimits(blocks_in_all=213)
"""Of which a pool has 200 for blocks and 13 for conversations, and each of two pools 100 and 6."""


class World:
    """A gateway's accounts over a catalog that the test changes."""

    def __init__(self, kv_cache_tokens: int, limits: IndexLimits | None = None) -> None:
        self.catalog = Catalog()
        self.accounts = Accounts(self.catalog, LoadBook(), extra=lambda _: 0, clock=lambda: 0.0, limits=limits)
        self.put(kv_cache_tokens)

    def put(self, kv_cache_tokens: int, name: str = "team/chat") -> Pool:
        self.catalog.put_pool(replace(pool(name), kv_cache_tokens=kv_cache_tokens))
        self.catalog.put_endpoints(name, (endpoint(),))
        found = self.catalog.get_pool(name)
        assert found is not None
        return found

    def ask(self, number: int, *, send: bool = False, name: str = "team/chat") -> int:
        """Return how many blocks of a prompt are taken to be cached; `send` it afterwards."""
        found = self.catalog.get_pool(name)
        assert found is not None
        prompt = PromptBlocks(tuple(range(1000 * number, 1000 * number + BLOCKS)), BLOCKS * BLOCK_TOKENS)
        attempt = self.accounts.choose(found, prompt, ())
        assert attempt is not None
        if send:
            attempt.router.committed(attempt.choice, prompt)
        return attempt.choice.cached_tokens // BLOCK_TOKENS


def test_what_a_planned_kv_cache_cannot_hold_is_forgotten() -> None:
    world = World(BLOCKS * BLOCK_TOKENS)
    for number in range(3):
        world.ask(number, send=True)
    assert [world.ask(number) for number in range(3)] == [0, BLOCKS, BLOCKS]


def test_a_cache_of_unknown_size_is_taken_to_be_large() -> None:
    world = World(0)
    for number in range(30):
        world.ask(number, send=True)
    assert world.ask(0) == BLOCKS


def test_a_new_plan_is_followed_and_what_is_too_much_is_swept_out() -> None:
    world = World(0)
    for number in range(3):
        world.ask(number, send=True)
    world.put(BLOCKS * BLOCK_TOKENS)
    world.accounts.sweep()
    assert [world.ask(number) for number in range(3)] == [0, BLOCKS, BLOCKS]


def test_all_pools_share_one_budget_of_memory() -> None:
    world = World(0, TIGHT)
    for number in range(2):
        world.ask(number, send=True)
    assert [world.ask(number) for number in range(2)] == [BLOCKS, BLOCKS]
    world.put(0, "team/other")
    world.ask(2, send=True, name="team/other")
    world.accounts.sweep()
    assert [world.ask(number) for number in range(2)] == [0, BLOCKS]


def test_a_request_that_outlives_its_pool_takes_no_memory_from_others() -> None:
    world = World(0, TIGHT)
    gone = world.put(0, "team/gone")
    world.catalog.remove_pool(gone.id)
    world.accounts.choose(gone, PromptBlocks((1,), BLOCK_TOKENS), ())
    world.accounts.sweep()
    for number in range(2):
        world.ask(number, send=True)
    assert [world.ask(number) for number in range(2)] == [BLOCKS, BLOCKS]


def test_a_pool_that_went_begins_anew() -> None:
    world = World(0)
    world.ask(1, send=True)
    world.catalog.remove_pool("team/chat")
    world.put(0)
    assert world.ask(1) == 0
