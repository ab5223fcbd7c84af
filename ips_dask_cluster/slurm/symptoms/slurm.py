"""List the errors of srun, slurmstepd and the controller, and exit codes with a known meaning."""

from __future__ import annotations

from ips_dask_cluster.slurm.symptoms.symptom import Symptom

__all__ = ["ECHOES", "SLURM"]

_OPTIONS = "look at srun_extra_args and at the options of the allocation"
_OVERLAP = "end it, or start it with --overlap (a shell on the node: srun --overlap --pty bash)"

SLURM: tuple[Symptom, ...] = (
    # srun refuses the step; nothing has started
    Symptom(
        "too-many-cpus",
        r"More processors requested than permitted",
        "srun says 'More processors requested than permitted': the step asks for more CPUs a node "
        "than the allocation holds",
        "allocate with --exclusive, or pass a smaller cores=",
    ),
    Symptom(
        "srun-option",
        r"srun: (?:unrecognized option '(?P<long>--[^'=]+)|invalid option -- '(?P<short>\w))",
        "this srun has no option $long$short: an older Slurm, or a slip in srun_extra_args",
        'leave it out, srun_args_skip=["$long$short"]',
    ),
    Symptom(
        "contradicting-variables",
        r"(?P<what>\S+) set by two different environment variables (?P<one>\w+)\S* != (?P<two>\w+)",
        "the environment of srun contradicts itself: $one and $two both set $what",
        "unset both before the driver starts",
    ),
    Symptom(
        "exclusive-options",
        r"srun: (?:error|fatal): (?P<what>.*mutually exclusive.*)",
        "srun refuses two options that contradict each other: $what",
        "look at srun_extra_args, and at SLURM_ and SRUN_ variables of the driver",
    ),
    Symptom(
        "account",
        r"Invalid account or account/partition combination|Invalid qos specification|"
        r"(?i:invalid partition (?:name )?specified)|Access denied to requested reservation|"
        r"Requested reservation is invalid",
        "Slurm refuses the account, partition, qos or reservation of the step",
        "look at SLURM_ACCOUNT, SLURM_PARTITION and srun_extra_args: a step needs none of them",
    ),
    Symptom(
        "site-filter",
        r"cli_filter plugin terminated with error",
        "a rule of the site (cli_filter) refuses an option of srun; its words are in the log",
        'leave the option out, such as srun_args_skip=["--mem"]',
    ),
    Symptom(
        "memory-option",
        r"Memory (?:required by task is not available|specification can not be satisfied)",
        "Slurm finds no memory for the step or (22.05 says the same) no node for its --constraint",
        'pass srun_args_skip=["--mem"], and ' + _OPTIONS,
    ),
    Symptom(
        "gres",
        r"Invalid generic resource \(gres\) specification",
        "the step asks for GPUs (gres) that the allocation does not hold",
        "allocate them, salloc --gpus-per-node, and look at srun_extra_args",
    ),
    Symptom(
        "node-configuration",
        r"Requested node configuration is not available|Node count specification invalid",
        "the step asks for something its nodes do not have, or for nodes that are not held",
        _OPTIONS,
    ),
    Symptom(
        "feature",
        r"Invalid feature specification",
        "no node has the feature that --constraint asks for",
        "look at --constraint in srun_extra_args; scontrol show node lists the features",
    ),
    Symptom(
        "too-many-nodes",
        r"Only allocated (?P<held>\d+) nodes asked for (?P<wanted>\d+)",
        "the step asks for $wanted nodes, but the allocation holds $held",
        "look at --nodes and --nodelist in srun_extra_args, or allocate more nodes",
    ),
    Symptom(
        "mpi-plugin",
        r"Invalid MPI type '(?P<type>[^']+)'|cannot find mpi plugin for mpi/(?P<type2>\S+)",
        "this Slurm has no MPI plugin of the type that srun --mpi names",
        'look at srun_extra_args, or pass srun_args_skip=["--mpi"]',
    ),
    Symptom(
        "interconnect",
        r"Error configuring interconnect|[Nn]o VNIs? (?:is |are )?(?:available|left)|VNI_NOT_FOUND",
        "the network (Slingshot) gives this step no virtual network (VNI) of its own",
        'the workers need none: pass srun_extra_args=["--network=no_vni"], or what the site says',
    ),
    Symptom(
        "step-limit",
        r"Step limit reached for this job",
        "the job has had as many steps as Slurm allows (MaxStepCount)",
        "use a new allocation; tasks that call srun many times use steps up",
    ),
    Symptom(
        "other-slurm",
        r"Incompatible versions of client and server|Zero Bytes were transmitted or received|"
        r"Incompatible Slurm plugin|undefined symbol: slurm_",
        "srun and the Slurm that runs here are of different versions",
        "use the site's own srun first on PATH; after an update of Slurm, start again",
    ),
    Symptom(
        "no-slurm-configuration",
        r"Could not establish a configuration source",
        "srun finds no configuration of Slurm here",
        "keep SLURM_CONF in the driver's environment; inside a container, run the driver outside",
    ),
    Symptom(
        "munge",
        r"Munge (?:en|de)code failed|Protocol authentication error|Invalid authentication cred",
        "Slurm's authentication (munge) failed: its service is down, or clocks differ",
        "try again; if it stays, tell the site's support",
    ),
    # Slurm ends the step, or cannot launch it
    Symptom(
        "time-limit",
        r"DUE TO TIME LIMIT",
        "the allocation reached its time limit",
        "allocate for longer, salloc --time",
    ),
    Symptom(
        "node-failure",
        r"Node failure on (?P<node>[\w.-]+)",
        "Slurm lost node $node",
        "allocate again without it; with salloc --no-kill the other nodes stay yours",
    ),
    Symptom(
        "some-node-failure",
        r"DUE TO NODE FAILURE",
        "Slurm lost a node of the allocation",
        "see sinfo for which; with salloc --no-kill the other nodes stay yours",
    ),
    Symptom(
        "launch-failure",
        r"Task launch for \S+ failed on node (?P<node>\S+): (?P<why>.*)",
        "node $node did not start its part of the step: $why",
        "leave it out, salloc --exclude=$node, and tell the site's support",
    ),
    Symptom(
        "preemption",
        r"DUE TO PREEMPTION",
        "a job of higher priority took the allocation",
        "use a qos or partition that is not preempted",
    ),
    Symptom(
        "out-of-memory",
        r"[Oo]ut [Oo]f [Mm]emory|oom[-_]kill|Exceeded (?:step|job) memory limit|"
        r"exceeded 95% memory budget",
        "a process ran out of memory",
        "use fewer threads a worker, or nodes with more memory",
    ),
    # scancel of a step kills it at once; at the end of an allocation its steps may still leave
    Symptom(
        "step-cancelled",
        r"(?s)STEP (?P<step>\S+) ON \S+ CANCELLED AT [-\dT:]+ (?:DUE to SIGNAL Killed )?\*\*\*"
        r".*?^srun: error: \S+ tasks? \S+: Killed",
        "step $step was cancelled (scancel)",
        "start the cluster again; if the allocation was cancelled as well, allocate again",
    ),
    Symptom(
        "cancelled",
        r"(?:STEP|JOB) \S+ ON \S+ CANCELLED|Job (?:\d+ )?has been cancelled|Force Terminated ",
        "Slurm cancelled it: the allocation was given back, revoked or cancelled (scancel)",
        "allocate again",
    ),
    Symptom(
        "allocation-gone",
        r"Slurm job \d+ has expired|Invalid job id|Job credential (?:revoked|expired)",
        "the allocation is gone: it was given back, was cancelled or reached its time limit",
        "allocate again; an old SLURM_JOB_ID in the environment also looks like this",
    ),
    Symptom(
        "step-busy",
        r"(?s)(?:[Ss]tep creation (?:still |temporarily )?disabled|Requested nodes are busy)"
        r"(?!.*[Ss]tep created)",
        "another step holds the nodes exclusively",
        _OVERLAP,
    ),
)

#: Consequences of other symptoms: each is the cause only when no other symptom matches.
ECHOES: tuple[Symptom, ...] = (
    Symptom(
        "step-not-created",
        r"ips-dask: Slurm has not created this step, though no other step holds (?P<nodes>\S+)",
        "Slurm has not created the step on $nodes, though no other step holds these nodes: the "
        "allocation lacks something that the step asks for",
        "look at srun_extra_args, such as --mem, --mem-per-cpu and --constraint",
    ),
    Symptom(
        "controller-unreachable",
        r"[Uu]nable to contact slurm controller|Socket timed out on send/recv|Rate limit exceeded",
        "srun cannot reach the Slurm controller",
        "it is down or overloaded, try again",
    ),
    Symptom(
        "already-completing",
        r"Job/step already completing or completed",
        "the step or the allocation was ended while it started",
        "allocate again if the allocation is gone",
    ),
    Symptom(
        "out-of-memory-by-code",
        r"ips-dask: exit code 253$",
        "Slurm ended it because a process ran out of memory",
        "use fewer threads a worker, or nodes with more memory",
    ),
    Symptom(
        "not-executable-by-code",
        r"ips-dask: exit code 126$",
        "a program of the script is not executable on the node",
        "look at python=, container= and job_script_prologue",
    ),
    Symptom(
        "program-missing-by-code",
        r"ips-dask: exit code 127$",
        "a program of the script is missing on the node",
        "look at python=, container= and job_script_prologue",
    ),
    Symptom(
        "killed",
        r"ips-dask: exit code (?:-9|137)$",
        "it was killed by signal 9, often for lack of memory",
        "use fewer threads a worker, or nodes with more memory",
    ),
    Symptom(
        "signal",
        r"ips-dask: exit code -(?P<number>\d+)$",
        "it was ended by signal $number",
        "it was killed by another process: a limit of the site, as on login nodes, or kill(1)",
    ),
)
