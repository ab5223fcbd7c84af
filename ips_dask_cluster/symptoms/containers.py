"""What the container tools say when they cannot start."""

from __future__ import annotations

from ips_dask_cluster.symptoms.symptom import Symptom

__all__ = ["CONTAINERS"]

CONTAINERS: tuple[Symptom, ...] = (
    Symptom(
        "image-missing",
        r"^(?P<said>ch-run\S* error: can't stat: .*?|FATAL: +could not open image.*"
        r"|Error: (?:short-name|initializing source|unable to copy from source|.*image not known).*"
        r"|(?:FAILED|Failed) to (?:lookup(?: \S+)?|find requested) image.*?)(?: \(ch_\w+\.c:.*)?$",
        "the nodes cannot open the container's image: '$said'",
        "look at image=, and put it where every node sees it",
    ),
    Symptom(
        "container-tool-missing",
        r"env: .(?P<program>[\w.-]+).: No such file or directory",
        "the nodes have no program $program",
        "load its module in job_script_prologue",
    ),
    Symptom(
        "container-program-missing",
        r"can't execve\(2\): (?P<one>\S+): No such file|shifter: (?P<two>\S+): No such file"
        r'|[`"](?P<three>[^\s`"]+)[`"]:? (?:executable file )?not found in \$PATH',
        "the container has no program $one$two$three",
        "pass python= with one that is in the image",
    ),
    Symptom(
        "volume-missing",
        r"ch-run\S* error: can't bind: source not found: (?P<directory>\S+).*",
        "the nodes have no directory $directory to show in the container",
        "look at volumes= and local_directory=",
    ),
    Symptom(
        "mount-point-missing",
        r"ch-run\S* error: can't (?:mkdir: (?P<one>\S+?):? (?:Read-only file system|under existing)"
        r"|bind: destination not found: (?P<two>\S+)).*",
        "the container has no mount point $one$two",
        "make that directory in the image, bind one above it (volumes=), or let ch-run make it "
        "(write=True)",
    ),
)
