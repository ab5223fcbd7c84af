"""A heating source, one class for all of them."""

from ipsframework import Component


class Source(Component):
    def step(self, timestamp=0.0):
        self.services.stage_state()
        with open(self.STATE_FILES, "w") as out:
            out.write("%8.3f\n" % (float(self.POWER) * min(1.0, timestamp / 0.5)))
        self.services.update_state()
        self.services.stage_output_files(timestamp, self.OUTPUT_FILES)
