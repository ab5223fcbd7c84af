"""Services have IPS-framework's names, arguments and defaults; more may follow behind them."""

from __future__ import annotations

import inspect

import pytest

from ips_core.services import ServicesProxy

ANY = ("*args", "**keywords")
LOGGED = ("msg", "*args")
POOL = ("task_pool_name",)

#: Arguments by service; those with a default as pairs.
SERVICES: dict[str, tuple[str | tuple[str, object], ...]] = {
    "get_port": ("port_name",),
    "call": ("component_id", "method_name", *ANY),
    "call_nonblocking": ("component_id", "method_name", *ANY),
    "wait_call": ("call_id", ("block", True)),
    "wait_call_list": ("call_id_list", ("block", True)),
    "launch_task": ("nproc", "working_dir", "binary", *ANY),
    "wait_task": ("task_id", ("timeout", -1), ("delay", 1)),
    "wait_task_nonblocking": ("task_id",),
    "wait_tasklist": ("task_id_list", ("block", True)),
    "kill_task": ("task_id",),
    "kill_all_tasks": (),
    "get_config_param": ("param", ("silent", False)),
    "set_config_param": ("param", "value", ("target_sim_name", None)),
    "get_time_loop": (),
    "get_working_dir": (),
    "stage_input_files": ("input_file_list",),
    "stage_output_files": (
        "timeStamp",
        "file_list",
        ("keep_old_files", True),
        ("save_plasma_state", True),
    ),
    "stage_state": (("state_files", None),),
    "update_state": (("state_files", None),),
    "merge_current_state": ("partial_state_file", ("logfile", None), ("merge_binary", None)),
    "checkpoint_components": ("comp_id_list", "time_stamp", ("Force", False), ("Protect", False)),
    "save_restart_files": ("timeStamp", "file_list"),
    "get_restart_files": ("restart_root", "timeStamp", "file_list"),
    "update_time_stamp": (("new_time_stamp", -1),),
    "send_portal_event": (
        ("event_type", "COMPONENT_EVENT"),
        ("event_comment", ""),
        ("event_time", None),
        ("elapsed_time", None),
    ),
    "log": LOGGED,
    "debug": LOGGED,
    "info": LOGGED,
    "warning": LOGGED,
    "error": LOGGED,
    "exception": LOGGED,
    "critical": LOGGED,
    "publish": ("topicName", "eventName", "eventBody"),
    "subscribe": ("topicName", "callback"),
    "unsubscribe": ("topicName",),
    "process_events": (),
    "setMonitorURL": (("url", ""),),
    "create_task_pool": POOL,
    "add_task": (*POOL, "task_name", "nproc", "working_dir", "binary", *ANY),
    "submit_tasks": (
        *POOL,
        ("block", True),
        ("use_dask", False),
        ("dask_nodes", 1),
        ("dask_ppw", None),
        ("launch_interval", 0.0),
        ("use_shifter", False),
        ("shifter_args", None),
        ("dask_worker_plugin", None),
        ("dask_worker_per_gpu", False),
    ),
    "get_finished_tasks": POOL,
    "remove_task_pool": POOL,
    "create_sub_workflow": ("sub_name", "config_file", ("override", None), ("input_dir", None)),
    "stage_subflow_output_files": (("subflow_name", "ALL"),),
    "create_simulation": ("config_file", "override"),
}


def arguments(service: str) -> list[str | tuple[str, object]]:
    """The arguments of a service, but self."""
    _, *parameters = inspect.signature(getattr(ServicesProxy, service)).parameters.values()
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [
        marks.get(each.kind, "") + each.name
        if each.default is inspect.Parameter.empty
        else (each.name, each.default)
        for each in parameters
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_called_as_in_ips_framework(service: str) -> None:
    wanted, found = SERVICES[service], arguments(service)
    # one that has to be given there may have a default here
    first = [
        each[0] if isinstance(each, tuple) and isinstance(name, str) else each
        for each, name in zip(found, wanted, strict=False)
    ]
    assert first == list(wanted)
    # what is more can be left out
    assert all(isinstance(each, tuple) or each.startswith("*") for each in found[len(wanted) :])
