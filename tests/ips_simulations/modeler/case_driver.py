"""Drives one case; it knows nothing of the simulation that it may be a part of."""

from ipsframework import Component


class CaseDriver(Component):
    def init(self, timestamp=0.0):
        self.solver = self.services.get_port("SOLVER")
        self.services.call(self.solver, "init", timestamp)

    def step(self, timestamp=0.0):
        (value,) = self.services.call(self.solver, "step", timestamp)
        with open("result.txt", "w") as result:
            result.write("%s shot %s\n" % (value, self.services.get_config_param("SHOT_NUMBER")))

    def finalize(self, timestamp=0.0):
        self.services.call(self.solver, "finalize", timestamp)
