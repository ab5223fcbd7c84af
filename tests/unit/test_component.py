"""The class Component: its attributes, its copies, and how its methods travel."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest

from ips_core import component as component_module
from ips_core.component import Component

CONFIG = {"NAME": "Worker", "FILES": ["a", "b"], "sub": {"A": "1"}}
SERVICES = SimpleNamespace(component_id="sim@Worker@2")


class Worker(Component):
    def scaled(self, factor: int) -> tuple[Any, ...]:
        return self.FILES, factor * 2, self.services, self.call_id


@pytest.fixture
def worker() -> Worker:
    worker = Worker(SERVICES, copy.deepcopy(CONFIG))
    worker._begin_call(7, "step", (1, "x"), 12.5)
    return worker


def test_keys_of_the_section_are_attributes(worker: Worker) -> None:
    assert (worker.NAME, worker.FILES, worker.sub) == ("Worker", ["a", "b"], {"A": "1"})


PROPERTIES = {
    "services": SERVICES,
    "config": CONFIG,
    "component_id": "sim@Worker@2",
    "start_time": 12.5,
    "call_id": 7,
    "method_name": "step",
    "args": (1, "x"),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_property_tells_and_cannot_be_set(worker: Worker, name: str) -> None:
    assert getattr(worker, name) == PROPERTIES[name]
    with pytest.raises(AttributeError):
        setattr(worker, name, 1)
    assert getattr(worker, name) == PROPERTIES[name]


def test_component_that_was_not_called_yet() -> None:
    fresh = Worker(SERVICES, {})
    assert (fresh.call_id, fresh.method_name, fresh.args, fresh.start_time) == (0, "", (), 0.0)


def travel(component: Component) -> Component:
    return pickle.loads(pickle.dumps(component))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, travel])
def test_copy_has_the_same_attributes_but_no_services(worker: Worker, how: Any) -> None:
    worker.own = ["state"]
    copied = how(worker)
    assert type(copied) is Worker
    assert (copied.services, copied.component_id) == (None, None)
    assert (copied.own, copied.FILES, copied.config) == (["state"], ["a", "b"], CONFIG)
    assert (copied.call_id, copied.method_name, copied.args) == (7, "step", (1, "x"))
    assert worker.services is SERVICES


def test_shallow_copy_shares_values_and_not_attributes(worker: Worker) -> None:
    copied = copy.copy(worker)
    copied.FILES.append("c")
    copied.NAME = "other"
    assert (worker.FILES, worker.NAME) == (["a", "b", "c"], "Worker")


@pytest.mark.parametrize("method", ["init", "restart", "step", "finalize", "checkpoint"])
def test_methods_do_nothing_unless_defined(worker: Worker, method: str) -> None:
    assert getattr(worker, method)(0.5, extra=1) is None
    assert worker.terminate(0) is None


def test_bound_method_runs_where_our_packages_are_not(
    worker: Worker, tmp_path: Path, run_without_us: Any
) -> None:
    path = tmp_path / "method.pkl"
    by_value = (component_module, sys.modules[__name__])
    for module in by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        path.write_bytes(cloudpickle.dumps(worker.scaled))
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)
    code = """
import cloudpickle
method = cloudpickle.loads(open(sys.argv[1], "rb").read())
print(method(21), type(method.__self__).__mro__[1].__name__)
print([name for name in sys.modules if name.startswith("ips") and sys.modules[name]])
"""
    assert run_without_us(code, path) == "(['a', 'b'], 42, None, 7) Component\n[]\n"


def test_file_of_component_needs_nothing_of_ours(run_without_us: Any) -> None:
    code = """
import runpy
names = runpy.run_path(sys.argv[1])
print(names["Component"](None, {"A": "1"}).A)
"""
    assert run_without_us(code, inspect.getsourcefile(component_module)) == "1\n"
