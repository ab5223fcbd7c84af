#!/usr/bin/env python
from ipsframework import Component


class retryDriver(Component):
    def step(self, timeStamp=0):
        services = self.services
        code = services.get_port("CODE")
        if code is None:
            services.error("Error accessing code component")
            raise Exception("no code")
        for dt in services.get_time_loop():
            print("trying dt = %f" % dt)
            try:
                call_id = services.call_nonblocking(code, "step", timeStamp, dt=dt)
                services.wait_call(call_id, True)
            except Exception as e:
                print("failed: %s" % str(e))
                services.exception("Error in step of code, dt = %f", dt)
            else:
                print("done")
        services.call(code, "finalize", timeStamp)
