"""The errors of both packages: what they say, and that they survive the way between processes."""

from __future__ import annotations

import copy
import pickle
from types import ModuleType

import pytest

import ips_core.errors
import ips_dask_cluster.errors
from ips_core.errors import ConfigError, TaskError, describe

LOG = "line one\nline two"

#: An example of every error, and what it says.
CLUSTER_EXAMPLES: dict[str, list[tuple[tuple[object, ...], str]]] = {
    "ClusterError": [(("why",), "why")],
    "NotEnoughNodesError": [
        (
            (5, 4, 4, "Slurm job 17"),
            "5 node(s) asked for, but Slurm job 17 has 4; "
            "ask for fewer, or for a larger allocation (salloc -N)",
        ),
        (
            (2, 1, 4, "this machine"),
            "2 node(s) asked for, but this machine has 4, of which 3 already run a worker; "
            "nodes= of the constructor says how many there are without Slurm",
        ),
    ],
    "SlurmCommandError": [
        (("scontrol show job 1", "no such job"), "scontrol show job 1: no such job"),
        (("squeue", "no answer", "try again"), "squeue: no answer; try again"),
    ],
    "StepError": [
        (
            ("worker", "n[1-2]", 127, "the cause", LOG, "/run/w.log"),
            "the worker step on n[1-2] ended with exit code 127: the cause\n"
            "  end of its log (/run/w.log):\n    line one\n    line two",
        ),
        (
            ("scheduler", "n1", None, "the cause", "", "/run/s.log"),
            "the scheduler step on n1 gave up: the cause (log: /run/s.log)",
        ),
    ],
    "ClusterStartError": [
        (
            (1, 3, 120.0, ("n2", "n3"), LOG),
            "1 of 3 workers arrived within 120 s; none yet from n2, n3\n    line one\n    line two",
        ),
        ((0, 1, 0.5, (), ""), "0 of 1 workers arrived within 0.5 s"),
        (
            (0, 1, 9.0, ("n2",), "", "the cause"),
            "0 of 1 workers arrived within 9 s; none yet from n2: the cause",
        ),
    ],
    "WorkerPluginError": [
        (
            ("prepare", "a-0, a-1", "OSError: no disk"),
            "the worker plugin 'prepare' could not be set up on a-0, a-1: OSError: no disk; the "
            "log of the worker has the traceback",
        )
    ],
}
CORE_EXAMPLES: dict[str, list[tuple[tuple[object, ...], str]]] = {
    "IPSError": [(("why",), "why")],
    "ConfigError": [
        (("a.config", ["one", "two"]), "a.config: one\na.config: two"),
        (("", ["--nodes 3: no"]), "--nodes 3: no"),
    ],
    "ComponentError": [
        (("W_1", "step", "ValueError: x"), "component W_1 failed in step: ValueError: x")
    ],
    "IncompleteCallException": [((7,), "call 7 has not finished yet")],
    "TaskPoolError": [(("why",), "why")],
    "DaskClusterError": [(("why",), "why")],
    "TaskLaunchError": [(("why",), "why")],
    "BadResourceRequest": [(("why",), "why")],
    "ResourceRequestMismatch": [(("why",), "why")],
    "ResourceRequestUnequalPartitioning": [(("why",), "why")],
    "GPUResourceRequestMismatch": [(("why",), "why")],
    "InsufficientResources": [(("why",), "why")],
    "TaskError": [
        (("t1", "ValueError: x", "Traceback ..."), "task t1 failed: ValueError: x"),
        (("t1", "timed out"), "task t1 failed: timed out"),
    ],
}


def examples(module: ModuleType, known: dict[str, list[tuple[tuple[object, ...], str]]]) -> list:
    """A class of ``__all__`` without an example fails the collection."""
    found = {name: getattr(module, name) for name in module.__all__}
    classes = [
        name
        for name, each in found.items()
        if isinstance(each, type) and each.__name__ == name  # no second name for old programs
    ]
    return [
        pytest.param(getattr(module, name), arguments, text, id=f"{name}-{number}")
        for name in classes
        for number, (arguments, text) in enumerate(known[name])
    ]


ALL = [
    *examples(ips_dask_cluster.errors, CLUSTER_EXAMPLES),
    *examples(ips_core.errors, CORE_EXAMPLES),
]


@pytest.mark.parametrize(("class_", "arguments", "text"), ALL)
def test_error_says(class_: type[Exception], arguments: tuple[object, ...], text: str) -> None:
    assert str(class_(*arguments)) == text


@pytest.mark.parametrize(("class_", "arguments", "text"), ALL)
@pytest.mark.parametrize(
    "travel", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"]
)
def test_error_survives(
    travel, class_: type[Exception], arguments: tuple[object, ...], text: str
) -> None:
    error = class_(*arguments)
    arrived = travel(error)
    assert type(arrived) is class_
    assert (arrived.args, str(arrived)) == (error.args, text)


@pytest.mark.parametrize(
    ("module", "base"),
    [
        (ips_dask_cluster.errors, ips_dask_cluster.errors.ClusterError),
        (ips_core.errors, ips_core.errors.IPSError),
    ],
    ids=["ips_dask_cluster", "ips_core"],
)
def test_one_base_catches_all_errors_of_a_package(
    module: ModuleType, base: type[Exception]
) -> None:
    defined = [value for value in vars(module).values() if isinstance(value, type)]
    ours = [class_ for class_ in defined if class_.__module__ == module.__name__]
    assert all(issubclass(class_, base) for class_ in ours)
    assert {class_.__name__ for class_ in ours} <= set(module.__all__)


def test_task_that_failed_equals_no_exit_code() -> None:
    assert TaskError("t1", "why") not in (0, 1, -1, None, "")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("a", ["one"]), "a: one"),
        (Exception("why"), "why"),
        (ValueError("why"), "ValueError: why"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyError("name"), "KeyError: 'name'"),
    ],
)
def test_description_names_the_type_where_it_is_not_ours(error: BaseException, text: str) -> None:
    assert describe(error) == text


def test_an_exception_without_a_text_is_told_by_its_type() -> None:
    class Wordless(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    assert describe(Wordless()) == "Wordless"
