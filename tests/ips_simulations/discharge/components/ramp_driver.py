"""Leads the codes through the time loop."""

from ipsframework import Component


class RampDriver(Component):
    def __init__(self, services, config):
        Component.__init__(self, services, config)
        print("Created %s" % (self.__class__))

    def init(self, timestamp=0.0):
        services = self.services
        self.mode = services.get_config_param("SIMULATION_MODE")
        self.times = services.get_time_loop()
        names = services.get_config_param("PORTS")["NAMES"].split()
        self.ports = {}
        for name in names:
            if name != "DRIVER":
                self.ports[name] = services.get_port(name)
        services.update_time_stamp(self.times[0])
        for name, port in self.ports.items():
            if self.mode == "NORMAL":
                if name != "INIT":
                    services.call(port, "init", self.times[0])
            else:
                services.call(port, "restart", self.times[0])

    def step(self, timestamp=0.0):
        services = self.services
        for t in self.times[1:]:
            services.update_time_stamp(t)
            calls = []
            for name in ("RF", "NB"):
                calls.append(services.call_nonblocking(self.ports[name], "step", t))
            services.wait_call_list(calls, True)
            for name in ("TRANSPORT", "EQUILIBRIUM", "MONITOR"):
                try:
                    services.call(self.ports[name], "step", t)
                except Exception:
                    services.exception("%s failed at t = %f", name, t)
                    raise
            services.stage_state()
            services.stage_output_files(t, self.OUTPUT_FILES)
            services.checkpoint_components(self.ports.values(), t)

    def finalize(self, timestamp=0.0):
        for name in ("TRANSPORT", "EQUILIBRIUM", "MONITOR"):
            self.services.call(self.ports[name], "finalize", self.times[-1])
