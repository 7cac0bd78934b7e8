"""Memory of models on a CPU: keep freed memory, and bound the caches of kernels for each shape."""

import ctypes
import functools
import os

# from glibc's malloc.h: https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
ALLOCATOR = {
    "M_MMAP_MAX": (-4, 0),  # allocate no block as a separate mapping, which would be returned when it is freed
    "M_TRIM_THRESHOLD": (-1, -1),  # never return the top of the heap
    "M_TOP_PAD": (-2, 256 * 2**20),  # bytes by which the heap grows at a time
}
# Matrix products in bfloat16 cache a kernel and its buffers for each shape, 1,024 by default, once in oneDNN and once
# in PyTorch's bridge to it: https://github.com/pytorch/pytorch/issues/98688
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
SHAPES = 64  # more than the number of shapes of one input length, which all layers share


@functools.cache  # once per process
def prepare_cpu_memory() -> bool:
    """
    Configure glibc's allocator to keep freed memory, and bound the caches of shapes, before a model runs on a CPU.

    By default each large tensor is a separate mapping whose pages the kernel clears every time, which can take half of
    the time of a prediction with a small model. In bfloat16 resident memory grows with every new length of input. A
    user's own `MALLOC_` variables and cache capacities are kept.

    Returns:
        True if the allocator was configured; False if a `MALLOC_` variable is set or the C library has no `mallopt`.
    """
    for name in CACHES:  # the libraries read these variables at first use
        os.environ.setdefault(name, str(SHAPES))
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(*setting) for setting in ALLOCATOR.values()])
