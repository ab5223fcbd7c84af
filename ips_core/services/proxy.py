"""``ServicesProxy``: all groups of services as one object."""

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
    # what others of them stand on
    CallServices,
    StagingServices,
    ConfigurationServices,
    TimeLoopServices,
):
    """What a component may ask of the framework, as ``self.services``."""
