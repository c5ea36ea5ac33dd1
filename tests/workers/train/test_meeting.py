"""The open lines between the ranks of an attempt, as real sockets: who comes, who ends, and what the others learn."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from llmos.api import Reason
from llmos_workers.train.errors import PeerLostError
from llmos_workers.train.meeting import Loss, Meeting, Place

SOON_S = 10.0
STORE_PORT = 12345


@dataclass
class Rank:
    """One rank, and what it learned."""

    meeting: Meeting
    losses: list[Loss]
    told: threading.Event


Gang = Callable[..., list[Rank]]


@pytest.fixture
def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def build(port: int) -> Iterator[Callable[..., Rank]]:
    """Make one rank that has not met the others."""
    made: list[Rank] = []

    def build_rank(rank: int, size: int, *, timeout_s: float = SOON_S, silence_s: float = 30.0) -> Rank:
        losses: list[Loss] = []
        told = threading.Event()

        def on_loss(loss: Loss) -> None:
            losses.append(loss)
            told.set()

        place = Place(size, rank, "localhost", port, timeout_s, silence_s)
        made.append(Rank(Meeting(place, on_loss), losses, told))
        return made[-1]

    yield build_rank
    for each in made:
        each.meeting.close()


@pytest.fixture
def meet(build: Callable[..., Rank]) -> Gang:
    """Make ranks that have met."""

    def meet_all(size: int, **options: float) -> list[Rank]:
        ranks = [build(rank, size, **options) for rank in range(size)]
        with ThreadPoolExecutor(size) as pool:
            met = list(pool.map(lambda rank: rank.meeting.meet(lambda _: STORE_PORT), ranks))
        assert {port for _, port in met} == {STORE_PORT}
        assert {address for address, _ in met} <= {"127.0.0.1", "::1"}
        return ranks

    return meet_all


def wait_for_loss(rank: Rank) -> Loss:
    loss = rank.meeting.find_loss(SOON_S)
    assert loss is not None, "it did not learn of it"
    return loss


def test_all_learn_at_once_that_one_was_killed(meet: Gang) -> None:
    leader, first, second = meet(3)
    first.meeting.close()
    for rank in (leader, second):
        assert wait_for_loss(rank).reason is Reason.PeerLost
        assert "Rank 1" in wait_for_loss(rank).message
        assert rank.told.wait(SOON_S)
        assert len(rank.losses) == 1


def test_all_learn_that_the_leader_was_killed(meet: Gang) -> None:
    leader, *others = meet(3)
    leader.meeting.close()
    for rank in others:
        assert "The leader (localhost) ended without a word" in wait_for_loss(rank).message


def test_a_failure_is_told_with_its_reason_and_words(meet: Gang) -> None:
    leader, first, second = meet(3)
    first.meeting.fail(Reason.OutOfMemory, "A micro-batch does not fit.")
    first.meeting.close()
    for rank in (leader, second):
        loss = wait_for_loss(rank)
        assert loss.reason is Reason.OutOfMemory
        assert loss.message.startswith("Rank 1 (")
        assert loss.message.endswith("): A micro-batch does not fit.")


def test_a_rank_that_no_longer_answers_is_lost_after_a_silence(meet: Gang) -> None:
    leader, worker = meet(2, silence_s=2.0)
    worker.meeting._closed.set()
    began_s = time.monotonic()
    assert "has not been heard of for 2 s" in wait_for_loss(leader).message
    assert time.monotonic() - began_s < SOON_S


def test_beats_keep_silent_ranks_together(meet: Gang) -> None:
    ranks = meet(2, silence_s=1.5)
    assert ranks[0].meeting.find_loss(4.0) is None
    assert ranks[1].meeting.find_loss(0.0) is None


def test_who_parts_is_not_lost(meet: Gang) -> None:
    leader, worker = meet(2)
    parting = threading.Thread(target=worker.meeting.part)
    parting.start()
    leader.meeting.part()
    parting.join(SOON_S)
    assert not parting.is_alive()
    worker.meeting.close()
    assert leader.meeting.find_loss(1.0) is None
    assert leader.losses == worker.losses == []


def test_a_rank_that_is_done_waits_for_the_leader_to_let_it_go(meet: Gang) -> None:
    leader, worker = meet(2)
    parting = threading.Thread(target=worker.meeting.part)
    parting.start()
    parting.join(1.0)
    assert parting.is_alive()
    leader.meeting.close()
    parting.join(SOON_S)
    assert not parting.is_alive()


def test_the_leader_names_who_did_not_come(build: Callable[..., Rank]) -> None:
    leader, first = build(0, 3, timeout_s=2.0), build(1, 3, timeout_s=4.0)
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(rank.meeting.meet, lambda _: STORE_PORT) for rank in (leader, first)]
        with pytest.raises(PeerLostError, match=r"Of 3 ranks these did not come within 2 s: 2\. "):
            waits[0].result(SOON_S)
        leader.meeting.close()
        with pytest.raises(PeerLostError, match="The leader localhost did not say go within 4 s"):
            waits[1].result(SOON_S)


def test_a_rank_that_came_and_went_may_come_again(build: Callable[..., Rank], port: int) -> None:
    leader = build(0, 2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(leader.meeting.meet, lambda _: STORE_PORT)
        _say(port, {"rank": 1, "size": 3})
        _say(port, {"rank": "one"})
        assert not waiting.done()
        assert build(1, 2).meeting.meet(lambda _: 0)[1] == STORE_PORT
        assert waiting.result(SOON_S)[1] == STORE_PORT
    assert leader.meeting.find_loss(0.5) is None


def test_strangers_are_sent_away(build: Callable[..., Rank], port: int) -> None:
    leader = build(0, 2, timeout_s=3.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(leader.meeting.meet, lambda _: STORE_PORT)
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"rank": 9, "size": 2}\n', b"\xff\n", b"[" * 9999 + b"\n"):
            with _connect(port) as stranger:
                stranger.sendall(text)
                stranger.settimeout(SOON_S)
                assert stranger.recv(1) == b""
        with pytest.raises(PeerLostError):
            waiting.result(SOON_S)


def _connect(port: int) -> socket.socket:
    deadline_s = time.monotonic() + SOON_S
    while True:
        try:
            return socket.create_connection(("localhost", port), 1.0)
        except OSError:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


def _say(port: int, hello: dict[str, object]) -> None:
    with _connect(port) as line:
        line.sendall(json.dumps(hello).encode() + b"\n")


@pytest.mark.parametrize("rank", [0, 1])
def test_who_waits_for_the_others_says_so_again_and_again(port: int, rank: int) -> None:
    waits: list[float] = []
    place = Place(2, rank, "localhost", port, timeout_s=2.0)
    meeting = Meeting(place, lambda _loss: None, lambda: waits.append(time.monotonic()))
    with pytest.raises(PeerLostError):
        meeting.meet(lambda _: STORE_PORT)
    meeting.close()
    assert len(waits) >= 2
