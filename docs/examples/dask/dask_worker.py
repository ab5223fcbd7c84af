"""A worker: one pool with a binary, a function and a bound method, half a second each."""

import time

from ipsframework import Component


def myfun(seconds):
    print(f"myfun({seconds})")
    time.sleep(seconds)
    return 0


class DaskWorker(Component):
    def step(self, timestamp=0.0, **keywords):
        cwd = self.services.get_working_dir()
        self.services.create_task_pool("pool")
        self.services.add_task(
            *("pool", "binary", 1, cwd, "sh"), "-c", 'echo "sh $1"; sleep $1', "sh", "0.5"
        )
        self.services.add_task("pool", "function", 1, cwd, myfun, 0.5)
        self.services.add_task("pool", "method", 1, cwd, self.mymethod, 0.5)
        ret_val = self.services.submit_tasks("pool", use_dask=True, dask_nodes=1)
        print("ret_val =", ret_val)
        exit_status = self.services.get_finished_tasks("pool")
        print("exit_status =", exit_status)
        self.services.remove_task_pool("pool")

    def mymethod(self, seconds):
        print(f"mymethod({seconds})")
        time.sleep(seconds)
        return 0
