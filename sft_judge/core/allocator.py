"""Keep memory that tensors have freed in the process, so that the next tensors need not ask the kernel for it."""

import ctypes
import functools
import os

# of glibc's malloc.h, with the values to set: https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
SETTINGS = {
    "M_MMAP_MAX": (-4, 0),  # no block in a mapping of its own, which is returned when it is freed
    "M_TRIM_THRESHOLD": (-1, -1),  # never return the top of the heap
    "M_TOP_PAD": (-2, 256 * 2**20),  # let the heap grow by so many bytes at a time
}


@functools.cache  # once a process
def keep_freed_memory() -> bool:
    """
    Tell glibc's allocator to keep freed memory; for models that run on a CPU.

    By default each large tensor is a mapping of its own, whose pages the kernel clears every time: half of the time
    of predicting with a model of 135M parameters on two cores was seen to be system time. A user's own `MALLOC_`
    variables stay as they are.

    Returns:
        Whether it was done: False with such a variable, and where the C library has no `mallopt`.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(*setting) for setting in SETTINGS.values()])
