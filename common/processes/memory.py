"""What the C library does with the memory that tensors on the CPU give back."""

import ctypes

_M_TRIM_THRESHOLD = -1  # the numbers of glibc's malloc.h
_M_MMAP_THRESHOLD = -3
_LARGEST_BLOCKS = (1 << 30, 1 << 25)
"""Bytes; older versions refuse more than 32 MiB."""
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next tensors; for trainings on a CPU.

    By default glibc maps every large block from the system and returns it when it is freed, so each
    activation of each step is faulted in anew, page by page. Blocks that are kept made a ResNet-20
    train a quarter faster. The cost: the process holds on to its largest footprint until it ends.
    Other C libraries have no such setting; there, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    any(mallopt(_M_MMAP_THRESHOLD, largest) for largest in _LARGEST_BLOCKS)  # the first accepted
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
