"""Containers: the words before a command."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ips_dask_cluster.containers import Shifter, shifter_arguments


@pytest.mark.parametrize(
    ("container", "prefix"),
    [
        (Shifter(), ["shifter"]),
        (Shifter("docker:me/code:1"), ["shifter", "--image=docker:me/code:1"]),
        (
            Shifter("i:1", ("/scratch/a b:/data", "/c:/d:ro"), ("--module=mpich", "--env=X=$Y")),
            [
                "shifter",
                "--image=i:1",
                "--volume=/scratch/a b:/data",
                "--volume=/c:/d:ro",
                "--module=mpich",
                "--env=X=$Y",
            ],
        ),
    ],
)
def test_shifter_prefix(container: Shifter, prefix: list[str]) -> None:
    assert container.prefix() == prefix


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (None, ()),
        ("", ()),
        ("--image=i:1 --env='X=a b'", ("--image=i:1", "--env=X=a b")),
        (["--image=i:1", "--env=X=a 'b"], ("--image=i:1", "--env=X=a 'b")),
        ((), ()),
    ],
)
def test_shifter_arguments_of_a_string_are_split_and_of_a_list_left_alone(
    arguments: str | Sequence[str] | None, words: tuple[str, ...]
) -> None:
    assert shifter_arguments(arguments) == words


def test_equal_containers_are_one_key() -> None:
    assert len({Shifter("i:1", arguments=("-a",)), Shifter("i:1", arguments=("-a",))}) == 1
