"""Combine all groups of services into ``ServicesProxy``."""

from __future__ import annotations

from ips_core.services.calls import CallServices
from ips_core.services.configuration import ConfigurationServices
from ips_core.services.deprecated import DeprecatedServices
from ips_core.services.logging import LoggingServices
from ips_core.services.pools import PoolServices
from ips_core.services.portal import PortalServices
from ips_core.services.restart import RestartServices
from ips_core.services.staging import StagingServices
from ips_core.services.tasks import TaskServices
from ips_core.services.time_loop import TimeLoopServices
from ips_core.services.topics import TopicServices
from ips_core.services.workflows import WorkflowServices

__all__ = ["ServicesProxy"]


class ServicesProxy(
    DeprecatedServices,
    LoggingServices,
    PoolServices,
    PortalServices,
    RestartServices,
    TaskServices,
    TopicServices,
    WorkflowServices,
    # Bases of the groups above: Python requires a base to follow the classes derived from it.
    CallServices,
    StagingServices,
    ConfigurationServices,
    TimeLoopServices,
):
    """Services of the framework for one component, which has them as ``self.services``.

    The framework constructs it.

    Attributes
    ----------
    component_id : ComponentID
        Id of the component, as :meth:`call` takes it.
    full_comp_id : str
        Name of the component in events and log lines, such as ``WORKERS__Worker_2``.
    sim_name : str
        SIM_NAME of the simulation.
    sim_conf : dict
        Values of the simulation file, the environment and the platform file; sections are dicts.
    workdir : str
        Absolute path of the component's work directory.
    logger : logging.Logger
        Logger that writes to LOG_FILE.
    task_map : dict of int to LaunchedTask
        Tasks of :meth:`launch_task` that were neither waited for nor killed, by task id.
    task_pools : dict of str to TaskPool
        Task pools of the component by name.
    sub_flows : dict of str to SimulationConfig
        Sub-workflows of the component by name, each as read from its file.
    """
