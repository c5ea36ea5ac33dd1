"""Waiting gangs in the order in which they are served, kept so that a decision looks at one gang of each kind only.

Order: gangs that their tenant's guarantee covers come first (`order`); then those of the tenant with the lower share;
then replicas that keep a pool at its minReplicas; then higher priority, where waiting counts as priority (`aging_s`
seconds are worth one point); then age. Because everybody ages equally fast, the order of two gangs never changes by
waiting,

    priority_a + waited_a / aging  >  priority_b + waited_b / aging
      <=>  created_a - aging * priority_a  <  created_b - aging * priority_b

so the right-hand side is a key that is computed once. A gang of the lowest priority is thereby overtaken only by gangs
that come within (highest - lowest priority) x aging_s after it: nobody waits for ever behind newcomers.

Gangs that differ in age only (same tenant, size, classes, priority, kind) form a line. If the first of a line cannot be
placed, no other of it can, so whoever decides looks at the heads of lines: some dozen, however many gangs wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from llmos_operator.planning.quota.values import Gang, GangKind

Need = tuple[tuple[str, ...], int]
"""Classes that will do, and accelerators: gangs of one tenant that need the same fit into its guarantee alike."""


@dataclass(frozen=True, slots=True)
class Shape:
    """All that a decision depends on, the gang's age excepted."""

    tenant: str
    kind: GangKind
    classes: tuple[str, ...]
    pods: int
    accelerators_per_pod: int
    priority: int
    node_selector: frozenset[tuple[str, str]]

    @property
    def need(self) -> Need:
        """What it needs of a guarantee."""
        return self.classes, self.pods * self.accelerators_per_pod


def shape_of(gang: Gang) -> Shape:
    """The line that a gang stands in."""
    return Shape(
        gang.tenant,
        gang.kind,
        gang.classes,
        gang.pods,
        gang.accelerators_per_pod,
        gang.priority,
        gang.node_selector,
    )


def compute_key(gang: Gang, aging_s: float) -> float:
    """Return the gang's place among those of equal share: priority with aging, then age. The smallest is first."""
    return gang.created_s - aging_s * gang.priority


@dataclass(slots=True)
class Line:
    """Gangs of one shape, oldest first."""

    shape: Shape
    _heap: list[tuple[float, str]] = field(default_factory=list)
    _members: dict[str, Gang] = field(default_factory=dict)

    def push(self, gang: Gang) -> None:
        """Let a gang join; one that stands in the line already is replaced."""
        known = self._members.get(gang.id)
        if known is None or known.created_s != gang.created_s:
            heappush(self._heap, (gang.created_s, gang.id))
        self._members[gang.id] = gang

    def remove(self, gang_id: str) -> None:
        """Let a gang leave. Its entry in the heap is dropped when it comes up, or when most entries are such."""
        if self._members.pop(gang_id, None) is None:
            return
        if len(self._heap) > 2 * len(self._members) + 16:
            self._heap = [(gang.created_s, gang.id) for gang in self._members.values()]
            heapify(self._heap)

    def head(self) -> Gang | None:
        """The oldest gang."""
        while self._heap:
            created_s, gang_id = self._heap[0]
            gang = self._members.get(gang_id)
            if gang is not None and gang.created_s == created_s:
                return gang
            heappop(self._heap)
        return None

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Gang]:
        return iter(sorted(self._members.values(), key=lambda gang: (gang.created_s, gang.id)))


_NO_LINES: Mapping[Need, Mapping[Shape, Line]] = {}


class Lines:
    """All lines. A line that could not be served sleeps until something changes that it waits for.

    What a line waits for is a pair of a class and a tenant or cohort whose holdings have to shrink, or a class alone;
    or a turn of another gang of its tenant that has to end.
    """

    def __init__(self) -> None:
        self._lines: dict[Shape, Line] = {}
        self._of_tenants: dict[str, dict[Need, dict[Shape, Line]]] = {}
        self._changes: dict[str, int] = {}
        self._awake: dict[Shape, None] = {}
        self._asleep: dict[tuple[str, str], dict[Shape, None]] = {}
        self._later: list[tuple[float, str]] = []
        self._backing_off: dict[str, Gang] = {}

    def push(self, gang: Gang, now_s: float) -> None:
        """Let a gang wait; one that may not be tried yet joins its line when its time has come."""
        if gang.retry_at_s > now_s:
            self._backing_off[gang.id] = gang
            heappush(self._later, (gang.retry_at_s, gang.id))
            return
        shape = shape_of(gang)
        line = self._lines.get(shape)
        if line is None:
            line = self._lines[shape] = Line(shape)
            self._of_tenants.setdefault(shape.tenant, {}).setdefault(shape.need, {})[shape] = line
        first = line.head()
        line.push(gang)
        # Only the first of a line is looked at, so another first may have a chance that the one before had not.
        if first is None or line.head() is not first:
            self._awake[shape] = None
        self._changes[shape.tenant] = self.changes(shape.tenant) + 1

    def remove(self, gang: Gang) -> None:
        """Let a gang leave."""
        self._backing_off.pop(gang.id, None)
        shape = shape_of(gang)
        line = self._lines.get(shape)
        if line is None:
            return
        line.remove(gang.id)
        self._changes[shape.tenant] = self.changes(shape.tenant) + 1
        if len(line) == 0:
            del self._lines[shape]
            alike = self._of_tenants[shape.tenant][shape.need]
            del alike[shape]
            if not alike:
                del self._of_tenants[shape.tenant][shape.need]
            self._awake.pop(shape, None)

    def let_join(self, now_s: float) -> None:
        """Let gangs join their lines whose time has come."""
        while self._later and self._later[0][0] <= now_s:
            retry_at_s, gang_id = heappop(self._later)
            gang = self._backing_off.get(gang_id)
            if gang is not None and gang.retry_at_s == retry_at_s:
                del self._backing_off[gang_id]
                self.push(gang, now_s)

    def next_join_s(self) -> float | None:
        """When the next gang joins its line."""
        while self._later:
            retry_at_s, gang_id = self._later[0]
            gang = self._backing_off.get(gang_id)
            if gang is not None and gang.retry_at_s == retry_at_s:
                return retry_at_s
            heappop(self._later)
        return None

    def backing_off(self) -> list[Gang]:
        """Gangs that may not be tried yet."""
        return list(self._backing_off.values())

    def awake(self) -> list[Line]:
        """Lines to be looked at."""
        return [self._lines[shape] for shape in self._awake if shape in self._lines]

    def all(self) -> list[Line]:
        """All lines in which somebody waits."""
        return list(self._lines.values())

    def of_tenant(self, tenant: str) -> Mapping[Need, Mapping[Shape, Line]]:
        """The lines of a tenant by what they need, whether they may have a chance or not."""
        return self._of_tenants.get(tenant, _NO_LINES)

    def head_of(self, gang: Gang) -> Gang | None:
        """The first of the line that a gang stands in, or stood."""
        line = self._lines.get(shape_of(gang))
        return line.head() if line is not None else None

    def changes(self, tenant: str) -> int:
        """A number that is another one whenever a gang joined or left the tenant's lines."""
        return self._changes.get(tenant, 0)

    def let_sleep(self, line: Line, *, until: list[tuple[str, str]]) -> None:
        """Look at a line no more until one of these changes."""
        self._awake.pop(line.shape, None)
        for event in until:
            sleepers = self._asleep.setdefault(event, {})
            sleepers[line.shape] = None
            if len(sleepers) > 2 * len(self._lines) + 16:  # lines that ended while they slept
                self._asleep[event] = {shape: None for shape in sleepers if shape in self._lines}

    def wake(self, event: tuple[str, str]) -> list[Line]:
        """Look again at the lines that wait for this; return those that slept."""
        woken = []
        for shape in self._asleep.pop(event, ()):
            if shape in self._lines and shape not in self._awake:
                self._awake[shape] = None
                woken.append(self._lines[shape])
        return woken
