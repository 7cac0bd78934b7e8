"""Memory of models that run on a CPU: keep what tensors have freed, and bound what is cached for each shape."""

import ctypes
import functools
import os

# of glibc's malloc.h: https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
ALLOCATOR = {
    "M_MMAP_MAX": (-4, 0),  # no block in a mapping of its own, which is returned when it is freed
    "M_TRIM_THRESHOLD": (-1, -1),  # never return the top of the heap
    "M_TOP_PAD": (-2, 256 * 2**20),  # let the heap grow by so many bytes at a time
}
# Products in bfloat16 keep a kernel and its buffers for each shape that they have met, 1,024 of them by default, once
# in oneDNN and once in PyTorch's bridge to it: https://github.com/pytorch/pytorch/issues/98688
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
SHAPES = 64  # more than one length of input has, which all layers share


@functools.cache  # once a process
def prepare_cpu_memory() -> bool:
    """
    Tell glibc's allocator to keep freed memory, and bound the caches of shapes; before a model runs on a CPU.

    By default each large tensor is a mapping of its own, whose pages the kernel clears every time: half of the time
    of predicting with a model of 135M parameters on two cores was seen to be system time. And in bfloat16 resident
    memory grew with every new length of input, to gigabytes. A user's own `MALLOC_` variables and capacities stay.

    Returns:
        Whether the allocator was told: False with a `MALLOC_` variable, and where the C library has no `mallopt`.
    """
    for name in CACHES:  # read at their first use
        os.environ.setdefault(name, str(SHAPES))
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(*setting) for setting in ALLOCATOR.values()])
