"""What machine this is, as far as compiled networks and measurements depend on it."""

from __future__ import annotations

import functools
import math
import os
import platform
import re
from pathlib import Path
from typing import Any


@functools.cache
def describe_machine() -> dict[str, Any]:
    """Return system, processor, its vector extensions, usable cores and memory in GiB, all JSON-ready."""
    text = _read("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", text)
    flags = re.search(r"flags\s*:\s*(.+)", text)
    known = set(flags.group(1).split()) if flags else set()
    vector = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "avx_vnni")
    memory = re.search(r"MemTotal:\s*(\d+) kB", _read("/proc/meminfo"))
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": model.group(1).strip() if model else platform.processor(),
        "extensions": [name for name in vector if name in known],
        "cores": usable_cores(),
        "memory_gib": round(int(memory.group(1)) / 2**20, 1) if memory else None,
    }


def usable_cores() -> int:
    """Return the number of cores this process may use: its affinity, or less where a container's quota allows less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, max(math.ceil(int(quota) / int(period)), 1))
    return cores


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
