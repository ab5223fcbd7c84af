"""The progress bar, on a terminal and elsewhere."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ips_core.pools.progress import progress


def _pty() -> tuple[int, int]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    os.set_blocking(master, False)
    return master, slave


@contextlib.contextmanager
def terminal() -> Iterator[Callable[[], str]]:
    """Make stderr a terminal of 100 columns; call it for what has been drawn since.

    No fixture: pytest puts its own stderr back between a fixture and its test.
    """
    master, slave = _pty()

    def drawn() -> str:
        text = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(master, 1 << 16):
                text += piece
        return text.decode()

    try:
        with open(slave, "w") as stderr, contextlib.redirect_stderr(stderr):
            yield drawn
    finally:
        os.close(master)


def test_bar_says_what_is_done_and_what_failed() -> None:
    with terminal() as since:
        with progress("scan", 40) as bar:
            assert "pool scan:   0%" in since()
            bar.update(30, 0)
            bar.update(40, 3)
        drawn = since()
    assert "40/40" in drawn
    assert "failed=3" in drawn
    assert drawn.endswith("\n")
    assert 90 < max(len(line) for line in re.split(r"[\r\n]+", drawn)) <= 100


def test_number_of_tasks_that_is_not_known() -> None:
    with terminal() as since:
        with progress("scan", None) as bar:
            bar.update(7, 0)
        assert "pool scan: 7 tasks [" in since()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_bar_ends_with_a_whole_line_whatever_ends_the_wait(
    error: type[BaseException],
) -> None:
    def wait() -> None:
        with progress("scan", 40) as bar:
            bar.update(12, 0)
            raise error

    with terminal() as since:
        with pytest.raises(error):
            wait()
        drawn = since()
    assert "12/40" in drawn
    assert drawn.endswith("\n")


def test_bar_is_not_drawn_more_often_than_ten_times_a_second() -> None:
    with terminal() as since:
        begin = time.monotonic()
        with progress("scan", 100_000) as bar:
            for done in range(2000):
                bar.update(done, done // 2)
            elapsed = time.monotonic() - begin
        drawings = since().count("pool scan")
    assert 2 <= drawings <= elapsed / 0.1 + 2


def test_each_task_is_seen_where_they_are_slow(wait_until: Callable[..., object]) -> None:
    text = ""

    def drawn() -> bool:
        nonlocal text
        bar.update(2, 0)
        text += since()
        return "2/40" in text

    with terminal() as since, progress("scan", 40) as bar:
        wait_until(drawn, 10, "the second task is not shown")


def test_bar_has_no_thread_of_its_own() -> None:
    before = threading.active_count()
    with terminal(), progress("scan", 40) as bar:
        bar.update(1, 0)
        assert threading.active_count() == before


def test_terminal_that_goes_away_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with open(slave, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with progress("scan", 40, interactive=True) as bar:
            os.close(master)
            bar.update(40, 0)
            stderr.close()
        monkeypatch.undo()


class Notebook(io.StringIO):
    """What a kernel has for stderr."""

    def isatty(self) -> bool:
        return False


class BrokenPipe(Notebook):
    """Stderr whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def flush(self) -> None:
        self.write("")


def test_reader_that_goes_away_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", BrokenPipe())
    with progress("scan", 40, interactive=True) as bar:
        bar.update(40, 0)


def test_notebook_has_a_bar_though_it_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stderr := Notebook())
    begin = time.monotonic()
    with progress("scan", 40, interactive=True) as bar:
        for done in range(41):
            bar.update(done, 0)
        elapsed = time.monotonic() - begin
    assert "40/40" in stderr.getvalue()
    assert stderr.getvalue().count("pool scan") <= elapsed + 2


@pytest.mark.parametrize("stderr", [Notebook(), None])
def test_nobody_watches(monkeypatch: pytest.MonkeyPatch, stderr: Notebook | None) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress("scan", 40) as bar:
        bar.update(40, 1)
    assert stderr is None or stderr.getvalue() == ""


_SHOW = """
import sys
from ips_core.pools.progress import progress
with progress("scan", 3) as bar:
    bar.update(3, 1)
print("tqdm" in sys.modules)
"""


def shown(stderr: int, **environment: str) -> str:
    """What a process says on stdout that shows a bar on this stderr."""
    done = subprocess.run(
        [sys.executable, "-c", _SHOW],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert not done.stderr
    return done.stdout


def test_batch_log_gets_nothing_and_tqdm_is_not_imported() -> None:
    assert shown(subprocess.PIPE) == "False\n"


@pytest.mark.parametrize(("environment", "draws"), [({}, True), ({"TQDM_DISABLE": "1"}, False)])
def test_terminal_of_a_process(environment: dict[str, str], draws: bool) -> None:
    master, slave = _pty()
    try:
        assert shown(slave, **environment) == "True\n"
        text = b""
        with contextlib.suppress(BlockingIOError):
            text = os.read(master, 1 << 16)
    finally:
        os.close(slave)
        os.close(master)
    assert (b"3/3" in text, text.endswith(b"\n")) == (draws, draws)
    assert b"\x1b[3" not in text  # no colours
