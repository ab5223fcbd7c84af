"""Workers that finish what they execute and leave, on a real scheduler with real workers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import distributed
import pytest
from distributed import Client, Scheduler, Worker
from distributed.core import Status, rpc

from ips_dask_cluster.dask import draining
from ips_dask_cluster.dask.draining import dismiss, drain


class Bed:
    """A scheduler and two workers, ``w-0`` and ``w-1``, of two threads each."""

    def __init__(self, scheduler: Any, workers: list[Worker], client: Client) -> None:
        self.scheduler = scheduler
        self.workers = {worker.name: worker for worker in workers}
        self.client = client
        self.left: list[list[str]] = []
        _starts.clear()
        _torn.clear()
        _go.clear()

    async def before_leaving(self, workers: list[str]) -> None:
        """Note who is about to leave, and what they execute."""
        leaving = [worker for worker in self.workers.values() if worker.address in workers]
        tasks = [f"{worker.name} busy" for worker in leaving for _ in worker.state.executing]
        self.left.append([*(worker.name for worker in leaving), *tasks])

    def drain(self, *names: str, deadline: float | None = None) -> asyncio.Task[None]:
        return asyncio.ensure_future(drain(self.scheduler, names, self.before_leaving, deadline))

    async def there(self) -> list[str]:
        identity = await self.scheduler.identity(n_workers=-1)
        return sorted(info["name"] for info in identity["workers"].values())


# All is in one process, but tasks and plugins travel by name.
_starts: list[str] = []
_torn: list[str] = []
_go = threading.Event()


def hold(number: int) -> str:
    """Tell of the start, and wait."""
    start = f"{number} on {distributed.get_worker().name}"
    _starts.append(start)
    assert _go.wait(20)
    return start


def hold_elsewhere(number: int) -> str:
    distributed.secede()
    return hold(number)


class Plugin(distributed.WorkerPlugin):
    def setup(self, worker: Worker) -> None:
        self.name = worker.name

    def teardown(self, worker: Worker) -> None:
        _torn.append(self.name)


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), seconds)


@contextlib.asynccontextmanager
async def bed() -> AsyncIterator[Bed]:
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        # Port 0: it serves HTTP also without a dashboard
        options = {"dashboard": False, "dashboard_address": ":0"}
        scheduler = await enter(Scheduler(protocol="inproc://", **options))
        address = scheduler.address
        workers = [await enter(Worker(address, name=f"w-{n}", nthreads=2)) for n in range(2)]
        client = await enter(Client(address, asynchronous=True, set_as_default=False))
        connection = await enter(rpc(address))
        made = Bed(connection, workers, client)
        stack.callback(_go.set)
        yield made


def play(scenario: Callable[[Bed], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with bed() as made:
            await asyncio.wait_for(scenario(made), 20)

    asyncio.run(run())


def test_idle_worker_leaves_at_once() -> None:
    async def scenario(bed: Bed) -> None:
        await bed.drain("w-0")
        assert bed.left == [["w-0"]]
        assert await bed.there() == ["w-1"]

    play(scenario)


@pytest.mark.parametrize("names", [(), ("nobody",)])
def test_who_is_not_there_is_no_matter(names: tuple[str, ...]) -> None:
    async def scenario(bed: Bed) -> None:
        await bed.drain(*names)
        assert bed.left == []
        assert await bed.there() == ["w-0", "w-1"]

    play(scenario)


def test_tasks_that_run_end_where_they_are_and_no_task_runs_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rounds end meanwhile, since a hundredth of a second is a long time for Dask."""
    monkeypatch.setattr(draining, "_ROUND_SECONDS", 0.05)

    async def scenario(bed: Bed) -> None:
        futures = bed.client.map(hold, range(8), pure=False)
        await until(lambda: len(_starts) == 4)
        here = [start for start in _starts if start.endswith("w-0")]
        draining = bed.drain("w-0")
        await until(lambda: bed.workers["w-0"].status == Status.closing_gracefully)
        await asyncio.sleep(0.3)  # several rounds
        assert (draining.done(), bed.left, len(_starts)) == (False, [], 4)
        _go.set()
        await draining
        assert bed.left == [["w-0"]]
        assert sorted(await bed.client.gather(futures)) == sorted(_starts)
        assert sorted(int(start.split()[0]) for start in _starts) == list(range(8))
        assert [start for start in _starts if start.endswith("w-0")] == here
        assert await bed.there() == ["w-1"]

    play(scenario)


def test_results_move_to_those_that_stay() -> None:
    async def scenario(bed: Bed) -> None:
        _go.set()
        future = bed.client.submit(hold, 1, workers=["w-0"], allow_other_workers=True, pure=False)
        assert await future == "1 on w-0"
        await bed.drain("w-0")
        assert await bed.there() == ["w-1"]
        assert await bed.client.gather(future) == "1 on w-0"
        assert _starts == ["1 on w-0"]

    play(scenario)


def test_task_that_has_left_its_thread_pool_is_waited_for() -> None:
    async def scenario(bed: Bed) -> None:
        future = bed.client.submit(hold_elsewhere, 1, workers=["w-0"], pure=False)
        await until(lambda: _starts)
        await until(lambda: bed.workers["w-0"].state.long_running)
        draining = bed.drain("w-0")
        await until(lambda: bed.workers["w-0"].status == Status.closing_gracefully)
        await asyncio.sleep(0.3)
        assert not draining.done()
        _go.set()
        await draining
        assert (bed.left, _starts) == ([["w-0"]], ["1 on w-0"])
        del future

    play(scenario)


def test_deadline_ends_the_wait() -> None:
    async def scenario(bed: Bed) -> None:
        futures = bed.client.map(hold, range(2), workers=["w-0"], pure=False)
        await until(lambda: len(_starts) == 2)
        begin = asyncio.get_running_loop().time()
        task = bed.drain("w-0", deadline=0.5)
        await until(lambda: bed.left)
        waited = asyncio.get_running_loop().time() - begin
        assert 0.5 <= waited < 10
        assert bed.left == [["w-0", "w-0 busy", "w-0 busy"]]
        _go.set()
        await task
        del futures

    play(scenario)


def test_deadline_that_has_passed_is_one_look() -> None:
    async def scenario(bed: Bed) -> None:
        await bed.drain("w-0", deadline=0)
        assert bed.left == [["w-0"]]
        assert await bed.there() == ["w-1"]

    play(scenario)


def test_worker_that_is_gone_meanwhile_ends_the_wait_for_it() -> None:
    async def scenario(bed: Bed) -> None:
        bed.client.map(hold, range(2), workers=["w-0"], pure=False, key="x")
        await until(lambda: len(_starts) == 2)
        draining = bed.drain("w-0")
        await until(lambda: bed.workers["w-0"].status == Status.closing_gracefully)
        await bed.workers["w-0"].close(executor_wait=False, nanny=False)
        await asyncio.wait_for(draining, 20)
        assert bed.left == []

    play(scenario)


def test_all_workers_leave_together_when_the_last_is_idle() -> None:
    async def scenario(bed: Bed) -> None:
        # A result that somebody wants would have nowhere to go, and keep its worker
        distributed.fire_and_forget(bed.client.submit(hold, 1, workers=["w-1"], pure=False))
        await until(lambda: _starts)
        draining = bed.drain("w-0", "w-1")
        await until(lambda: bed.workers["w-0"].status == Status.closing_gracefully)
        assert await bed.there() == ["w-0", "w-1"]
        _go.set()
        await draining
        assert bed.left == [["w-0", "w-1"]]
        assert await bed.there() == []

    play(scenario)


def test_what_is_done_before_leaving_may_fail_and_nobody_leaves() -> None:
    async def scenario(bed: Bed) -> None:
        async def refuse(workers: list[str]) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await drain(bed.scheduler, ["w-0"], refuse)
        assert await bed.there() == ["w-0", "w-1"]

    play(scenario)


@pytest.mark.parametrize("busy", [False, True])
def test_dismissed_workers_close_without_waiting_for_what_runs(busy: bool) -> None:
    async def scenario(bed: Bed) -> None:
        await bed.client.register_plugin(Plugin())
        if busy:
            futures = bed.client.map(hold, range(2), workers=["w-0"], pure=False)
            await until(lambda: len(_starts) == 2)
            assert futures
        await asyncio.wait_for(dismiss(bed.scheduler, [bed.workers["w-0"].address]), 10)
        await asyncio.wait_for(bed.workers["w-0"].finished(), 10)
        assert _torn == ["w-0"]
        assert await bed.there() == ["w-1"]

    play(scenario)
