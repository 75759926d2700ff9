"""Turns a group of leaks into the rule of SARIF that it breaks; the rules, with what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..leaks import LeakGroup, LeakTable, Loss


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding.

    Parameters
    ----------
    id, name
        Stable names, for machines and in camel case.
    level
        ``"error"``, ``"warning"``, ``"note"``.
    short
        One sentence.
    help
        What it means, and what to do.
    """

    id: str
    name: str
    level: str
    short: str
    help: str

    def descriptor(self) -> dict[str, Any]:
        """Return the rule as SARIF's reportingDescriptor."""
        return {
            "id": self.id,
            "name": self.name,
            "shortDescription": {"text": self.short},
            "fullDescription": {"text": self.help},
            "help": {"text": self.help},
            "defaultConfiguration": {"level": self.level},
            "properties": {"tags": ["memory", "leak"]},
        }


DIRECT = Rule(
    "direct-leak",
    "DirectLeak",
    "error",
    "Allocated memory that nothing reachable and no other leak refers to.",
    "Nobody can free these objects any more: no root leads to them, and nothing else that leaks,"
    " but perhaps their own cycle. Find where the last pointer was lost: `kmemleak explain` shows"
    " what an object is and refers to, the stack where it was allocated. What they lead to leaks"
    " with them, and goes away with them.",
)
INDIRECT = Rule(
    "indirect-leak",
    "IndirectLeak",
    "note",
    "Allocated memory that only other leaks refer to.",
    "Objects that leaked objects lead to. They go away when whatever holds them is freed in the"
    " usual way: look at the direct leaks first.",
)
KNOWN = Rule(
    "suppressed-leak",
    "SuppressedLeak",
    "note",
    "Leaks that a suppression covers, and what these lead to.",
    "They are known: a line of a file of suppressions names their function, module, type, size or"
    " address. Remove that line to have them reported again.",
)

POSSIBLE = Rule(
    "possible-leak",
    "PossibleLeak",
    "note",
    "Allocated memory that is held only by pointers into the middle of objects, or past their end.",
    "Such a pointer can be all that a program has left of an object, or be a chance: a number that"
    " looks like one, or what is left of an object that was freed there. Programs that keep"
    " pointers to members, to base classes or behind a header of their own mean them. `kmemleak"
    " explain` tells which words these are. They are no leaks: no exit code but that of"
    " `--fail-on possible` counts them.",
)

#: All rules, in the order of their indices.
RULES = (DIRECT, INDIRECT, KNOWN, POSSIBLE)


def rule_of(table: LeakTable, group: LeakGroup) -> tuple[Rule, int]:
    """Return the rule that a group of a table breaks, and its index."""
    if int(table["loss"][group.rows[0]]) == Loss.POSSIBLE:
        rule = POSSIBLE
    else:
        rule = DIRECT if group.direct_count else INDIRECT
    return rule, RULES.index(rule)
