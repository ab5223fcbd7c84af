#!/usr/bin/env bash
# Runs the Dask scheduler on the first node of the allocation and supervises it.
#
# Two dollars are the shell's own dollar; one dollar is a value that scripts.py fills in, already
# quoted for the shell. The scheduler's address goes to standard output, one line that begins with
# "ips-dask-scheduler"; the end of standard input means that the driver closed or died.
node=$${1:-$${SLURMD_NODENAME:-$$HOSTNAME}}
# TMPDIR may be that of the login node, and not be here
for temporary in "$${SLURM_TMPDIR-}" "$${TMPDIR-}" /tmp; do
    [ -n "$$temporary" ] && [ -w "$$temporary" ] && break
done
say() { printf 'ips-dask: node %s %s\n' "$$node" "$$*" >&2; }
[ -e $witness ] || { say "cannot see the directory" $run_directory; exit 66; }
[ -d $log_directory ] || { say "cannot see the directory" $log_directory; exit 66; }
exec 3<&0 </dev/null

trap 'say "was left by job_script_prologue with code $$?"' EXIT
$prologue
$environment
trap - EXIT
set +e +o pipefail
set -u  # not before: a prologue may activate an environment whose scripts do not stand it

boot='
import sys, types
sys.path.append(sys.path.pop(0))  # modules beside the driver are found, but hide no others
$check
from distributed.cli.dask_scheduler import main
from distributed.utils import get_ip_interface
arguments = sys.argv[1:]
if "--interface" in arguments:  # which that main refuses together with certificates
    at = arguments.index("--interface")
    arguments[at:at + 2] = ["--host", get_ip_interface(arguments[at + 1])]
announce = types.ModuleType("ips_dask_announce")
announce.dask_setup = lambda scheduler: print("ips-dask-scheduler", scheduler.address, flush=True)
sys.modules[announce.__name__] = announce
sys.exit(main(args=arguments))
'
log=$log_directory/$log_prefix"scheduler-$$node.log"
scratch=$$(mktemp -d "$$temporary/ips-dask-XXXXXXXX") || exit 73
trap 'rm -rf "$$scratch"' EXIT
export IPS_DASK_NODE="$$node"
IPS_DASK_MARK=$name DASK_TEMPORARY_DIRECTORY=$scratch_inside $container $python -c "$$boot" \
    --port 0 --preload ips_dask_announce $arguments 3<&- 2>>"$$log" &
pid=$$!

leave() {
    trap '' TERM
    kill -TERM "$$pid" 2>/dev/null
    for ((tick = 0; tick < $grace * 10; tick++)); do
        kill -0 "$$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$$pid" 2>/dev/null
    exit 0
}
trap leave TERM

(
    trap - TERM EXIT
    while read -r _ <&3; do :; done
    kill -TERM $$$$
) &
listener=$$!
disown "$$listener"  # so that bash does not report its end

wait "$$pid"
code=$$?
kill -KILL "$$listener" 2>/dev/null
[ $$code -eq 0 ] || tail -n 40 "$$log" >&2
exit $$code
