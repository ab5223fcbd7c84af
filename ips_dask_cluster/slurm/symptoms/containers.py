"""List the errors of container tools that cannot start."""

from __future__ import annotations

from ips_dask_cluster.slurm.symptoms.symptom import Symptom

__all__ = ["CONTAINERS"]

CONTAINERS: tuple[Symptom, ...] = (
    Symptom(
        "image-registry",
        r"^(?P<said>FATAL: +Unable to handle \S+ uri: .*"
        r"|Error: (?:initializing source|unable to copy from source) .*)",
        "the nodes cannot fetch the container's image: '$said'",
        "fetch it where the registry can be reached, such as on a login node (apptainer pull, "
        "podman-hpc pull), and pass the result as image=",
    ),
    Symptom(
        "image-broken",
        r"^(?P<said>FATAL: .*(?:image format not recognized|bad superblock for squashfs image"
        r"|trying to read the squashfs image).*"
        r"|ch-run\S* error: can't read: .*?"
        r"|ch-run\S* error: can't bind: destination not found: \S+/(?:dev|proc|sys)\b.*?)"
        r"(?: \(\w+\.c:.*)?$",
        "the container's image is damaged or of another kind: '$said'",
        "look at image=, and build or copy the image again",
    ),
    Symptom(
        "image-missing",
        r"^(?P<said>ch-run\S* error: can't stat: .*?"
        r"|FATAL: +(?:[\w ]+: )?could not open image.*"
        r"|Error: (?:short-name|running container create option: faccessat|.*image not known).*"
        r"|(?:FAILED|Failed) to (?:lookup(?: \S+)?|find requested) image.*?)(?: \(\w+\.c:.*)?$",
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
        r"can't exec(?:ve\(2\))?: (?P<one>\S+): No such file|shifter: (?P<two>\S+): No such file"
        r'|[`"](?P<three>[^\s`"]+)[`"]:? (?:executable file )?not found(?: in \$PATH|: No such)'
        r"|FATAL: +stat (?P<four>\S+): no such file",
        "the container has no program $one$two$three$four",
        "pass python= with one that is in the image",
    ),
    Symptom(
        "volume-missing",
        r"ch-run\S* error: can't bind: source not found: (?P<one>\S+).*"
        r"|while mounting \S+: mount source (?P<two>\S+) doesn't exist"
        r"|^Error: statfs (?P<three>\S+): no such file or directory",
        "the nodes have no directory $one$two$three to show in the container",
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
    Symptom(
        "container-directory-missing",
        r"FATAL: +failed to set working directory: chdir (?P<one>\S+): no such file"
        r"|ch-run\S* error: can't cd to (?P<two>\S+): No such file"
        r'|^Error: workdir "(?P<three>[^"]+)" does not exist on container',
        "the container has no directory $one$two$three to start in",
        "bind it (volumes=) if the site allows that, or start the driver in a directory that "
        "containers see",
    ),
    Symptom(
        "container-capabilities",
        r"Requesting capability set \S+ while permitted capability set is",
        "Apptainer asks for more capabilities than root has on the nodes",
        'run as an ordinary user, or pass arguments=["--no-privs"]',
    ),
    Symptom(
        "container-cgroups",
        r"containers not creating Cgroups must create a private PID namespace",
        "podman runs with cgroups=disabled, which excludes the --pid=host that the node scripts "
        "need",
        'pass arguments=["--cgroups=no-conmon"], or change cgroups= in containers.conf',
    ),
    Symptom(
        "container-failed",
        r"^(?P<said>FATAL: +container creation failed: .*|Error: OCI runtime error: .*)",
        "the container does not start: '$said'",
        "run the container tool by hand on a node (srun --pty), or tell the site's support",
    ),
)
