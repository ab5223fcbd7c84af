"""List where IPS-framework's names are here, and what replaces those without a counterpart."""

from __future__ import annotations

from ips_core.compat import exceptions

__all__ = ["INSTEAD", "NAMES"]

_COMPONENT = "ips_core.component:Component"
_FRAMEWORK = "ips_core.framework:Framework"
_SERVICES = "ips_core.services:ServicesProxy"
_TASK = "ips_core.tasks.task:Task"
_TASK_POOL = "ips_core.pools.pool:TaskPool"

_EXCEPTIONS = {name: f"ips_core.compat.exceptions:{name}" for name in exceptions.__all__}
_FILES = {
    name: f"ips_core.compat.files:{name}"
    for name in ("copyFiles", "getTimeString", "params_from_csv", "which", "writeToContainer")
}

#: Place of each name, ``module:attribute``, by submodule ("" is the package) and name.
NAMES: dict[str, dict[str, str]] = {
    "": {
        "Component": _COMPONENT,
        "Framework": _FRAMEWORK,
        "ServicesProxy": _SERVICES,
        "Task": _TASK,
        "TaskPool": _TASK_POOL,
        "__version__": "ips_core.compat.release:VERSION",
    },
    "component": {"Component": _COMPONENT},
    "componentRegistry": {"ComponentID": "ips_core.ipc.messages:ComponentID"},
    "configurationManager": {},
    "dataManager": {},
    "ips": {"Framework": _FRAMEWORK, "main": "ips_core.cli:main"},
    "ipsExceptions": _EXCEPTIONS,
    "ipsutil": _FILES,
    "messages": {"Message": "ips_core.compat.messages:Message"},
    "resourceHelper": {},
    "resourceManager": {},
    "services": {"ServicesProxy": _SERVICES, "Task": _TASK, "TaskPool": _TASK_POOL},
    "taskManager": {},
    "utils": {},
}
# Newer releases have these spellings of the same modules.
NAMES |= {
    "component_registry": NAMES["componentRegistry"],
    "ips_exceptions": NAMES["ipsExceptions"],
}

_RESOURCES = "what a simulation may use is Framework(...).resources"
_CONFIGURATION = "read simulation files with ips_core.config.read_simulation"
_INSIDE = "it is part of how IPS-framework works inside; components need only their services"

#: Names without a counterpart, and what to use instead.
INSTEAD: dict[str, str] = {
    "ComponentRegistry": "ask services.get_port for the component of a port",
    "ConfigurationManager": _CONFIGURATION,
    "DataManager": "files are staged by the services of a component, such as stage_state",
    "MethodInvokeMessage": _INSIDE,
    "MethodResultMessage": _INSIDE,
    "ResourceManager": _RESOURCES,
    "ServiceRequestMessage": _INSIDE,
    "ServiceResponseMessage": _INSIDE,
    "TaskInit": "launch tasks with services.launch_task",
    "TaskManager": "launch tasks with services.launch_task",
    "getResourceList": _RESOURCES,
    "get_checkjob_info": _RESOURCES,
    "get_qstat_info": _RESOURCES,
    "get_slurm_info": _RESOURCES,
    "ips_dakota_dynamic": "run the simulations of a study as tasks of a pool",
}
