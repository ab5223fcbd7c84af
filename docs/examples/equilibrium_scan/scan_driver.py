"""The driver of the equilibrium scan: calls the worker's methods in order, and nothing else."""

from ipsframework import Component

__all__ = ["ScanDriver"]


class ScanDriver(Component):
    """Run the component behind the WORKER port once."""

    def step(self, timestamp=0.0, **keywords):
        """Let the worker read its input, do the scan and clean up.

        Parameters
        ----------
        timestamp : float
            Handed on to the worker.
        **keywords
            Unused; the framework may pass some.
        """
        worker = self.services.get_port("WORKER")
        for method in ("init", "step", "finalize"):
            self.services.call(worker, method, timestamp)
