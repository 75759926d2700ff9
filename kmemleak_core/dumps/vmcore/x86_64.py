"""Turns VMCOREINFO of an x86-64 kernel into the place and layout of its page tables.

Layouts: Intel SDM volume 3, chapter 4 (4- and 5-level paging); Linux's
``Documentation/arch/x86/x86_64/mm.rst``, ``arch/x86/kernel/vmcore_info_64.c``.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType

import numpy as np

from ...errors import DumpError
from .page_tables import U64, Mask
from .processors import Control
from .vmcoreinfo import number, symbol

#: ``__START_KERNEL_map``: the kernel's own code and data are mapped from here on, physical
#: address `phys_base` first.
KERNEL_MAP = 0xFFFFFFFF80000000

_PRESENT, _LARGE = 1, 1 << 7
_LA57 = 1 << 12
_ADDRESS = (1 << 52) - (1 << 12)


class X86Paging:
    """See `Paging`: 4 or 5 levels, pages of 4 KiB, 2 MiB and 1 GiB.

    Parameters
    ----------
    levels
        4 or 5.
    encryption
        The address bit that marks encrypted memory (``sme_mask``), or 0.
    """

    table_size = 4096
    kernel_entries = slice(256, 512)

    def __init__(self, levels: int = 4, encryption: int = 0) -> None:
        self.shifts = (48, 39, 30, 21, 12)[-levels:]
        self.kernel_base = (1 << 64) - (1 << self.shifts[0] + 8)
        self._address = np.uint64(_ADDRESS & ~encryption)

    def decode(self, entries: U64, level: int) -> tuple[Mask, Mask, U64]:
        """See `Paging`."""
        shift = self.shifts[level]
        present = entries & np.uint64(_PRESENT) != 0
        large = entries & np.uint64(_LARGE) != 0
        if shift == 12:
            maps = present
        elif shift <= 30:
            maps = present & large
        else:
            # Reserved there: whatever has the bit is no entry.
            present &= ~large
            maps = np.zeros(entries.size, bool)
        address = entries & self._address
        # Of a large page's address, the low bits are flags.
        address[maps] &= ~np.uint64((1 << shift) - 1)
        return present & ~maps, maps, address


def find_tables(
    info: MappingType[str, str], phys_base: int | None, control: Control | None, path: str
) -> tuple[int, X86Paging]:
    """Say where the kernel's page tables are.

    Parameters
    ----------
    info
        VMCOREINFO; may be empty.
    phys_base
        As the file's headers tell it, for kernels whose VMCOREINFO does not; None if they do not.
    control
        A processor's, for a dump without VMCOREINFO; None if unknown.
    path
        For error messages.

    Returns
    -------
    root : int
        Physical address of the top table.
    paging : X86Paging
        Its layout.

    Raises
    ------
    DumpError
        It cannot be told; the error says what is missing.
    """
    five = number(info, "pgtable_l5_enabled")
    if five is None:
        five = control is not None and control.cr4 & _LA57
    levels = 5 if five else 4
    paging = X86Paging(levels, number(info, "sme_mask") or 0)
    table = symbol(info, "init_top_pgt", "init_level4_pgt", "swapper_pg_dir")
    told = number(info, "phys_base")
    base = phys_base if told is None else told
    if table is not None and base is not None:
        return table - KERNEL_MAP + base & (1 << 52) - 1, paging
    if control is not None:
        return control.cr3 & _ADDRESS, paging
    if table is not None:
        what = "says neither phys_base nor has it headers of virtual addresses"
    elif info:
        what = "does not say where the page tables are (no SYMBOL(swapper_pg_dir))"
    else:
        raise DumpError(
            "holds no VMCOREINFO, neither in a note nor in its memory, and no processor's CR3: "
            "where the kernel's page tables are is not known",
            path=path,
            hint="of a virtual machine, dump with QEMU's -device vmcoreinfo and a kernel with "
            "CONFIG_FW_CFG_SYSFS and CONFIG_KEXEC",
        )
    raise DumpError(f"its VMCOREINFO {what}", path=path)
