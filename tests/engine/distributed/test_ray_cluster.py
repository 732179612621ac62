from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from pc_engine.distributed.ray_cluster import Announcements, Pool, connect, plan_pool, require_ray
from pc_engine.errors import MissingPackageError, UsageError

SMALL, LARGE, EIGHT_GPUS = {"CPU": 8.0}, {"CPU": 64.0}, {"CPU": 96.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("machines", "options", "expected"),
    [
        ([{"CPU": 2.0}], {}, Pool(1, 2, 0)),
        ([{"CPU": 2.0}], {"cpus": 1}, Pool(2, 1, 0)),
        ([SMALL, SMALL], {}, Pool(2, 8, 0)),
        ([LARGE, LARGE], {}, Pool(8, 16, 0)),
        ([SMALL, LARGE], {}, Pool(9, 8, 0)),
        ([SMALL, LARGE], {"cpus": 32}, Pool(2, 32, 0)),
        # A head without cores of its own does nothing.
        ([{"memory": 1.0}, SMALL], {}, Pool(1, 8, 0)),
        ([{"CPU": 4.0}, *[EIGHT_GPUS] * 8], {}, Pool(64, 12, 1)),
        ([EIGHT_GPUS, {"CPU": 4.0, "GPU": 1.0}], {"device": "cuda"}, Pool(9, 4, 1)),
        ([EIGHT_GPUS], {"device": "cpu"}, Pool(6, 16, 0)),
        ([EIGHT_GPUS], {"cpus": 48}, Pool(2, 48, 1)),
        ([{"CPU": 1.0, "GPU": 2.0}], {}, Pool(2, 0, 1)),
    ],
)
def test_the_pool_is_what_the_machines_have_room_for(machines: Any, options: Any, expected: Pool) -> None:
    assert plan_pool(machines, **options) == expected


def test_a_cluster_without_room_is_said() -> None:
    with pytest.raises(UsageError, match="No machine of this Ray cluster has a GPU: use --device cpu"):
        plan_pool([LARGE], "cuda")
    with pytest.raises(UsageError, match="has the 65 cores for a worker: 64 are the most"):
        plan_pool([SMALL, LARGE], cpus=65)
    with pytest.raises(UsageError, match="0 are the most"):
        plan_pool([])


def test_what_a_pool_is_said_to_be() -> None:
    assert [str(Pool(1, 1, 0)), str(Pool(64, 12, 1))] == ["1 worker with 1 core each", "64 workers with a GPU each"]


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"package 'ray' is needed .* pip install 'pc-engine\[ray\]'"):
        require_ray()


def test_ray_without_its_data_part_is_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"pc-engine\[ray\]"):
        connect(None)


def test_an_address_for_clients_is_refused() -> None:
    with pytest.raises(UsageError, match="run pc-engine on a machine of the cluster"):
        connect("ray://head:10001")


def test_whoever_waits_for_a_block_hears_of_it() -> None:
    async def wait() -> list[bool]:
        announcements = Announcements()
        waiting = [asyncio.create_task(announcements.has(number)) for number in range(4)]
        await announcements.announce(2, False)
        assert await asyncio.wait_for(waiting[1], 120)
        assert not waiting[2].done()
        # Ray promises no order.
        await announcements.announce(3, True)
        await announcements.announce(1, False)
        assert not await asyncio.wait_for(announcements.has(3), 120)
        return await asyncio.gather(*waiting)

    assert asyncio.run(wait()) == [True, True, True, False]
