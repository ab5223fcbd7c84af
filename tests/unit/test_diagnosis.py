"""What a step's log says becomes one sentence with the cause and the remedy.

The texts are in ``recorded``: one file each, named after its symptom; the head says where the text
was seen, the exit code, and a part of the sentence. What can be provoked on the test bed is
provoked in ``tests/slurm/test_troubles.py`` too.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest

from ips_dask_cluster.slurm.diagnosis import (
    RUN_DIRECTORY_INVISIBLE,
    diagnose,
    holding_steps,
    recognise,
)
from ips_dask_cluster.slurm.symptoms import SYMPTOMS, Symptom

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Recorded:
    symptom: str
    exit_code: int
    sentence: str
    text: str


def read(path: Path) -> Recorded:
    head, _, text = path.read_text().partition("\n\n")
    fields = dict(line.split(": ", 1) for line in head.splitlines())
    assert fields["source"]
    symptom = path.stem.partition(".")[0]
    return Recorded(symptom, int(fields["exit code"]), fields["sentence"], text)


RECORDED = {
    path.stem: read(path) for path in sorted((Path(__file__).parent / "recorded").iterdir())
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_text_is_recognised(name: str) -> None:
    recorded = RECORDED[name]
    found = recognise(recorded.exit_code, recorded.text)
    assert found is not None
    assert found[0].name == recorded.symptom
    sentence = diagnose(recorded.exit_code, recorded.text)
    assert recorded.sentence in sentence
    assert "\n" not in sentence
    assert "$" not in sentence


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda symptom: symptom.name)
def test_every_symptom_is_recorded_and_complete(symptom: Symptom) -> None:
    assert symptom.name in {recorded.symptom for recorded in RECORDED.values()}
    assert symptom.remedy
    # else substituting would raise
    placeholders = set(re.findall(r"\$(\w+)", f"{symptom.cause} {symptom.remedy}"))
    assert placeholders <= set(re.compile(symptom.pattern).groupindex)


def test_names_are_unique() -> None:
    names = [symptom.name for symptom in SYMPTOMS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("code", "text"), [(1, ""), (0, "all is\nwell"), (None, "")])
def test_unknown_is_said_to_be_unknown(code: int | None, text: str) -> None:
    assert diagnose(code, text) == "no known symptom in its log"


def test_message_beats_the_exit_code() -> None:
    assert diagnose(-9, "srun: error: n1: task 0: Out Of Memory").startswith("a process ran out")


def test_wait_that_is_over_is_no_cause() -> None:
    """srun says so when other steps hold the nodes for a moment."""
    log = (
        "srun: Job 17 step creation temporarily disabled, retrying (Requested nodes are busy)\n"
        "srun: Step created for StepId=17.1\n"
        "ModuleNotFoundError: No module named 'distributed'"
    )
    assert "no module 'distributed'" in diagnose(1, log)


@pytest.mark.parametrize("script", ["scheduler.sh", "worker.sh"])
def test_scripts_use_the_exit_code_of_an_invisible_directory(script: str) -> None:
    text = (resources.files("ips_dask_cluster") / "templates" / script).read_text()
    assert f"exit {RUN_DIRECTORY_INVISIBLE}" in text


def test_troubleshooting_page_shows_the_table() -> None:
    command = [sys.executable, REPOSITORY / "tools" / "symptom-table", "--check"]
    done = subprocess.run(command, timeout=60)
    assert done.returncode == 0, "run tools/symptom-table"


# Which steps hold the nodes. What scontrol printed on Slurm 22.05.8, other steps added.

LISTING = """\
StepId=17.batch UserId=0 StartTime=2026-11-23T09:52:30 TimeLimit=UNLIMITED
   State=RUNNING Partition=local NodeList=n1
   Nodes=1 CPUs=2 Tasks=1 Name=batch Network=(null)
   SrunHost:Pid=(null):0

StepId=17.0 UserId=0 StartTime=2026-11-23T09:52:36 TimeLimit=UNLIMITED
   State=RUNNING Partition=local NodeList=n[1-2]
   Nodes=2 CPUs=4 Tasks=2 Name=bash Network=(null)
   TRES=cpu=4,mem=0,node=2
   ResvPorts=(null)
   CPUFreqReq=Default Dist=Cyclic
   SrunHost:Pid=vm:7278

StepId=17.1 UserId=0 StartTime=2026-11-23T09:52:37 TimeLimit=UNLIMITED
   State=RUNNING Partition=local NodeList=n4
   Nodes=1 CPUs=1 Tasks=1 Name=elsewhere Network=(null)
   SrunHost:Pid=vm:7279

StepId=18.0 UserId=0 StartTime=2026-11-23T09:52:37 TimeLimit=UNLIMITED
   State=RUNNING Partition=local NodeList=n2
   Nodes=1 CPUs=1 Tasks=1 Name=other Network=(null)
   SrunHost:Pid=vm:7280

StepId=17.TDB UserId=0 StartTime=Unknown TimeLimit=UNLIMITED
   State=PENDING Partition=local NodeList=n[1-3]
   Nodes=2 CPUs=2 Tasks=2 Name=(null) Network=(null)
   TRES=(null)
   ResvPorts=(null)
   CPUFreqReq=Default Dist=Unknown
   SrunHost:Pid=vm:7305

"""


def test_holding_steps_are_those_of_the_job_on_the_nodes() -> None:
    assert holding_steps(LISTING, 7305) == ["17.0 (bash)"]


def test_step_without_a_name_holds_nodes_too() -> None:
    assert holding_steps(LISTING.replace("Name=bash", "Name="), 7305) == ["17.0 ()"]


@pytest.mark.parametrize("pid", [7278, 305, 1])
def test_srun_that_does_not_wait_is_told_from_one_that_nothing_holds(pid: int) -> None:
    assert holding_steps(LISTING, pid) is None


#: What scontrol printed on Slurm 26.05.5 for srun --mem-per-cpu=2000 in a job of --mem=1000.
ALONE = """\
StepId=1.TBD UserId=0 StartTime=Unknown TimeLimit=UNLIMITED
   State=PENDING Partition=local NodeList=n[1-2]
   Nodes=2 CPUs=2 Tasks=2 Name=(null) Network=(null)
   TRES=(null)
   ResvPorts=(null)
   CPUFreqReq=Default Dist=Unknown
   SrunHost:Pid=vm:9527

"""


def test_step_that_asks_for_too_much_waits_for_no_other_step() -> None:
    assert holding_steps(ALONE, 9527) == []


@pytest.mark.parametrize(
    "listing",
    ["", "No job steps in the system\n", "garbage=1\n\nState=RUNNING SrunHost:Pid=a:7305"],
)
def test_listing_of_nothing(listing: str) -> None:
    assert holding_steps(listing, 7305) is None


@pytest.mark.parametrize(
    "name",
    [
        "a State=PENDING NodeList=n9",
        "SrunHost:Pid=vm:7305",
        "x\n   State=COMPLETED Partition=local NodeList=n9",
        "x\n\ny",
    ],
)
def test_name_of_a_step_does_not_hide_it(name: str) -> None:
    assert holding_steps(LISTING.replace("Name=bash", f"Name={name}"), 7305) == [f"17.0 ({name})"]


def test_nodes_that_do_not_parse_hold_nothing() -> None:
    assert holding_steps(LISTING.replace("n[1-2]", "n[2-1]"), 7305) == []
