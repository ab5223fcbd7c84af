"""Makes the first plasma state, or brings back that of a run before."""

import shutil

from ipsframework import Component


class MinimalInit(Component):
    def step(self, timestamp=0.0):
        services = self.services
        if services.get_config_param("SIMULATION_MODE") == "RESTART":
            root = services.get_config_param("RESTART_ROOT")
            time = services.get_config_param("RESTART_TIME")
            services.get_restart_files(root, time, self.RESTART_FILES)
        else:
            services.stage_input_files(self.INPUT_FILES)
            shutil.copyfile("start.txt", services.get_config_param("CURRENT_STATE"))
            open(services.get_config_param("CURRENT_EQDSK"), "w").close()
        for name in services.get_config_param("SOURCES").split():
            open(name, "w").close()
        services.update_state()

    def checkpoint(self, timestamp=0.0):
        self.services.stage_state()
        self.services.save_restart_files(timestamp, self.RESTART_FILES)
