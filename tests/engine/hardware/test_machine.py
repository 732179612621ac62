from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pc_engine.hardware import machine
from pc_engine.hardware.machine import BusyElsewhere, describe_machine, usable_cores, usable_memory


def test_the_description_can_be_a_key_of_a_cache() -> None:
    described = describe_machine()
    assert json.loads(json.dumps(described)) == described
    assert set(described) == {"system", "architecture", "processor", "extensions", "cores", "memory_gib"}
    assert described["system"]
    assert described["memory_gib"] is None or described["memory_gib"] > 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin processes to cores")
def test_only_the_cores_that_this_process_may_use_count() -> None:
    allowed = os.sched_getaffinity(0)
    assert usable_cores() <= len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_system_without_proc_is_described_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: "")
    described = describe_machine.__wrapped__()
    assert described["memory_gib"] is None
    assert described["extensions"] == []
    assert described["cores"] >= 1


def test_extensions_are_read_from_the_processors_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor : 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512f amx_bf16 avx2000 sme\n"
    monkeypatch.setattr(machine, "_read", lambda path: text if path.endswith("cpuinfo") else "MemTotal: 4194304 kB")
    described = describe_machine.__wrapped__()
    assert described["processor"] == "Some CPU @ 2 GHz"
    assert described["extensions"] == ["avx2", "avx512f", "amx_bf16"]
    assert described["memory_gib"] == 4.0


def test_a_processor_of_arm_has_its_numbers_and_features(monkeypatch: pytest.MonkeyPatch) -> None:
    core = "processor\t: {}\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd asimddp sve\nCPU implementer\t: 0x41\n"
    core += "CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: 0xd40\nCPU revision\t: 1\n\n"
    text = core.format(0) + core.format(1)
    monkeypatch.setattr(machine, "_read", lambda path: text if path.endswith("cpuinfo") else "")
    described = describe_machine.__wrapped__()
    assert described["processor"] == "implementer 0x41, part 0xd40"
    assert described["extensions"] == ["asimd", "asimddp", "sve"]


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 64), ("150000 100000", 2), ("5000 100000", 1), ("", 64)]
)
def test_a_containers_quota_limits_the_cores(monkeypatch: pytest.MonkeyPatch, quota: str, expected: int) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: quota if path.endswith("cpu.max") else "")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert usable_cores() == expected


GIB = 1 << 30
# What there is where a process is in /job/step, and only /job has limits.
VERSION_2 = {
    "/proc/self/cgroup": "0::/job/step\n",
    "/sys/fs/cgroup/job/step/cpu.max": "max 100000\n",
    "/sys/fs/cgroup/job/step/memory.max": "max\n",
    "/sys/fs/cgroup/job/cpu.max": "250000 100000\n",
    "/sys/fs/cgroup/job/memory.max": f"{GIB}\n",
}
VERSION_1 = {
    "/proc/self/cgroup": "9:memory:/job/step\n4:cpu,cpuacct:/job/step\n2:cpuset:/other\n1:name=systemd:/a:b\n0::/\n",
    "/sys/fs/cgroup/cpu,cpuacct/job/step/cpu.cfs_quota_us": "-1\n",
    "/sys/fs/cgroup/cpu,cpuacct/job/step/cpu.cfs_period_us": "100000\n",
    "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "250000\n",
    "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
    "/sys/fs/cgroup/memory/job/step/memory.limit_in_bytes": "9223372036854771712\n",
    "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{GIB}\n",
}
# As a container of version 1 has it: its own group is the root, and its path the machine's.
CONTAINER = {
    "/proc/self/cgroup": "9:memory:/docker/0123\n4:cpu,cpuacct:/docker/0123\n",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n",
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
}


@pytest.mark.parametrize("files", [VERSION_2, VERSION_1, CONTAINER], ids=["version 2", "version 1", "container"])
def test_limits_of_control_groups_and_of_those_above_hold(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str]
) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(
        machine.os, "sysconf", {"SC_PHYS_PAGES": 1 << 22, "SC_PAGE_SIZE": 1 << 12}.__getitem__, raising=False
    )
    assert usable_cores() == 3
    assert usable_memory() == GIB


def test_work_of_others_is_told_from_that_of_ones_own_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    me, child, grandchild, stranger = os.getpid(), 9_000_001, 9_000_002, 9_000_003

    def write(total: int, **times: int) -> None:
        # user nice system idle iowait irq softirq steal guest: idle time and time waiting for disks is nobody's work.
        (tmp_path / "stat").write_text(f"cpu  {total * ticks} 0 0 {7 * total} 5 0 0 0 0\ncpu0 1 2 3\n")
        for pid, parent, name in ((me, 1, "me"), (child, me, "a (b) c"), (grandchild, child, "c"), (stranger, 1, "d")):
            (tmp_path / str(pid)).mkdir(exist_ok=True)
            used = times.get(name[0], 0) * ticks
            fields = ["S", parent, *[0] * 9, used, 0, 0, 0, 20]
            (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) " + " ".join(map(str, fields)))

    monkeypatch.setattr(machine, "_PROC", tmp_path)
    write(100, m=1, a=2, c=3, d=50)
    before = machine._seconds_elsewhere()
    assert before == pytest.approx(100 - 6)
    write(110, m=4, a=4, c=4, d=54)
    after = machine._seconds_elsewhere()
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(10 - 6)
    meter = BusyElsewhere()
    write(10_000, m=4, a=4, c=4, d=54)
    assert meter.share() == 1
    (tmp_path / "stat").unlink()
    assert meter.share() is None
    assert BusyElsewhere().share() is None


@pytest.mark.parametrize(
    ("architecture", "extensions", "exact"),
    [
        ("x86_64", ["avx2"], False),
        ("AMD64", [], False),
        ("x86_64", ["avx2", "avx512f"], False),
        ("x86_64", ["avx2", "avx_vnni"], True),
        ("x86_64", ["avx512f", "avx512_vnni"], True),
        ("aarch64", [], True),
        ("arm64", [], True),
    ],
)
def test_sums_of_bytes_saturate_on_x86_without_vnni(monkeypatch, architecture, extensions, exact):
    monkeypatch.setattr(machine, "describe_machine", lambda: {"architecture": architecture, "extensions": extensions})
    assert machine.adds_bytes_exactly() is exact
