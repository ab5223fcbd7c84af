"""Energy and current balance of the whole plasma."""

from ipsframework import Component


class ZeroD(Component):
    def init(self, timestamp=0.0):
        self.history = []
        self.before = timestamp

    def restart(self, timestamp=0.0):
        root = self.services.get_config_param("RESTART_ROOT")
        time = self.services.get_config_param("RESTART_TIME")
        self.services.get_restart_files(root, time, self.RESTART_FILES)
        self.history = open("profile.txt").readlines()
        self.before = timestamp

    def step(self, timestamp=0.0):
        services = self.services
        services.stage_state()
        name = services.get_config_param("CURRENT_STATE")
        plasma = {}
        for line in open(name):
            key, value = line.split("=")
            plasma[key.strip()] = float(value)
        power = sum([float(open(source).read()) for source in ("rf.txt", "nb.txt")])
        dt = timestamp - self.before
        self.before = timestamp
        loss = plasma["energy"] / float(self.CONFINEMENT_TIME)
        plasma["energy"] += (power - loss) * dt
        plasma["current"] += 0.5 * dt
        with open(name, "w") as state:
            for key in ("energy", "current"):
                state.write("%s = %.4f\n" % (key, plasma[key]))
        self.history.append("t = %.2f  energy = %.4f\n" % (timestamp, plasma["energy"]))
        open("profile.txt", "w").writelines(self.history)
        services.update_state()
        services.stage_output_files(timestamp, self.OUTPUT_FILES)

    def checkpoint(self, timestamp=0.0):
        self.services.save_restart_files(timestamp, self.RESTART_FILES)
