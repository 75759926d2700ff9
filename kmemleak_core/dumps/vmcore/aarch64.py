"""Turns VMCOREINFO of an AArch64 kernel into the place and layout of its page tables.

Layouts: Arm ARM, D8 (VMSAv8-64 translation tables, FEAT_LPA, FEAT_LPA2); Linux's
``arch/arm64/include/asm/pgtable-hwdef.h``, ``arch/arm64/kernel/vmcore_info.c``.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType

import numpy as np

from ...errors import DumpError
from .page_tables import U64, Mask
from .vmcoreinfo import number, page_size, symbol

_VALID, _TABLE = 1, 2

#: By the lowest address bit of pages: the largest blocks, without and with addresses of 52 bits.
_BLOCKS = {12: (30, 39), 14: (25, 36), 16: (29, 42)}


class ArmPaging:
    """See `Paging`: pages of 4, 16 or 64 KiB, and blocks.

    Parameters
    ----------
    granule
        Bytes of a page.
    bits
        Of the kernel's virtual addresses.
    """

    def __init__(self, granule: int, bits: int) -> None:
        low = granule.bit_length() - 1
        each = low - 3
        levels = -(-(bits - low) // each)
        self.shifts = tuple(low + each * i for i in reversed(range(levels)))
        self.table_size = granule
        self.kernel_entries = slice(0, 1 << bits - self.shifts[0])
        self.kernel_base = (1 << 64) - (1 << bits)
        self._low = low
        # Addresses of 52 bits: where pages have 64 KiB, the format has room for them anyway.
        self._wide = low == 16 or bits > 48
        self._largest = _BLOCKS[low][bits > 48 or low == 16]

    def decode(self, entries: U64, level: int) -> tuple[Mask, Mask, U64]:
        """See `Paging`."""
        shift = self.shifts[level]
        valid = entries & np.uint64(_VALID) != 0
        table = entries & np.uint64(_TABLE) != 0
        if shift == self._low:
            leads, maps = np.zeros(entries.size, bool), valid & table
        else:
            leads, maps = valid & table, valid & ~table & (shift <= self._largest)
        top = 50 if self._wide and self._low < 16 else 48
        address = entries & np.uint64((1 << top) - (1 << self._low))
        if self._wide:
            # The highest bits stand where there is room below.
            at, to = (12, 48) if self._low == 16 else (8, 50)
            address |= (entries >> np.uint64(at) & np.uint64((1 << 52 - to) - 1)) << np.uint64(to)
        address[maps] &= ~np.uint64((1 << shift) - 1)
        return leads, maps, address


def find_tables(info: MappingType[str, str], path: str) -> tuple[int, ArmPaging]:
    """Say where the kernel's page tables are.

    Parameters
    ----------
    info
        VMCOREINFO.
    path
        For error messages.

    Returns
    -------
    root : int
        Physical address of the top table.
    paging : ArmPaging
        Its layout.

    Raises
    ------
    DumpError
        It cannot be told; the error says what is missing.
    """
    table = symbol(info, "swapper_pg_dir")
    offset = number(info, "kimage_voffset")
    bits = number(info, "VA_BITS")
    if table is None or offset is None or bits is None:
        wanted = {
            "SYMBOL(swapper_pg_dir)": table,
            "NUMBER(kimage_voffset)": offset,
            "NUMBER(VA_BITS)": bits,
        }
        missing = ", ".join(name for name, value in wanted.items() if value is None)
        what = f"its VMCOREINFO has no {missing}" if info else "holds no VMCOREINFO"
        raise DumpError(
            f"{what}: where the kernel's page tables are is not known",
            path=path,
            hint="of a virtual machine, dump with QEMU's -device vmcoreinfo and a kernel with "
            "CONFIG_FW_CFG_SYSFS and CONFIG_KEXEC",
        )
    granule = page_size(info)
    size = number(info, "TCR_EL1_T1SZ")
    size = number(info, "tcr_el1_t1sz") if size is None else size
    # A kernel built for 52 bits runs on processors with 48. With pages of 64 KiB its top table
    # is that of 52 bits nevertheless, with others a level less is used.
    if size is not None and granule != 65536:
        bits = 64 - size
    if not 36 <= bits <= 52:
        raise DumpError(f"virtual addresses of {bits} bits are none of AArch64's", path=path)
    return table - offset & (1 << 52) - 1, ArmPaging(granule, bits)
