"""One sub-workflow for each case."""

import os

from ipsframework import Component


class ModelerDriver(Component):
    def init(self, timestamp=0.0):
        for case in self.CASES.split():
            self.services.component_ref.config["INPUT_DIR"] = os.path.join(self.CASE_DIRS, case)
            self.services.stage_input_files(self.INPUT_FILES)
            os.makedirs("input_" + case, exist_ok=True)
            os.rename("case.txt", "input_%s/case.txt" % case)
        self.sub = {}
        for case in self.CASES.split():
            keys = {
                "LOG_FILE": self.services.get_working_dir() + "/%s.log" % case,
                "solver": {"ELONGATION": 1.5 if case == "low" else 2.0},
            }
            self.sub[case] = self.services.create_sub_workflow(
                case, self.services.get_config_param("SUB_WORKFLOW"), keys, "input_" + case
            )
            self.services.call(self.sub[case][2], "init", 0)

    def step(self, timestamp=0.0):
        calls = {}
        for case, (sim_name, init_comp, driver_comp) in self.sub.items():
            calls[self.services.call_nonblocking(driver_comp, "step", timestamp)] = case
        self.services.wait_call_list(list(calls))
        with open("summary.txt", "w") as summary:
            for case in self.CASES.split():
                found = self.services.stage_subflow_output_files(case)
                summary.write("%s %s %s" % (case, found[case], open("result.txt").read()))
        time_id = self.services.get_config_param("TIME_ID")
        self.services.stage_output_files(time_id, self.OUTPUT_FILES, save_plasma_state=False)

    def finalize(self, timestamp=0.0):
        for case, (sim_name, init_comp, driver_comp) in self.sub.items():
            self.services.call(driver_comp, "finalize", timestamp)
        print(open("summary.txt").read().strip())
