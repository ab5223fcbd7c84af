#!/usr/bin/env bash
# Runs once on every node of a worker step and supervises its Dask worker, or workers.
#
# A site may keep its own copy (template_directory=). Two dollars are the shell's own dollar; one
# dollar is a value that scripts.py fills in, already quoted for the shell.
#
# Standard input is a pipe from the driver: first the scheduler's address, then "stop WORKER"
# lines; its end means that the driver closed or died, and everything here leaves with it.
node=$${1:-$${SLURMD_NODENAME:-$$HOSTNAME}}
# TMPDIR may be that of the login node, and not be here
for temporary in "$${SLURM_TMPDIR-}" "$${TMPDIR-}" /tmp; do
    [ -n "$$temporary" ] && [ -w "$$temporary" ] && break
done
say() { printf 'ips-dask: node %s %s\n' "$$node" "$$*" >&2; }

worker=
for pair in $workers; do                        # NODE=WORKER
    [ "$${pair%%=*}" = "$$node" ] && worker=$${pair#*=}
done
[ -n "$$worker" ] || { say "has no worker in this step"; exit 64; }
[ -e $witness ] || { say "cannot see the directory" $run_directory; exit 66; }
[ -d $log_directory ] || { say "cannot see the directory" $log_directory; exit 66; }
exec 3<&0 </dev/null

# Several workers on a node: this script again for each, all of which hear what we hear.
part=$${2-}
if [ $processes -gt 1 ] && [ -z "$$part" ]; then
    pipes=$$(mktemp -d "$$temporary/ips-dask-XXXXXXXX") || exit 73
    trap 'rm -rf "$$pipes"' EXIT
    for ((part = 0; part < $processes; part++)); do
        mkfifo "$$pipes/$$part"
        bash -c "$$BASH_EXECUTION_STRING" "$$0" "$$node" "$$part" <"$$pipes/$$part" 3<&- &
        supervisors[part]=$$!
    done
    tee -p "$$pipes"/* <&3 >/dev/null &
    relay=$$!
    disown "$$relay"
    code=0
    for supervisor in "$${supervisors[@]}"; do wait "$$supervisor" || code=$$?; done
    kill -KILL "$$relay" 2>/dev/null
    exit "$$code"
fi
entry=$$worker
worker=$$worker$${part:+-$$part}
log=$log_directory/$log_prefix"worker-$$node$${part:+-$$part}.log"
mark=$$worker@$$0                                # $$0 is the step: a later one may reuse the name

trap 'say "was left by job_script_prologue with code $$?"' EXIT
$prologue
$environment
trap - EXIT
set +e +o pipefail
set -u  # not before: a prologue may activate an environment whose scripts do not stand it
export IPS_DASK_NODE="$$node" SLURM_OVERLAP=1
# Tasks inherit this environment: variables of the step would mislead an srun or an MPI in them.
for variable in $${!SLURM_@} $${!SRUN_@} $${!PMI_@} $${!PMIX_@}; do
    case $$variable in
        $seen_by_tasks | SLURM_OVERLAP) ;;
        *) unset "$$variable" ;;
    esac
done

# Each worker its own devices, of those that Slurm gave to the step.
if [ $gpus_per_worker -gt 0 ]; then
    for variable in CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES ZE_AFFINITY_MASK; do
        IFS=, read -ra devices <<<"$${!variable-}"
        own=("$${devices[@]:$${part:-0} * $gpus_per_worker:$gpus_per_worker}")
        [ $${#devices[@]} -le 1 ] || export "$$variable=$$(IFS=,; echo "$${own[*]}")"
    done
fi

scratch=$local_directory
own_scratch=
if [ -z "$$scratch" ]; then
    scratch=$$(mktemp -d "$$temporary/ips-dask-XXXXXXXX") || exit 73
    own_scratch=$$scratch
fi

# The worker imports while the scheduler starts, then waits for the address on its standard input.
boot='
$reaper
import os, sys, threading
from importlib import import_module
sys.path.append(sys.path.pop(0))  # modules beside the driver are found, but hide no others
$check
sys.stdout.reconfigure(line_buffering=True)  # what tasks print comes at once, in whole lines
command = import_module(sys.argv[1])
main = command.main

def reach(address, told=sys.stderr):  # tasks may have that name replaced later
    """Leave with the reason where distributed would try for minutes and say nothing."""
    import socket, time
    from distributed import Nanny, Worker
    from psutil import net_if_addrs
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        time.sleep(0.1)  # a worker that is closing again did reach it
        if any(each.status.name not in ("undefined", "created", "init", "starting")
               for each in (*Worker._instances, *Nanny._instances)):
            return
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 10).close()
    except OSError as error:
        own = [f"{name} {each.address}" for name, found in net_if_addrs().items() for each in found
               if each.family == socket.AF_INET]
        node = os.environ.get("IPS_DASK_NODE")
        print(f"ips-dask: node {node} cannot reach the scheduler at {address} "
              f"({error.strerror or error}); its own addresses are {own}", file=told, flush=True)
        os._exit(68)

if hasattr(command, "wait_for_signals"):
    async def wait_for_signals(wait=command.wait_for_signals):
        """Close in order: main without a nanny cancels even a write that closing then waits for."""
        import asyncio, signal
        from distributed import Worker
        signal.signal(signal.SIGTERM, lambda *_: None)  # Slurm and this script may both send one
        number = await wait()
        await asyncio.gather(*(each.close(executor_wait=False, reason=f"signal-{number}")
                               for each in list(Worker._instances)))
        return number
    command.wait_for_signals = wait_for_signals

address = sys.stdin.readline().strip()
if address.startswith(("tcp:", "tls:")):
    threading.Thread(target=reach, args=[address], daemon=True).start()
sys.exit(main(args=[address, *sys.argv[2:]]) if address else 0)
'
start_worker() {
    exec {feed}> >(IPS_DASK_MARK=$$mark exec $container $python -c "$$boot" $worker_command \
        --name "$$worker" --local-directory $scratch_inside $arguments 3<&- 2>>"$$log")
    pid=$$!
}

# Whatever the worker started carries its mark, also in a session of its own.
reap() {
    local marked tries
    for tries in 1 2 3 4 5; do
        marked=$$(cd /proc && grep -lszxF "IPS_DASK_MARK=$$mark" [0-9]*/environ)
        [ -n "$$marked" ] || return
        kill -KILL $${marked//\/environ/} 2>/dev/null
        sleep 0.02
    done
}

finish() {
    [ -z "$${listener-}" ] || kill -KILL "$$listener" 2>/dev/null
    reap
    [ -z "$$own_scratch" ] || rm -rf "$$own_scratch"
}
trap finish EXIT

# Closing in order ends the worker by itself, unless it is still looking for its scheduler; what is
# there after the grace is killed.
leave() {
    trap '' TERM
    kill -TERM "$$pid" 2>/dev/null
    for ((tick = 0; tick < $grace * 10; tick++)); do
        kill -0 "$$pid" 2>/dev/null || break
        sleep 0.1
    done
    exit 0
}
trap leave TERM

listen() {
    trap - TERM EXIT
    while read -r line <&3; do [ "$$line" = "stop $$entry" ] && break; done
    kill -TERM $$$$
}

address=
code=0
for ((attempt = 0; attempt <= $restarts; attempt++)); do
    start_worker
    if [ -z "$$address" ]; then
        read -r -t $start_timeout address <&3
        code=$$?
        [ $$code -le 128 ] || say "got no scheduler address within $start_timeout s"
        [ -n "$$address" ] || exit $$((code > 128 ? 65 : 0))
        listen &
        listener=$$!
        disown "$$listener"  # so that bash does not report its end
    fi
    (printf '%s\n' "$$address" >&"$$feed") 2>/dev/null
    exec {feed}>&-
    wait "$$pid"
    code=$$?
    reap
    [ $$code -ne 0 ] || exit 0
    say "worker $$worker ended with code $$code, start $$((attempt + 1)) of $$(($restarts + 1))"
    # named: nodes write side by side, and tasks may have had an srun of their own
    tail -n 40 "$$log" | while IFS= read -r line || [ -n "$$line" ]; do
        printf '%s| %s\n' "$$worker" "$$line" >&2
    done
    case $$code in 2 | 66 | 67 | 68) break ;; esac   # another start would see the same
done
exit $$code
