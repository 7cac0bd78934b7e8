"""Memory of models on a CPU: what tensors free stays with the process, and new lengths of input cost none."""

import os
import subprocess
import sys

import pytest

from sft_judge.core.cpu_memory import CACHES, SHAPES, prepare_cpu_memory

pytestmark = pytest.mark.unit

PROGRAM = """
import ctypes, re
from pathlib import Path
from sft_judge.core.cpu_memory import prepare_cpu_memory

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
        ("prepare_cpu_memory()", {}, "True True"),
        ("prepare_cpu_memory()", {"MALLOC_ARENA_MAX": "2"}, "False False"),
        ("None", {}, "None False"),
    ],
)
def test_freed_memory_is_kept_unless_the_user_has_settings_of_their_own(call, variables, expected):
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    program = [sys.executable, "-c", PROGRAM.format(call=call)]
    seen = subprocess.run(program, env=own | variables, capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == expected


LENGTHS = """
import re
from pathlib import Path

import torch

from sft_judge.core.cpu_memory import prepare_cpu_memory

{call}
weights = [torch.randn(size, 64, dtype=torch.bfloat16) for size in range(32, 416, 32)]
line = []
for length in range(8, 158):
    given = torch.randn(length, 64, dtype=torch.bfloat16)
    for weight in weights:
        torch.nn.functional.linear(given, weight)
    line.append(int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
print(line[-1] - line[20])
"""


def test_new_lengths_of_input_take_no_more_memory_in_bfloat16():
    """Beyond the first ones; without the bound they took half a gigabyte on a CPU with such products."""
    own = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    program = [sys.executable, "-c", LENGTHS.format(call="prepare_cpu_memory()")]
    seen = subprocess.run(program, env=own | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
    assert int(seen.stdout) < 40


def test_capacities_that_a_user_has_set_stay(monkeypatch):
    monkeypatch.setenv(CACHES[0], "7")
    monkeypatch.delenv(CACHES[1], raising=False)
    prepare_cpu_memory.__wrapped__()
    assert [os.environ[name] for name in CACHES] == ["7", str(SHAPES)]
