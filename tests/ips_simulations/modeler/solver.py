"""The code of one case."""

from ipsframework import Component


class Solver(Component):
    def init(self, timestamp=0.0):
        self.services.stage_input_files(self.INPUT_FILES)

    def step(self, timestamp=0.0):
        beta = float(open("case.txt").read().split()[1])
        cwd = self.services.get_working_dir()
        task = self.services.launch_task(
            int(self.NPROC), cwd, "sh -c", "echo done", logfile="solver.log"
        )
        self.services.wait_task(task)
        return beta * float(self.ELONGATION)
