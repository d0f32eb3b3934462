"""Freed memory is kept inside the context, and given back after it."""

import platform
import resource
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource
from cffa_hf.training.cpu_memory import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        block = bytearray(64 * 2**20)  # calloc: touched below
        ctypes.memset((ctypes.c_char * len(block)).from_buffer(block), 1, len(block))
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

faults()
usual, before = faults(), resident()
with kept_memory():
    faults()
    kept, inside = faults(), resident()
print(usual, kept, before, inside, resident(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")
def test_memory_is_kept_inside_and_given_back_after():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    usual, kept, before, inside, after, usual_again = map(int, done.stdout.split())
    pages = 5 * 64 * 2**20 // resource.getpagesize()
    assert usual > pages / 600  # huge pages, where the system gives them, need 512 times fewer
    assert kept < usual / 10
    assert inside > before + 50 * 2**20
    assert after < before + 10 * 2**20
    assert usual_again > usual / 2


def test_other_systems_are_left_alone(monkeypatch):
    from cffa_hf.training import cpu_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(cpu_memory.ctypes, "CDLL", lambda name: pytest.fail("no C library is asked"))
    with cpu_memory.kept_memory():
        pass
