"""A run on many machines: Ray starts workers where there are GPUs or cores, and hands them blocks of images.

Ray's data set is the numbers 0, 1, 2 ... of the blocks, as they come to exist: should Ray read it again from its
beginning, since a machine was lost, it gets the same numbers, and they mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pc_engine.arguments import maybe_whole_number
from pc_engine.distributed.block_worker import (
    ANSWER,
    BlockAnswer,
    BlockWorker,
    Choice,
    WorkerSettings,
    choose,
    parse_answer,
)
from pc_engine.distributed.ray_cluster import (
    block_numbers,
    connect,
    failed,
    plan_pool,
    start_announcements,
    streaming,
)
from pc_engine.distributed.shared_engine import Announce, SharedEngine, SharedRun
from pc_engine.errors import UsageError

_IN_FLIGHT = 2


class RayEngine(SharedEngine):
    """`pc_engine.Engine` on all machines of a Ray cluster. Use it as a context manager.

    Parameters
    ----------
    run
        What is shared out.
    address
        Of a Ray cluster, ``"auto"``, or None for what ``RAY_ADDRESS`` says, else this machine alone.
    cpus
        Cores of a worker; see `plan_pool`.
    options
        Of `Engine`, save ``threads`` and ``report``.

    Attributes
    ----------
    pool
        The workers.

    Raises
    ------
    PcEngineError
        If there is no cluster, or its machines cannot do what is asked for; a `MissingPackageError` without Ray.
    """

    def __init__(self, run: SharedRun, *, address: str | None = None, cpus: int | None = None, **options: Any) -> None:
        if options["device"].startswith("cuda:"):
            raise UsageError("With --engine ray, Ray says which GPU a worker has: use --device cuda.")
        cpus = maybe_whole_number("--ray-cpus", cpus)
        super().__init__()
        self._ray, self._started = connect(address)
        try:
            machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self.pool = plan_pool(machines, options["device"], cpus)
            self.workers = self.pool.workers
            run.report(f"Asking Ray for {self.pool} ...")
            device = options["device"] if self.pool.gpus else "cpu"
            self._begin(run, {**options, "device": device, "threads": max(self.pool.cpus, 1)})
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        if self._started:
            self._started = False
            self._ray.shutdown()

    def _choose(self, settings: WorkerSettings) -> Choice:
        function: Callable[[WorkerSettings], Choice] = choose
        remote = self._ray.remote(num_cpus=self.pool.cpus, num_gpus=self.pool.gpus)(function)
        try:
            found: Choice = self._ray.get(remote.remote(settings))
        except self._ray.exceptions.RayError as error:
            raise failed(error) from None
        return found

    def _answers(self) -> tuple[Announce, Iterator[BlockAnswer]]:
        announcements = start_announcements(self._ray)
        return announcements.announce.remote, self._answers_to(announcements)

    def _answers_to(self, announcements: Any) -> Iterator[BlockAnswer]:
        ray, pool = self._ray, self.pool
        with streaming(ray):
            answers = block_numbers(ray, announcements).map_batches(
                BlockWorker,
                fn_constructor_args=(self._settings,),
                batch_size=1,
                num_cpus=pool.cpus,
                num_gpus=pool.gpus,
                compute=ray.data.ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=_IN_FLIGHT),
            )
        try:
            for batch in answers.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                yield from map(parse_answer, map(str, batch[ANSWER]))
        except ray.exceptions.RayError as error:
            raise failed(error) from None
