"""Chooses the replica of a pool that gets a request, and remembers what that choice means for the next one.

    choose -> Decision -> committed (it is sent) -> first_token -> finished (always, whatever the outcome)
                          failed / erred / succeeded: what the attempt says about the replica's health

A choice has three steps: leave out what may not get requests (excluded by the caller, circuit open), score the others
by the pool's policy, take the lowest score; equal scores take turns, so that no replica is first by its place in the
list. If every circuit is open the request goes where the pause ends first: an attempt is better than none.

A Router belongs to one pool and one process and lives on one event loop: no I/O, no clock, no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Protocol, TypeVar

from llmos_gateway.routing.blame import Blame
from llmos_gateway.routing.blocks import PromptBlocks
from llmos_gateway.routing.candidates import Candidates, Score
from llmos_gateway.routing.circuits import Circuits
from llmos_gateway.routing.conversations import Conversations, Placement
from llmos_gateway.routing.home import find_home
from llmos_gateway.routing.policies import POLICIES
from llmos_gateway.routing.prefix_index import IndexLimits, PrefixIndex

__all__ = ["Decision", "Routable", "Router"]

_CONVERSATIONS_SHARE: Final = 16
"""One of so many blocks of the budget is for a conversation instead."""


class Routable(Protocol):
    """A replica: `llmos_gateway.catalog.Endpoint` is one."""

    @property
    def address(self) -> str:
        """host:port of the engine."""


E = TypeVar("E", bound=Routable)


@dataclass(frozen=True, slots=True)
class Decision(Generic[E]):
    """Where a request goes, and why. Hand it back to the router that made it."""

    endpoint: E
    new_tokens: int
    """Prompt tokens that the replica probably has to compute."""
    cached_tokens: int
    """Prompt tokens that it probably has in its cache."""
    why: str
    ticket: int
    """Number of this decision."""
    at_s: float
    """When it was made."""
    is_probe: bool = False
    """Whether this request shows if a failing replica is back."""


class Router:
    """The replicas of one pool as this process knows them."""

    def __init__(self, limits: IndexLimits | None = None) -> None:
        self._index = PrefixIndex()
        self._conversations = Conversations(0)
        self.resize(limits or IndexLimits())
        self._circuits = Circuits()
        self._blame = Blame()
        self._replicas = 0
        self._queued: dict[str, int] = {}
        self._prefilling: dict[int, tuple[str, int]] = {}
        self._tickets = 0
        self._turn = 0

    def choose(
        self,
        *,
        policy: str,
        endpoints: Sequence[E],
        load: Callable[[str], int],
        prompt: PromptBlocks,
        now_s: float,
        exclude: Collection[str] = (),
        gateways: int = 1,
        is_told: bool = False,
    ) -> Decision[E] | None:
        """Return where the request goes, or None if no endpoint is left.

        `endpoints` are those that are ready now; `load` returns the requests in flight on an address; `exclude` are
        addresses that the request already tried; `gateways` is how many route to this pool; `is_told` says whether all
        others tell where they send conversations (`learn`). An unknown policy is taken as `auto`.
        """
        self._replicas = len(endpoints)
        places, note = self._admit(endpoints, now_s, exclude)
        if not places:
            return None
        addresses = [endpoints[place].address for place in places]
        home = self._find_home(prompt.anchor, addresses, is_alone=gateways == 1, is_told=is_told)
        candidates = self._describe(addresses, load, prompt, home)
        scores = POLICIES.get(policy, POLICIES["auto"])(candidates)
        best = self._take_turn(scores, places, len(endpoints))
        return self._decide(endpoints[places[best]], candidates, best, f"{policy}{note}", now_s)

    def committed(self, decision: Decision[E], prompt: PromptBlocks) -> None:
        """Note that the request is sent: its prompt will be in the replica's cache, and is in its queue until then."""
        address = decision.endpoint.address
        self._index.insert(address, prompt.hashes)
        self._conversations.note(prompt.anchor, address, decision.at_s)
        self._queued[address] = self._queued.get(address, 0) + decision.new_tokens
        self._prefilling[decision.ticket] = (address, decision.new_tokens)

    def tell(self, since_s: float) -> Iterator[Placement]:
        """Yield where conversations were sent since then, for other gateways; the newest first."""
        return self._conversations.tell(since_s)

    def learn(self, placement: Placement) -> None:
        """Take another gateway's word of where it sent a conversation."""
        self._conversations.learn(placement)

    def first_token(self, decision: Decision[E]) -> None:
        """Note that the prompt has been computed. Without it `finished` says so."""
        address, tokens = self._prefilling.pop(decision.ticket, ("", 0))
        left = self._queued.get(address, 0) - tokens
        if left > 0:
            self._queued[address] = left
        else:
            self._queued.pop(address, None)

    def finished(self, decision: Decision[E]) -> None:
        """Note that the attempt is over, whatever became of it. May be told more than once."""
        self.first_token(decision)
        if decision.is_probe:
            self._circuits.give_up_probe(decision.endpoint.address)

    def failed(self, address: str, now_s: float) -> None:
        """Note that the replica could not be reached or broke off."""
        if self._circuits.fail(address, now_s):
            # It was probably restarted, and its cache is empty.
            self._index.remove(address)
            self._conversations.forget(address)

    def erred(self, address: str, caller: str, prompt: PromptBlocks, now_s: float) -> None:
        """Note that the replica answered with an error of its own (5xx), which may be the request's fault."""
        excused = self._blame.note_error(address, caller, prompt, now_s)
        for other in excused:
            if not self._blame.is_guilty(other, now_s):
                self._circuits.pardon(other)
        if not excused and (not self.is_healthy(address) or self._blame.is_guilty(address, now_s)):
            self._circuits.eject(address, now_s, self._replicas)

    def is_healthy(self, address: str) -> bool:
        """Whether the replica gets requests as ever, rather than nothing or a probe at a time."""
        return self._circuits.is_closed(address)

    def served(self, address: str, caller: str, now_s: float) -> None:
        """Note that the replica works for this caller, though its answer has not ended."""
        self._blame.note_served(address, caller, now_s)

    def succeeded(self, address: str, caller: str, prompt: PromptBlocks, now_s: float) -> None:
        """Note that the replica answered."""
        if self._circuits.succeed(address):
            self._blame.forget(address)
        self._blame.note_success(address, caller, prompt, now_s)

    def retain(self, addresses: Collection[str]) -> None:
        """Forget all replicas but these; to be told when replicas of the pool are gone for good."""
        kept = frozenset(addresses)
        self._index.retain(kept)
        self._conversations.retain(kept)
        self._circuits.retain(kept)
        self._blame.retain(kept)
        self._queued = {address: tokens for address, tokens in self._queued.items() if address in kept}

    def resize(self, limits: IndexLimits) -> None:
        """Change how much may be remembered."""
        conversations = limits.blocks_in_all // _CONVERSATIONS_SHARE
        self._conversations.resize(conversations)
        self._index.resize(replace(limits, blocks_in_all=limits.blocks_in_all - conversations))

    def sweep(self, blocks: int) -> int:
        """Free the memory of up to that many blocks that are no longer wanted; return how many."""
        freed = self._conversations.sweep(blocks)
        return freed + self._index.sweep(blocks - freed)

    def _admit(self, endpoints: Sequence[E], now_s: float, exclude: Collection[str]) -> tuple[Sequence[int], str]:
        if not exclude and not len(self._circuits):
            return range(len(endpoints)), ""
        wanted = [place for place, endpoint in enumerate(endpoints) if endpoint.address not in exclude]
        admitted = [place for place in wanted if self._circuits.admits(endpoints[place].address, now_s)]
        if admitted or not wanted:
            return admitted, ""
        soonest = min(wanted, key=lambda place: self._circuits.get_retry_s(endpoints[place].address))
        return [soonest], ", all circuits are open and this pause ends first"

    def _find_home(self, anchor: int, addresses: Sequence[str], *, is_alone: bool, is_told: bool) -> int | None:
        """Return the position of the replica that has the conversation by some gateway's word.

        Where nobody knows it, it is new or its replica is gone, and goes where the load says; but a gateway that does
        not tell may have sent it to the replica on which all agree without a word. The only gateway knows more of its
        own prompts than that (the index); of others it has the words of those that are gone.
        """
        conversations = self._conversations
        address = conversations.find_told(anchor) if is_alone else conversations.find(anchor)
        if address is not None and address in addresses:
            return addresses.index(address)
        return None if is_alone or is_told else find_home(anchor, addresses)

    def _describe(
        self, addresses: Sequence[str], load: Callable[[str], int], prompt: PromptBlocks, home: int | None
    ) -> Candidates:
        held, size = self._index.match(prompt.hashes), prompt.block_tokens
        return Candidates(
            prompt_tokens=prompt.tokens,
            loads=[load(address) for address in addresses],
            cached_tokens=[min(held.get(address, 0) * size, prompt.tokens) for address in addresses],
            queued_tokens=[self._queued.get(address, 0) for address in addresses],
            home=home,
        )

    def _take_turn(self, scores: Sequence[Score], places: Sequence[int], count: int) -> int:
        """Return the index of the lowest score; of equal ones, the first at or after the place whose turn it is."""
        lowest = min(scores)
        ties = [index for index, score in enumerate(scores) if score == lowest]
        best = min(ties, key=lambda index: (places[index] - self._turn) % count)
        self._turn = places[best] + 1
        return best

    def _decide(self, endpoint: E, candidates: Candidates, best: int, why: str, now_s: float) -> Decision[E]:
        self._tickets += 1
        cached = candidates.cached_tokens[best]
        return Decision(
            endpoint=endpoint,
            new_tokens=candidates.prompt_tokens - cached,
            cached_tokens=cached,
            why=f"{why}: {cached} of {candidates.prompt_tokens} tokens cached, {candidates.loads[best]} in flight",
            ticket=self._tickets,
            at_s=now_s,
            is_probe=self._circuits.begin(endpoint.address, now_s),
        )
