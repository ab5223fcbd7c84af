"""A step and the Slurm programs that are asked about it: how their ends meet."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from ips_dask_cluster.steps import step as step_module
from ips_dask_cluster.steps.step import Step

_SECONDS = 20


class JustEnded:
    """A process of asyncio whose end its reader has not seen yet."""

    def __init__(self) -> None:
        self.reading = asyncio.Event()

    async def communicate(self) -> tuple[bytes, None]:
        self.reading.set()
        await asyncio.Event().wait()
        raise AssertionError

    def kill(self) -> None:
        raise ProcessLookupError

    async def wait(self) -> int:
        return 0


def test_step_ends_while_the_program_that_asks_about_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(step_module, "_LOOK_SECONDS", 0)

    async def run() -> None:
        step = Step("worker", ["cat"], ["n1"], tmp_path / "step.log", "c-worker-1")
        await step.start(None)
        asking = JustEnded()

        async def ask(*_argv: str, **_options: Any) -> JustEnded:
            return asking

        monkeypatch.setattr(asyncio, "create_subprocess_exec", ask)
        await asking.reading.wait()
        await step.end(1, in_order=False)

    asyncio.run(asyncio.wait_for(run(), _SECONDS))
    gc.collect()
    assert caplog.messages == []
