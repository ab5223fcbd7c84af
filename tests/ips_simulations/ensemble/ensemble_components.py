"""A driver that iterates, and a worker with several pools a step; found by their MODULE."""

import os

from ipsframework import Component


def cost(number, weight):
    return weight * (number - 3) ** 2


class iteration_driver(Component):
    def step(self, timestamp=0.0, **keywords):
        services = self.services
        t_min = int(services.sim_conf["ITERATION_LOOP"]["TMIN"])
        t_max = int(services.sim_conf["ITERATION_LOOP"]["TMAX"])
        worker = services.get_port("WORKER")
        with open("residual.txt", "w") as out:
            for iteration in range(t_min, t_max + 1):
                services.update_time_stamp(iteration)
                residual = services.call(worker, "step", iteration, weight=0.5)[0]
                print("iteration %d residual %.1f" % (iteration, residual))
                out.write("%.1f\n" % residual)
        services.stage_output_files(t_max, self.OUTPUT_FILES, save_plasma_state=False)


class ensemble_worker(Component):
    def step(self, timestamp=0.0, weight=1.0, **keywords):
        services = self.services
        cwd = services.get_working_dir()

        # programs, started by the platform's launcher
        pool_name = "prepare_%d" % timestamp
        services.create_task_pool(pool_name)
        for member in self.MEMBERS:
            run_dir = os.path.join(cwd, "run_%s" % member)
            os.makedirs(run_dir, exist_ok=True)
            with open(os.path.join(run_dir, "prepare.sh"), "w") as script:
                script.write("echo member %s && echo %d > number\n" % (member, timestamp))
            services.add_task(
                pool_name, "task_" + member, 1, run_dir, "sh", "prepare.sh",
                logfile="prepare.log", timeout=60, task_ppn=1,
            )  # fmt: skip
        services.submit_tasks(pool_name)
        exit_status = services.get_finished_tasks(pool_name)
        print("exit_status =", sorted(exit_status.items()))
        services.remove_task_pool(pool_name)

        # programs, functions and methods on Dask
        pool_name = "evaluate_%d" % timestamp
        services.create_task_pool(pool_name)
        for i, member in enumerate(self.MEMBERS):
            run_dir = os.path.join(cwd, "run_%s" % member)
            services.add_task(
                pool_name, "read_" + member, 1, run_dir, "sh", "-c", "cat number",
                logfile=os.path.join(run_dir, "read.log"), errfile="read.err",
            )  # fmt: skip
            services.add_task(pool_name, "cost_" + member, 1, run_dir, cost, i + timestamp, weight)
        services.submit_tasks(pool_name, use_dask=True, dask_nodes=int(self.DASK_NODES), dask_ppw=2)
        values = services.get_finished_tasks(pool_name)
        services.remove_task_pool(pool_name)
        return sum([values["cost_" + member] for member in self.MEMBERS])
