"""Memory that tensors free stays with the process where a model runs on a CPU."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit

PROGRAM = """
import ctypes, re
from pathlib import Path
from sft_judge.core.allocator import keep_freed_memory

done = {call}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def resident():
    return 1024 * int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = resident()
block = libc.malloc(64 * 2**20)
libc.memset(block, 1, 64 * 2**20)
libc.free(block)
print(done, resident() - before > 60 * 2**20)
"""


@pytest.mark.parametrize(
    ("call", "variables", "expected"),
    [
        ("keep_freed_memory()", {}, "True True"),
        ("keep_freed_memory()", {"MALLOC_ARENA_MAX": "2"}, "False False"),
        ("None", {}, "None False"),
    ],
)
def test_freed_memory_is_kept_unless_the_user_has_settings_of_their_own(call, variables, expected):
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    program = [sys.executable, "-c", PROGRAM.format(call=call)]
    seen = subprocess.run(program, env=own | variables, capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == expected
