"""Boots kernels that nobody here built, under QEMU, and dumps their memory.

``python -m tests.vmcore.rig --suite bookworm --out DIR`` makes one; tests take theirs, made once,
from `fresh`.
"""

from .guests import GUESTS, Fresh, Plan, fresh, make
from .packages import RigError

__all__ = ["GUESTS", "Fresh", "Plan", "RigError", "fresh", "make"]
