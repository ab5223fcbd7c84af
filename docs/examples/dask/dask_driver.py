"""A driver: it finds the worker by its port and lets it do one step."""

from ipsframework import Component


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        worker = self.services.get_port("WORKER")
        self.services.call(worker, "step", 0.0)
