"""Runs the equilibrium code as a parallel program."""

import os

from ipsframework import Component


class Solovev(Component):
    def init(self, timestamp=0.0):
        self.services.stage_input_files(self.INPUT_FILES)

    def restart(self, timestamp=0.0):
        services = self.services
        root = services.get_config_param("RESTART_ROOT")
        services.get_restart_files(root, timestamp, self.RESTART_FILES)
        services.stage_input_files(self.INPUT_FILES)

    def step(self, timestamp=0.0):
        services = self.services
        services.stage_state()
        state = services.get_config_param("CURRENT_STATE")
        eqdsk = services.get_config_param("CURRENT_EQDSK")
        solver = os.path.join(self.BIN_PATH, "solve_equilibrium")
        cwd = services.get_working_dir()
        task_id = services.launch_task(
            self.NPROC, cwd, solver, state, eqdsk, task_ppn=2, logfile="solve.log"
        )
        retcode = services.wait_task(task_id)
        if retcode != 0:
            services.error("Error executing %s: %d", solver, retcode)
            raise Exception("Error executing %s" % solver)
        services.update_state()
        services.stage_output_files(timestamp, self.OUTPUT_FILES)

    def checkpoint(self, timestamp=0.0):
        self.services.save_restart_files(timestamp, self.RESTART_FILES)
