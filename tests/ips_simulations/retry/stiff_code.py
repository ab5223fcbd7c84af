#!/usr/bin/env python
import os
import sys

from ipsframework import Component


class stiffCode(Component):
    def __init__(self, services, config):
        Component.__init__(self, services, config)
        print("Created %s" % self.__class__.__name__)

    def init(self, timeStamp=0):
        pass

    def step(self, timeStamp=0, dt=0.0):
        services = self.services
        binary = self.BIN_PATH + "/stiff"
        try:
            task_id = services.launch_task(
                self.NPROC, os.getcwd(), binary, dt, self.MAX_STEP,
                logfile="stiff.log", errfile="stiff.err", whole_nodes=True,
            )  # fmt: skip
            retcode = services.wait_task(task_id, timeout=100, delay=0.5)
            if retcode != 0:
                said = open("stiff.log").readline().strip()
                raise Exception("%s returned %d: %s" % ("stiff", retcode, said))
        except Exception:
            services.exception("Error in call to %s" % binary)
            raise
        services.stage_output_files(timeStamp, self.OUTPUT_FILES)

    def finalize(self, timeStamp=0):
        # two programs at once, one of which nobody needs any more
        services = self.services
        tasks = []
        for seconds in ("0", 300):
            tasks.append(
                services.launch_task(1, os.getcwd(), "sleep", seconds, errfile="sleep.err")
            )
        codes = services.wait_tasklist(tasks[:1])
        services.kill_task(tasks[1])
        services.log("codes %s", list(codes.values()))
        sys.stdout.write("finalized\n")
