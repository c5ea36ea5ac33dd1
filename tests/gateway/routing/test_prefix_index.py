"""What the index remembers, checked against a plain model: a list of blocks for each replica, newest first."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmos_gateway.routing import IndexLimits
from llmos_gateway.routing.prefix_index import PrefixIndex

CAPACITY = 6
REPLICAS = ("a", "b", "c")

# A block's number says its whole beginning, as hashes do: 1 -> 12 -> 123 is a chain.
chains = st.text(alphabet="123", min_size=1, max_size=8).map(
    lambda text: tuple(int(text[: end + 1]) for end in range(len(text)))
)


class TheIndexIsAnLruForEachReplica(RuleBasedStateMachine):
    """Any order of insertions, removals and sweeps."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex(IndexLimits(blocks_per_replica=CAPACITY, blocks_in_all=CAPACITY * len(REPLICAS)))
        self.model: dict[str, list[int]] = {}

    @rule(replica=st.sampled_from(REPLICAS), chain=chains)
    def insert(self, replica: str, chain: tuple[int, ...]) -> None:
        self.index.insert(replica, chain)
        older = [block for block in self.model.get(replica, []) if block not in chain]
        self.model[replica] = [*chain, *older][:CAPACITY]

    @rule(replica=st.sampled_from(REPLICAS))
    def remove(self, replica: str) -> None:
        self.index.remove(replica)
        self.model.pop(replica, None)

    @precondition(lambda self: self.model)
    @rule(kept=st.sets(st.sampled_from(REPLICAS)))
    def retain(self, kept: set[str]) -> None:
        self.index.retain(kept)
        self.model = {replica: blocks for replica, blocks in self.model.items() if replica in kept}

    @rule(blocks=st.integers(0, 10))
    def sweep(self, blocks: int) -> None:
        assert self.index.sweep(blocks) <= blocks

    @rule(chain=chains)
    def match(self, chain: tuple[int, ...]) -> None:
        expected = {}
        for replica, blocks in self.model.items():
            held = next((place for place, block in enumerate(chain) if block not in blocks), len(chain))
            if held:
                expected[replica] = held
        assert self.index.match(chain) == expected

    @invariant()
    def holds_what_the_model_holds_once_swept(self) -> None:
        assert len(self.index) >= sum(map(len, self.model.values()))

    def teardown(self) -> None:
        self.index.sweep(1000)
        assert len(self.index) == sum(map(len, self.model.values()))
        self.index.retain(())
        self.index.sweep(1000)
        assert len(self.index) == 0


TestTheIndex = TheIndexIsAnLruForEachReplica.TestCase


@given(inserted=st.lists(st.tuples(st.integers(0, 9), chains), max_size=60))
@settings(max_examples=50)
def test_all_replicas_together_keep_to_the_limit(inserted: list[tuple[int, tuple[int, ...]]]) -> None:
    index = PrefixIndex(IndexLimits(blocks_per_replica=20, blocks_in_all=40))
    for replica, chain in inserted:
        index.insert(str(replica), chain)
    index.sweep(10_000)
    assert len(index) <= 40


def test_a_chain_longer_than_the_capacity_keeps_its_beginning() -> None:
    index = PrefixIndex(IndexLimits(blocks_per_replica=10))
    index.insert("a", range(100))
    assert index.match(range(100)) == {"a": 10}


def test_one_more_replica_than_allowed_displaces_the_first() -> None:
    index = PrefixIndex(IndexLimits(replicas=2))
    for replica in "abc":
        index.insert(replica, (1, 2))
    assert index.match((1, 2)) == {"b": 2, "c": 2}


def test_smaller_limits_free_memory_by_and_by() -> None:
    index = PrefixIndex(IndexLimits(blocks_per_replica=1000))
    index.insert("a", range(1000))
    index.resize(IndexLimits(blocks_per_replica=100))
    assert index.sweep(300) == 300
    index.sweep(10_000)
    assert index.match(range(1000)) == {"a": 100}


def test_a_replica_that_left_matches_nothing_though_it_is_not_swept_yet() -> None:
    index = PrefixIndex()
    index.insert("a", range(5000))
    index.remove("a")
    assert index.match(range(5000)) == {}
    index.insert("b", range(10))
    assert index.match(range(5000)) == {"b": 10}


def test_known_kv_caches_are_remembered_twice_over() -> None:
    limits = IndexLimits()
    assert limits.within(7000, 128_000) == IndexLimits(blocks_per_replica=2000, blocks_in_all=7000)
    for tokens in (0, 10**9):
        assert limits.within(limits.blocks_in_all, tokens) == limits
