"""List the errors on nodes: of our scripts, Python, libraries, the network and distributed."""

from __future__ import annotations

from ips_dask_cluster.slurm.symptoms.symptom import Symptom

__all__ = ["CRASHES", "NODES", "OWN"]

_CRASH_REMEDY = (
    "a compiled library of a task or of the environment is at fault, or was built for another "
    'processor; env={"PYTHONFAULTHANDLER": "1"} shows the Python line in the log'
)
#: Signals that compiled code gets when it crashes (signal(7)).
_CRASH_SIGNALS = {"SIGILL": 4, "SIGABRT": 6, "SIGBUS": 7, "SIGFPE": 8, "SIGSEGV": 11}

#: Messages of our own scripts, which always give the cause.
OWN: tuple[Symptom, ...] = (
    Symptom(
        "run-directory",
        r"ips-dask: node (?P<node>\S+) cannot see the directory (?P<directory>.*)",
        "node $node cannot see the directory $directory",
        "choose shared_temp_directory (IPS: SIM_ROOT) on a file system that every node mounts",
    ),
    Symptom(
        "step-held",
        r"ips-dask: Slurm does not start this step while step (?P<steps>.*) runs on (?P<nodes>\S+)",
        "Slurm does not start this step while step $steps runs on $nodes",
        "end it, or start it with --overlap (a shell on the node: srun --overlap --pty bash)",
    ),
    Symptom(
        "no-scheduler-address",
        r"ips-dask: node (?P<node>\S+) got no scheduler address within (?P<seconds>\d+) s",
        "node $node got no scheduler address within $seconds s",
        "the scheduler did not start in time; look at its log, or raise start_timeout",
    ),
    Symptom(
        "no-route",
        r"ips-dask: node (?P<node>\S+) cannot reach the scheduler at (?P<address>\S+) "
        r"\((?P<why>.*)\); its own addresses are (?P<own>.*)",
        "node $node cannot reach the scheduler at $address ($why); its own addresses are $own",
        "pass interface= with a network that all nodes share",
    ),
    Symptom(
        "prologue",
        r"ips-dask: node (?P<node>\S+) was left by job_script_prologue with code (?P<code>\d+)",
        "job_script_prologue ended with code $code on node $node",
        "run its lines there by hand; an exit or a set -e in them ends the whole script",
    ),
    # versions.py writes this message, with the remedy in it
    Symptom(
        "node-check",
        r"ips-dask: node (?P<node>\S+): (?P<what>[^;]*); (?P<remedy>.*)",
        "node $node: $what",
        "$remedy",
    ),
)

NODES: tuple[Symptom, ...] = (
    # The Python and the libraries of the nodes
    Symptom(
        "program-missing",
        r"(?:line \d+: (?:exec: )?|execve\(\): )(?P<program>[^\s:]+): (?:cannot execute: )?"
        r"(?:No such file or directory|(?:command |required file )?not found)",
        "the nodes have no program $program",
        "pass python= (or container=) with one that exists there, or load its module in "
        "job_script_prologue",
    ),
    Symptom(
        "program-not-executable",
        r"line \d+: (?:exec: )?(?P<program>[^\s:]+): "
        r"(?:cannot execute.*|Permission denied|Is a directory)",
        "the nodes cannot execute $program",
        "pass python= (or container=) with a program for this kind of node that you may execute",
    ),
    Symptom(
        "library-missing",
        r"error while loading shared libraries: (?P<what>[^:]+)|version `(?P<what2>\S+)' not found",
        "a program lacks the shared library (or version) $what$what2 on the nodes",
        "load its module in job_script_prologue, or set LD_LIBRARY_PATH with env=",
    ),
    Symptom(
        "module-missing",
        r"No module named '?(?P<module>[\w.]+)'?",
        "the Python of the nodes has no module '$module'",
        "install dask and distributed there, or pass python= (or container=) with one that has "
        "them",
    ),
    Symptom(
        "import-failed",
        r"(?:^|\| )ImportError: (?P<why>.*)",
        "the Python of the nodes cannot import a module: $why",
        "use the same environment on all nodes, python= or container=",
    ),
    Symptom(
        "home-missing",
        r"couldn't chdir to [`'](?P<directory>[^']+)'",
        "a node cannot go to the directory $directory",
        "start the driver in a directory that every node mounts",
    ),
    Symptom(
        "disk-full",
        r"No space left on device|Disk quota exceeded",
        "a file system is full, or your quota on it",
        "make room, or choose other directories, shared_temp_directory and local_directory",
    ),
    Symptom(
        "too-many-files",
        r"Too many open files",
        "a process may not open more files",
        "raise the limit in job_script_prologue (ulimit -n), or use fewer, larger workers",
    ),
    Symptom(
        "too-many-threads",
        r"can't start new thread|fork: (?:retry: )?Resource temporarily unavailable",
        "a process may not start more processes or threads",
        "raise the limit in job_script_prologue (ulimit -u), or lower OMP_NUM_THREADS with env=",
    ),
    # The network, and distributed
    Symptom(
        "interface-unknown",
        r"'(?P<name>[^']+)' is not a valid network interface. Valid network interfaces are: "
        r"\[(?P<those>[^\]]*)\]",
        "the node has no network interface $name, but $those",
        "pass one of these as interface=",
    ),
    Symptom(
        "interface-without-address",
        r"interface '(?P<name>[^']+)' doesn't have an IPv4 address",
        "the network interface $name of the node has no IPv4 address",
        "pass another one as interface=",
    ),
    Symptom(
        "interface-and-host",
        r"Can not specify both interface and host",
        "the scheduler is given a network interface and a host",
        "pass one of them; with TLS, host= in scheduler_options or security=False",
    ),
    Symptom(
        "host-not-here",
        r"Cannot assign requested address|Name or service not known|"
        r"Temporary failure in name resolution|Name does not resolve",
        "a host name or address is not known, or is not one of the node that should listen on it",
        "look at host= in scheduler_options; interface= chooses the address on each node",
    ),
    Symptom(
        "port-taken",
        r"Address already in use",
        "the port is taken by another program on the node",
        "pass no port= and no dashboard_address= in scheduler_options: a free one is found",
    ),
    Symptom(
        "clock-skew",
        r"certificate is not yet valid|certificate (?:has )?expired|alert bad certificate",
        "a node's clock differs from the driver's, so that the TLS certificate is not valid there",
        "tell the site's support; security=False does without TLS",
    ),
    Symptom(
        "tls",
        r"CERTIFICATE_VERIFY_FAILED|SSLError|\[SSL: \w+\]",
        "a TLS connection within the cluster was refused",
        "pass the same security= to everything that connects; another cluster's key is refused",
    ),
    Symptom(
        "version-mismatch",
        r"Mismatched versions found",
        "driver, scheduler and workers run different versions of Python, dask or distributed",
        "use one environment, python= or container=; the table is in the log",
    ),
    Symptom(
        "dask-option",
        r"No such option:? '?(?P<option>-[-\w]+)|Unknown argument specified",
        "distributed on the nodes does not know an option of its command line $option",
        "look at worker_extra_args and scheduler_options, and at the version of distributed there",
    ),
    Symptom(
        "cannot-connect",
        r"Timed out (?:during handshake while connecting|trying to connect) to (?P<address>\S+)|"
        r"(?P<refused>Connection refused|No route to host|Network is unreachable)",
        "a connection within the cluster failed: $address$refused",
        "pass interface= with a network that all nodes share",
    ),
    # A crash that a process other than the worker or srun reports
    Symptom(
        "crash",
        r"(?P<how>Segmentation fault|Bus error|Illegal instruction|Floating point exception)"
        r"|(?:line \d+: +\d+|tasks? \S+:) (?P<how2>Aborted)",
        "a process crashed ($how$how2) in compiled code",
        _CRASH_REMEDY,
    ),
)

#: Crashes by exit code alone, whatever else is in the log of the process.
CRASHES: tuple[Symptom, ...] = tuple(
    Symptom(
        f"crash-{name.lower()}",
        rf"ips-dask: exit code (?:-{number}|{128 + number})$",
        f"it crashed ({name}) in compiled code",
        _CRASH_REMEDY,
    )
    for name, number in _CRASH_SIGNALS.items()
)
