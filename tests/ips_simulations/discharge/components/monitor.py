"""Collects one line a time step, and tells the portal where it can be looked at."""

from ipsframework import Component


class Monitor(Component):
    def init(self, timestamp=0.0):
        self.services.setMonitorURL("http://example.org/" + self.services.sim_conf["RUN_ID"])
        open("monitor.txt", "w").close()

    def restart(self, timestamp=0.0):
        root = self.services.get_config_param("RESTART_ROOT")
        self.services.get_restart_files(root, timestamp, self.RESTART_FILES)

    def step(self, timestamp=0.0):
        services = self.services
        services.stage_state()
        state = open(services.get_config_param("CURRENT_STATE")).read().split()
        eqdsk = open(services.get_config_param("CURRENT_EQDSK")).read().split()
        line = "%.2f energy %s current %s q95 %s" % (timestamp, state[2], state[5], eqdsk[2])
        with open("monitor.txt", "a") as monitor:
            monitor.write(line + "\n")
        services.send_portal_event(event_type="COMPONENT_EVENT", event_comment=line)
        services.stage_output_files(timestamp, self.OUTPUT_FILES, keep_old_files=False)

    def checkpoint(self, timestamp=0.0):
        self.services.save_restart_files(timestamp, self.RESTART_FILES)

    def finalize(self, timestamp=0.0):
        print("MONITOR")
        print(open("monitor.txt").read().strip())
