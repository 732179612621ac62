"""Ray itself: finding it, what a cluster has room for, and a data set of numbers that come to exist one by one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from pc_engine.distributed.block_worker import BLOCK
from pc_engine.errors import PcEngineError, UsageError, first_line
from pc_engine.hardware.machine import usable_cores
from pc_engine.packages import missing, require

# What Ray is needed to do.
_PURPOSE = "share a run among machines"
# More cores work better as two workers: what follows the network is Python, a part of which runs on one core.
_MOST_CORES = 16
# Ray carries numbers only.
_OBJECT_STORE_BYTES = 128 << 20


def require_ray() -> None:
    """Raise MissingPackageError if Ray is not installed; imports nothing."""
    require("ray", _PURPOSE)


@dataclass(frozen=True)
class Pool:
    """The workers of a run: how many, and what each has to itself."""

    workers: int
    cpus: int
    gpus: int

    def __str__(self) -> str:
        each = "a GPU" if self.gpus else f"{self.cpus} core{'s' if self.cpus > 1 else ''}"
        return f"{self.workers} worker{'s' if self.workers > 1 else ''} with {each} each"


def plan_pool(machines: Sequence[Mapping[str, float]], device: str = "auto", cpus: int | None = None) -> Pool:
    """Return the workers that a cluster has room for.

    Parameters
    ----------
    machines
        What each machine has, ``"CPU"`` and ``"GPU"``.
    device
        ``"cpu"``, ``"cuda"``, or ``"auto"`` for GPUs if there are any.
    cpus
        Cores of a worker; None for all of the smallest machine, at most 16, or a GPU's share of its machine.

    Raises
    ------
    UsageError
        If there is no room for any.
    """
    cores = [(int(machine.get("CPU", 0)), int(machine.get("GPU", 0))) for machine in machines]
    with_gpu = [(cpu, gpu) for cpu, gpu in cores if gpu]
    if device == "cuda" and not with_gpu:
        raise UsageError("No machine of this Ray cluster has a GPU: use --device cpu, or start Ray with --num-gpus.")
    if with_gpu and device != "cpu":
        each = min(cpu // gpu for cpu, gpu in with_gpu) if cpus is None else cpus
        workers = sum(min(gpu, cpu // each) if each else gpu for cpu, gpu in with_gpu)
        gpus = 1
    else:
        each = min([_MOST_CORES, *(cpu for cpu, _ in cores if cpu)]) if cpus is None else cpus
        workers, gpus = sum(cpu // each for cpu, _ in cores), 0
    if not workers:
        most = max((cpu for cpu, _ in cores), default=0)
        raise UsageError(f"No machine of this Ray cluster has the {each} cores for a worker: {most} are the most.")
    return Pool(workers, each, gpus)


def connect(address: str | None) -> tuple[Any, bool]:
    """Return Ray, connected, and whether that was done here.

    Parameters
    ----------
    address
        Of a cluster, ``"auto"``, or None for what ``RAY_ADDRESS`` says, else this machine alone.

    Raises
    ------
    MissingPackageError
        If Ray is not installed.
    PcEngineError
        If the cluster cannot be reached.
    """
    if address is not None and address.startswith("ray://"):
        raise UsageError(
            f"--ray-address {address} is an address for clients: run pc-engine on a machine of the cluster, with "
            "'auto'."
        )
    # What Ray's processes print is not for the user; nor do runs of this program report to anybody.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # of what it would print on stdout, everything
    try:
        import ray
        import ray.data
        import ray.util.scheduling_strategies
    except ImportError:
        raise missing("ray", _PURPOSE) from None
    # What goes wrong comes as an exception, too; its warnings are about what it sets itself.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"ray\.")
    if ray.is_initialized():
        return ray, False
    named = address or os.environ.get("RAY_ADDRESS")
    local = {"num_cpus": usable_cores(), "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        with _without_stderr():
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **({} if named else local))
    except Exception as error:  # of many kinds, by what is wrong with the address
        where = f"The Ray cluster '{named}' cannot be reached" if named else "Ray cannot be started here"
        raise PcEngineError(
            f"{where} ({first_line(error).rstrip('.')}): start one with 'ray start --head', or omit --ray-address to "
            "use this machine alone."
        ) from None
    return ray, True


def start_announcements(ray: Any) -> Any:
    """Start the actor that says how many blocks there are: beside the driver, with which it would be lost."""
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Announcements).remote()


class Announcements:
    """How many blocks there are by now, for those who wait for the next one."""

    def __init__(self) -> None:
        self._blocks, self._complete = 0, False
        self._changed = asyncio.Condition()

    async def announce(self, blocks: int, complete: bool) -> None:
        """Say that there are so many, and whether that is all. Calls may come in any order."""
        async with self._changed:
            self._blocks = max(self._blocks, blocks)
            self._complete |= complete
            self._changed.notify_all()

    async def has(self, number: int) -> bool:
        """Return whether there is a block of this number, as soon as that is known."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._complete or self._blocks > number)
            return self._blocks > number


def block_numbers(ray: Any, announcements: Any) -> Any:
    """Return a data set of the blocks' numbers in column `BLOCK`, each there as soon as there is such a block.

    Whenever it is read again, it has the same numbers.
    """
    import pyarrow as pa

    def read() -> Iterator[pa.Table]:
        for number in count():
            if not ray.get(announcements.has.remote(number)):
                return
            yield pa.table({BLOCK: pa.array([number], pa.int64())})

    class Numbers(ray.data.Datasource):  # type: ignore[misc]
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, *_: object, **__: object) -> list[Any]:
            unknown = ray.data.block.BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ray.data.ReadTask(read, unknown)]

    # Reading takes no core from the workers; so Ray does not make one step of both, either.
    return ray.data.read_datasource(Numbers(), override_num_blocks=1, num_cpus=0)


@contextlib.contextmanager
def streaming(ray: Any) -> Iterator[None]:
    """Let the data sets that are made meanwhile pass on every row as it comes, and print nothing."""
    context = ray.data.DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        # Else rows are collected until they are worth a block of many megabytes.
        "target_max_block_size": 1,
    }
    before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}
    try:
        for name in before:
            setattr(context, name, wanted[name])
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def failed(error: Exception) -> PcEngineError:
    """Return what a user reads of an error of Ray's."""
    return PcEngineError(
        f"Ray could not go on ({first_line(error).rstrip('.')}): run the same command again to go on from there."
    )


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what libraries below Python print on stderr."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
