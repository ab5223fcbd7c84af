"""What tasks write: whole lines on one output, and the end of it kept."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ips_core.tasks.output import Lines, Sink, ThreadOutput, as_text, install_output


@dataclass
class Written:
    """A file, its descriptor, and what is in it."""

    path: Path
    descriptor: int

    def __call__(self) -> str:
        return self.path.read_text(encoding="utf-8", errors="surrogateescape")


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    with open(tmp_path / "output", "wb") as file:
        yield Written(tmp_path / "output", file.fileno())


@contextlib.contextmanager
def installed(written: Written) -> Iterator[ThreadOutput]:
    """In the body of a test: pytest sets ``sys.stdout`` between a fixture and that."""
    with (
        open(written.descriptor, "w", closefd=False) as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        install_output()
        assert isinstance(sys.stdout, ThreadOutput)
        yield sys.stdout


# The lines of one task.


def test_lines_are_passed_on_when_they_are_whole(written: Written) -> None:
    lines = Lines(Sink(written.descriptor))
    seen = []
    for data in (b"on", b"e\ntw", b"o", b"\n\nthree\nfo", b"ur"):
        lines.take(data)
        seen.append((written(), lines.since is not None))
    lines.flush()
    assert seen == [
        ("", True),
        ("one\n", True),
        ("one\n", True),
        ("one\ntwo\n\nthree\n", True),
        ("one\ntwo\n\nthree\n", True),
    ]
    assert (written(), lines.since) == ("one\ntwo\n\nthree\nfour", None)


def test_wait_of_a_line_counts_from_its_own_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr("ips_core.tasks.output.time", SimpleNamespace(monotonic=clock.__next__))
    lines = Lines(Sink(-1))
    seen = []
    for data in (b"one", b" more", b"\n", b"two", b"\nthree"):
        lines.take(data)
        seen.append(lines.since)
    assert seen == [1.0, 1.0, None, 2.0, 3.0]


def test_line_that_is_too_long_is_passed_on_in_pieces(written: Written) -> None:
    lines = Lines(Sink(written.descriptor))
    for _ in range(10):
        lines.take(b"x" * 10_000)
    assert len(written()) == 70_000


def test_tail_is_the_last_4_kb(written: Written) -> None:
    lines = Lines(Sink(written.descriptor))
    for number in range(2000):
        lines.take(b"%d\n" % number)
    lines.take(b"end")
    text = as_text(lines.tail)
    assert (len(text), text[-14:]) == (4096, "\n1998\n1999\nend")
    lines.take(b"y" * 10_000)
    assert lines.tail == b"y" * 4096


def test_tail_is_text_whatever_it_was() -> None:
    assert as_text(b"\xff\xfe\0\xed\xa0\x80") == "\ufffd\ufffd\0\ufffd\ufffd\ufffd"


# Several on one output.


def test_line_that_was_left_open_is_ended_before_anothers(written: Written) -> None:
    sink = Sink(written.descriptor)
    for data, owner in [(b"a", 1), (b"b", 1), (b"c\n", 2), (b"d\n", 1), (b"e", 2), (b"f", 1)]:
        sink.write(data, owner)
    assert written() == "ab\nc\nd\ne\nf"


def test_output_that_cannot_be_written_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full(descriptor: int, data: bytes) -> int:
        calls.append(bytes(data))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lines = Lines(Sink(7))
    monkeypatch.setattr("os.write", full)
    lines.take(b"one\n")
    lines.take(b"two\n")
    assert calls == [b"one\n", b"two\n"]
    assert lines.tail == b"one\ntwo\n"


def test_write_that_takes_a_part_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def slow(descriptor: int, data: bytes) -> int:
        taken.append(bytes(data[:2]))
        return len(taken[-1])

    monkeypatch.setattr("os.write", slow)
    Sink(7).write(b"lines\n", None)
    assert taken == [b"li", b"ne", b"s\n"]


# Standard output of a process whose threads run tasks.


def test_lines_of_threads_do_not_mix(written: Written) -> None:
    """Each is printed in three parts."""
    with installed(written) as output:
        barrier = threading.Barrier(4)

        def work(word: str) -> None:
            with output.captured():
                barrier.wait(10)
                for number in range(200):
                    print(word, number, word)
                print(word, "end", end="")

        threads = [threading.Thread(target=work, args=(word,)) for word in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        lines = written().splitlines()
        whole = [f"{word} {number} {word}" for word in "abcd" for number in range(200)]
        assert sorted(lines) == sorted([*whole, *(f"{word} end" for word in "abcd")])


def test_capture_is_of_one_thread_and_one_task(written: Written) -> None:
    with installed(written) as output:
        with output.captured() as first:
            other = threading.Thread(target=print, args=("other",))
            other.start()
            other.join(10)
            print("first")
        with output.captured() as second:
            print("second")
        print("nobody")
        assert (first.tail, second.tail) == (b"first\n", b"second\n")
        assert written() == "other\nfirst\nsecond\nnobody\n"


def test_stderr_and_bytes_and_odd_characters_join(written: Written) -> None:
    with installed(written):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            sys.stderr.write("err ")
            sys.stdout.buffer.write(b"\xff ")
            sys.stdout.writelines(["\udcfe ", "\ud800 ", "\u00e4\n"])
        assert written() == "err \udcff \udcfe \\ud800 \u00e4\n"


def test_flush_passes_on_what_has_no_end(written: Written) -> None:
    with installed(written) as output:
        print("one", end="")
        assert written() == ""
        sys.stdout.flush()
        assert written() == "one"
        with output.captured():
            print("two", end="", flush=True)
            assert written() == "one\ntwo"


def test_closed_output_goes_on(written: Written) -> None:
    with installed(written):
        print("one", end="")
        sys.stdout.close()
        print("two")
        assert not sys.stdout.closed
        assert written() == "onetwo\n"


def test_programs_write_below_it(written: Written) -> None:
    with installed(written):
        print("one")
        subprocess.run(["echo", "two"], stdout=sys.stdout, check=True)
        assert written() == "one\ntwo\n"
        assert (sys.stdout.isatty(), sys.stdout.writable()) == (False, True)


def test_installed_once(written: Written) -> None:
    with installed(written) as output:
        install_output()
        assert sys.stdout is output
        assert sys.stderr is output


def test_forked_process_waits_for_nobody(written: Written) -> None:
    """A lock that another thread held when it was forked would never be released there."""
    code = """
import os, signal, sys, threading
from ips_core.tasks.output import install_output
install_output()
locks = sys.stdout._lock, sys.stdout.sink._lock
for lock in locks:
    other = threading.Thread(target=lock.acquire)
    other.start()
    other.join()
child = os.fork()
if child == 0:
    signal.alarm(20)
    print("child")
    sys.stdout.flush()
    os._exit(0)
for lock in locks:
    lock.release()
os.waitpid(child, 0)
print("parent")
"""
    done: Any = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.returncode) == ("child\nparent\n", 0), done.stderr
