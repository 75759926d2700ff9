"""A log's replay as plainly as it can be said: a dictionary of live objects, and a loop."""

from __future__ import annotations

from dataclasses import dataclass, field

from kmemleak_core.event_log import EventKind
from kmemleak_core.replay import AnomalyKind


@dataclass
class Live:
    size: int
    birth: int

    def holds(self, start: int, address: int) -> bool:
        return start <= address < start + max(1, self.size)


@dataclass
class Model:
    """Replays (kind, address, size) events, one at a time."""

    live: dict[int, Live] = field(default_factory=dict)
    #: By address: the event that ended the object there, and whether it was a free.
    ended: dict[int, tuple[int, bool]] = field(default_factory=dict)
    anomalies: list[tuple[AnomalyKind, int, int, int]] = field(default_factory=list)
    timeline: list[tuple[int, int]] = field(default_factory=list)
    nulls: int = 0

    def run(self, events):
        for number, (kind, address, size) in enumerate(events):
            if address == 0:
                self.nulls += 1
            elif kind == EventKind.ALLOC:
                self.make_room(number, address, size)
                self.live[address] = Live(size, number)
            else:
                self.change(number, EventKind(kind), address, size)
            self.timeline.append((len(self.live), sum(o.size for o in self.live.values())))
        return self

    def change(self, number, kind, address, size):
        start = next((s for s, o in self.live.items() if o.holds(s, address)), None)
        if start is None:
            event, freed = self.ended.get(address, (-1, False))
            wrong = AnomalyKind.DOUBLE_FREE if freed else AnomalyKind.UNKNOWN_FREE
            self.anomalies.append((wrong, number, event, address))
        elif kind == EventKind.FREE_PART:
            old = self.live.pop(start)
            end = start + old.size
            self.ended[address] = number, True
            if start == end and size == 0:
                self.live[start] = old
            for low, high in ((start, address), (address + size, end)):
                if low < high:
                    self.live[low] = Live(high - low, old.birth)
        elif start != address:
            birth = self.live[start].birth
            self.anomalies.append((AnomalyKind.INTERIOR_FREE, number, birth, address))
        elif kind == EventKind.FREE:
            del self.live[address]
            self.ended[address] = number, True
        else:
            old = self.live.pop(address)
            self.make_room(number, address, size)
            self.live[address] = Live(size, old.birth)

    def make_room(self, number, address, size):
        end = address + max(1, size)
        for start in sorted(self.live):
            old = self.live[start]
            if start < end and address < start + max(1, old.size):
                del self.live[start]
                self.ended[start] = number, False
                self.anomalies.append((AnomalyKind.OVERLAP, number, old.birth, address))

    def peak(self, column):
        best = max((row[column] for row in self.timeline), default=0)
        if best == 0:
            return 0, 0
        return best, next(i for i, row in enumerate(self.timeline) if row[column] == best)
