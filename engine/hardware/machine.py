"""What machine this is, as far as compiled networks and measurements depend on it, and who else uses it."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

_PROC = Path("/proc")
# Taken where the system does not say.
_MEMORY_UNKNOWN = 4 << 30
# Vector extensions of x86, and of ARM, by what Linux calls the line with them: AMD's "sme" encrypts memory.
_VECTOR = {
    "flags": ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "avx_vnni"),
    "Features": ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
}


@functools.cache
def describe_machine() -> dict[str, Any]:
    """Return system, processor, its vector extensions, usable cores and memory in GiB, all JSON-ready."""
    text = _read("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", text)
    # ARM's processors have numbers instead of a name.
    numbers = re.findall(r"^CPU (implementer|part)\s*:\s*(\w+)", text, re.MULTILINE)[:2]
    flags = re.search(r"(flags|Features)\s*:\s*(.+)", text)
    known = set(flags.group(2).split()) if flags else set()
    memory = re.search(r"MemTotal:\s*(\d+) kB", _read("/proc/meminfo"))
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": model.group(1).strip() if model else ", ".join(map(" ".join, numbers)) or platform.processor(),
        "extensions": [name for name in _VECTOR[flags.group(1)] if name in known] if flags else [],
        "cores": usable_cores(),
        "memory_gib": round(int(memory.group(1)) / 2**20, 1) if memory else None,
    }


def adds_bytes_exactly() -> bool:
    """Whether this processor's sums of 8-bit products are exact.

    On x86 without VNNI pairs of them are added in 16 bits, which saturate: measured on a processor with AVX2 alone, a
    network's taps were off by a quarter, in ONNX Runtime and OpenVINO alike. Unknown counts as no.
    """
    machine = describe_machine()
    if machine["architecture"].lower() not in ("x86_64", "amd64", "i386", "i686", "x86"):
        return True
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & set(machine["extensions"]))


def usable_cores() -> int:
    """Return the number of cores this process may use: its affinity, or less where a control group's quota is."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _control_groups("cpu"):
        # Of version 2 or of version 1: microseconds in each period of so many, in one file or two.
        limit = _read(f"{group}/cpu.max") or _read(f"{group}/cpu.cfs_quota_us") + _read(f"{group}/cpu.cfs_period_us")
        quota, _, period = limit.strip().replace("\n", " ").partition(" ")
        if quota.isdigit() and period.isdigit():
            cores = min(cores, max(math.ceil(int(quota) / int(period)), 1))
    return cores


def usable_memory() -> int:
    """Return the bytes of memory this process may use: the machine's, or less where a control group's limit is."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on Windows
        memory = _MEMORY_UNKNOWN
    for group in _control_groups("memory"):
        limit = (_read(f"{group}/memory.max") or _read(f"{group}/memory.limit_in_bytes")).strip()
        if limit.isdigit():
            memory = min(memory, int(limit))
    return memory


def _control_groups(controller: str) -> Iterator[str]:
    """Yield the folders of the control groups that this process is in, as far as they limit this, and all above them.

    Under version 2 there is one tree of groups, whose line names no controllers; under version 1 there are several, in
    folders of their own. A container may see its own group as the root, and the path that it has on the machine.
    """
    for line in ["0::/", *_read("/proc/self/cgroup").splitlines()]:
        names, _, path = line.partition(":")[2].partition(":")
        if not names or controller in names.split(","):
            group = PurePosixPath(path)
            for tree in {f"/{names}", f"/{controller}"} if names else {""}:
                yield from (f"/sys/fs/cgroup{tree}{folder}".rstrip("/") for folder in (group, *group.parents))


class BusyElsewhere:
    """How much of the machine others use, from when this is made: a rate taken beside them says little."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds = _seconds_elsewhere()

    def share(self) -> float | None:
        """Return the share of the cores' time that other processes had; None where the system does not say."""
        now = _seconds_elsewhere()
        if now is None or self._seconds is None:
            return None
        available = (time.perf_counter() - self._start) * (os.cpu_count() or 1)
        return min(max((now - self._seconds) / available, 0.0), 1.0)


def _seconds_elsewhere() -> float | None:
    """Return the processor seconds since the start of the machine that neither this process nor its descendants had."""
    try:
        # proc(5): user nice system idle iowait irq softirq steal, in ticks.
        ticks = [int(text) for text in (_PROC / "stat").read_text(encoding="ascii").split("\n")[0].split()[1:9]]
        own = {os.getpid(): 0}
        table = {}
        for path in _PROC.glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # The name, in parentheses, may hold anything.
                fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                # Parent; utime, stime, and those of the children that have ended.
                table[int(path.parent.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    except (OSError, ValueError, IndexError):
        return None
    grown = True
    while grown:
        found = {pid: 0 for pid, (parent, _) in table.items() if parent in own and pid not in own}
        own |= found
        grown = bool(found)
    used = sum(table[pid][1] for pid in own if pid in table)
    return (sum(ticks) - ticks[3] - ticks[4] - used) / os.sysconf("SC_CLK_TCK")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
