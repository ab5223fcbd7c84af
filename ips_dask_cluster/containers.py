"""Build the words that start a container, which stand before a command line.

A container is a frozen value; it knows its command prefix, and nothing of clusters or scripts. All
four keep the host's network and process ids, pass standard input on, and pass the environment of
the script to the command; the node scripts depend on this.
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ips_dask_cluster.errors import ClusterError

__all__ = [
    "SCRATCH",
    "Apptainer",
    "Charliecloud",
    "Container",
    "PodmanHPC",
    "Shifter",
    "checked",
    "scratch_inside",
    "shell_prefix",
    "shifter_arguments",
]

# No argument of a program can contain a NUL.
_VARIABLE = "\0{}\0"
SCRATCH = _VARIABLE.format("scratch")
"""Placeholder in `visible` for the node's scratch directory, whose name only its script knows."""
_TEMPORARY = _VARIABLE.format("temporary")

_NO_USER_SITE = {"PYTHONNOUSERSITE": "1"}


class Container(Protocol):
    """An object that has a command prefix."""

    def prefix(self, visible: Sequence[str] = (), directory: str | None = None) -> list[str]:
        """Return the words that stand before a command to run it in the container.

        `visible` are directories that must be visible inside under the same names; `SCRATCH` may be
        one of them. `directory` is where the command starts; by default, the tool decides.
        """
        ...


def shifter_arguments(arguments: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return a container's further arguments as words; a string is split like in a shell."""
    if arguments is None:
        return ()
    if isinstance(arguments, str):
        return tuple(shlex.split(arguments))
    return tuple(str(argument) for argument in arguments)


@dataclass(frozen=True)
class _Tool:
    """The fields of all containers, with their checks."""

    image: str | None = None
    volumes: Sequence[str] = ()
    arguments: str | Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict, hash=False, kw_only=True)

    def __post_init__(self) -> None:
        tool = type(self).__name__
        if self.image is not None:
            object.__setattr__(self, "image", str(self.image))
            _check_word(tool, "image", str(self.image))
        elif not isinstance(self, Shifter):
            raise ValueError(f"{tool}: an image is needed")
        if isinstance(self.volumes, str):
            raise ValueError(
                f"{tool}: volumes={self.volumes!r}: a sequence is needed, such as "
                f"volumes=({self.volumes!r},)"
            )
        for volume in self.volumes:
            _check_word(tool, "volume", volume)
            if not re.fullmatch(r"[^:]+:[^:]+(:.*)?", volume):
                raise ValueError(
                    f"{tool}: volume {volume!r}: SOURCE:DESTINATION is needed, such as "
                    "'/scratch/me:/data'"
                )
        object.__setattr__(self, "volumes", tuple(self.volumes))
        object.__setattr__(self, "arguments", shifter_arguments(self.arguments))
        object.__setattr__(self, "env", dict(self.env))

    def _options(self, volume: str, env: str, visible: Iterable[str] = ()) -> list[str]:
        """Return the options for volumes and environment, with the tool's names of the options."""
        bound = [f"{path}:{path}" for path in _unbound(visible, self.volumes)]
        variables = _NO_USER_SITE | dict(self.env)
        return [
            *(f"{volume}={pair}" for pair in (*self.volumes, *bound)),
            *(f"{env}={name}={value}" for name, value in variables.items()),
        ]


def _check_word(tool: str, what: str, word: str) -> None:
    if not word:
        raise ValueError(f"{tool}: the {what} is empty")
    if re.search(r"\s", word):
        raise ValueError(f"{tool}: {what} {word!r} has a blank in it, which the tool cannot handle")


def _unbound(visible: Iterable[str], volumes: Sequence[str]) -> list[str]:
    """Return the outermost of the directories that the volumes do not show already."""
    parts = [volume.split(":") for volume in volumes]
    shown = [Path(source) for source, destination, *_ in parts if source == destination]
    found: list[str] = []
    for path in sorted(set(visible)):  # a directory sorts before those inside it
        if path != "/" and not any(Path(path).is_relative_to(outer) for outer in shown):
            shown.append(Path(path))
            found.append(path)
    return found


@dataclass(frozen=True)
class Shifter(_Tool):
    """A Shifter container.

    The site decides which directories are visible inside. The run directory must lie on a file
    system that the site mounts into every container (usually home and scratch), since a volume on
    the command line would need a mount point in the image and set up a container of its own.

    Parameters
    ----------
    image : str, optional
        Image for ``--image=``, such as ``"docker:me/code:1"``. Default: the image with which the
        job was submitted (``--image``), in the container that is already set up on each node.
    volumes : sequence of str, optional
        Volumes as ``"SOURCE:DESTINATION"``, each passed as ``--volume=``. Volumes given here
        replace those of the job.
    arguments : str or sequence of str, optional
        Further words, passed unchanged, such as ``["--module=gpu"]``. A string is split as a shell
        would split it.
    env : mapping of str to str, optional
        Environment variables, each passed as ``--env=NAME=VALUE``. ``PYTHONNOUSERSITE=1`` is set
        unless given, as for all containers: packages in the user's home are made for the Python
        outside.

    Raises
    ------
    ValueError
        The image is empty; `volumes` is a string; a volume is not ``SOURCE:DESTINATION``; or an
        image or a volume contains a blank.

    Notes
    -----
    Options: https://shifter.readthedocs.io/en/latest/command/shifter.html. Images of jobs:
    https://shifter.readthedocs.io/en/latest/wlm/slurm.html.
    """

    def prefix(self, visible: Sequence[str] = (), directory: str | None = None) -> list[str]:
        """Return ``shifter`` and its options; the site decides about `visible` and `directory`."""
        image = [f"--image={self.image}"] if self.image else []
        return ["shifter", *image, *self._options("--volume", "--env"), *self.arguments]


@dataclass(frozen=True)
class PodmanHPC(_Tool):
    """A podman-hpc container; each scheduler and each worker is one ``podman-hpc run``.

    Parameters
    ----------
    image : str
        An image that ``podman-hpc`` has pulled or migrated, such as ``"docker.io/me/code:1"``.
    volumes : sequence of str, optional
        Volumes as ``"SOURCE:DESTINATION[:OPTIONS]"``, each passed as ``--volume=``, in addition to
        those that the cluster itself needs.
    arguments : str or sequence of str, optional
        Further words, passed unchanged, such as ``["--mpich"]``. A string is split as a shell would
        split it. ``--cgroups=disabled`` is refused, because podman then requires process ids of the
        container's own, and the node scripts need those of the host. ``--cgroups=no-conmon`` works.
    env : mapping of str to str, optional
        Environment variables, each passed as ``--env=NAME=VALUE``. They take precedence over the
        image's own variables, and those over the host's. ``PYTHONNOUSERSITE=1`` is set unless
        given.
    gpu : bool, optional
        Whether to pass ``--gpu``, podman-hpc's module for the node's GPUs. Default: False.

    Raises
    ------
    ValueError
        The image is missing or empty; `volumes` is a string; a volume is not
        ``SOURCE:DESTINATION[:OPTIONS]``; an image or a volume contains a blank; or the arguments
        have ``--cgroups=disabled``.

    Notes
    -----
    https://docs.podman.io/en/latest/markdown/podman-run.1.html; modules such as ``--gpu``:
    https://docs.nersc.gov/development/containers/podman-hpc/overview/.
    """

    gpu: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if re.search(r"(^| )--cgroups[= ]disabled( |$)", " ".join(self.arguments)):
            raise ValueError(
                "PodmanHPC: --cgroups=disabled excludes --pid=host, which the node scripts need; "
                'pass arguments=["--cgroups=no-conmon"] instead'
            )

    def prefix(self, visible: Sequence[str] = (), directory: str | None = None) -> list[str]:
        """Return ``podman-hpc run``, its options and the image."""
        return [
            *("podman-hpc", "run", "--rm"),
            "--interactive",  # the worker reads the scheduler's address from standard input
            "--network=host",
            "--pid=host",  # the node script kills processes by their process ids
            "--env-host",
            *self._options("--volume", "--env", visible),
            *([f"--workdir={directory}"] if directory else []),
            *(["--gpu"] if self.gpu else []),
            *self.arguments,
            str(self.image),
        ]


@dataclass(frozen=True)
class Apptainer(_Tool):
    """An Apptainer container (formerly Singularity).

    Parameters
    ----------
    image : str
        A ``.sif`` file, a directory with a root file system, or a reference such as
        ``"docker://me/code:1"``; every node must be able to read it.
    volumes : sequence of str, optional
        Volumes as ``"SOURCE:DESTINATION[:OPTIONS]"``, each passed as ``--bind=``, in addition to
        those that the cluster itself needs. Apptainer adds the home directory, /tmp and /var/tmp
        unless the site has configured something else.
    arguments : str or sequence of str, optional
        Further words for ``apptainer exec``. A string is split as a shell would split it.
        ``--cleanenv``, ``--contain``, ``--pid`` and ``--net`` remove what the node scripts need.
    env : mapping of str to str, optional
        Environment variables, each passed as ``--env=NAME=VALUE``. ``PYTHONNOUSERSITE=1`` is set
        unless given.
    gpu : bool, optional
        Whether to pass ``--nv``, for the node's NVIDIA driver and devices. Default: False.
    rocm : bool, optional
        Whether to pass ``--rocm``, for the node's AMD driver and devices. Default: False.

    Raises
    ------
    ValueError
        The image is missing or empty; `volumes` is a string; a volume is not
        ``SOURCE:DESTINATION[:OPTIONS]``; an image or a volume contains a blank; or a volume or a
        variable contains a comma, at which Apptainer splits.

    Notes
    -----
    https://apptainer.org/docs/user/latest/cli/apptainer_exec.html
    """

    gpu: bool = field(default=False, kw_only=True)
    rocm: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for word in (*self.volumes, *self.env.values()):
            if "," in word:
                raise ValueError(f"Apptainer: {word!r} has a comma in it, where Apptainer splits")

    def prefix(self, visible: Sequence[str] = (), directory: str | None = None) -> list[str]:
        """Return ``apptainer exec``, its options and the image."""
        return [
            *("apptainer", "exec"),
            *self._options("--bind", "--env", visible),
            *([f"--pwd={directory}"] if directory else []),
            *(["--nv"] if self.gpu else []),
            *(["--rocm"] if self.rocm else []),
            *self.arguments,
            str(self.image),
        ]


@dataclass(frozen=True)
class Charliecloud(_Tool):
    """A Charliecloud container: ``ch-run`` in a directory with a root file system.

    Parameters
    ----------
    image : str or Path
        The directory of the image, which every node must see.
    volumes : sequence of str, optional
        Volumes as ``"SOURCE:DESTINATION"``, each passed as ``--bind=``. A destination must exist in
        the image, and so must the directories that the cluster itself needs (the current one and
        ``shared_temp_directory``), unless a volume or `write` provides them.
    arguments : str or sequence of str, optional
        Further words for ``ch-run``, such as ``["--set-env"]`` for the image's own variables. A
        string is split as a shell would split it.
    env : mapping of str to str, optional
        Environment variables, each passed as ``--set-env=NAME=VALUE``. ``PYTHONNOUSERSITE=1`` is
        set unless given.
    write : bool, optional
        Whether to pass ``--write``, which mounts the image writable, so that ch-run makes missing
        mount points in it. Do not use this for an image that others use at the same time. Default:
        False.

    Raises
    ------
    ValueError
        The image is missing or empty; `volumes` is a string; a volume is not
        ``SOURCE:DESTINATION``; or an image or a volume contains a blank.

    Notes
    -----
    https://hpc.github.io/charliecloud/ch-run.html
    """

    write: bool = field(default=False, kw_only=True)

    def prefix(self, visible: Sequence[str] = (), directory: str | None = None) -> list[str]:
        """Return ``ch-run``, its options and the image, with the node's own TMPDIR set before."""
        # ch-run mounts TMPDIR as /tmp, and with it the scratch directory: see scratch_inside
        temporary = ["env", f"TMPDIR={_TEMPORARY}"] if visible else []
        others = [path for path in visible if path != SCRATCH]
        return [
            *temporary,
            "ch-run",
            *(["--write"] if self.write else []),
            "--env-no-expand",
            *self._options("--bind", "--set-env", others),
            *([f"--cd={directory}"] if directory else []),
            *self.arguments,
            str(self.image),
            "--",
        ]


def shell_prefix(
    container: Container, visible: Sequence[str] = (), directory: str | None = None
) -> str:
    """Return a container's prefix as shell text for a node script."""

    def quote(word: str) -> str:
        if "\0" not in word:
            return shlex.quote(word)
        parts = word.split("\0")  # every second part is the name of a variable
        parts[::2] = [part and shlex.quote(part) for part in parts[::2]]
        parts[1::2] = [f'"${name}"' for name in parts[1::2]]
        return "".join(parts)

    return " ".join(quote(word) for word in container.prefix(visible, directory))


def scratch_inside(container: Container | None) -> str:
    """Return the path of the node's scratch directory inside a container, as shell text."""
    return '"/tmp/${scratch##*/}"' if isinstance(container, Charliecloud) else '"$scratch"'


def checked(container: Container | None, environ: Mapping[str, str]) -> Container | None:
    """Return a container after a check against the job whose environment is given.

    Raises ``ClusterError`` if a `Shifter` has no image and neither has the job. Warns if a
    `Shifter` has another image than the job, because the nodes then set up both.
    """
    if not isinstance(container, Shifter):
        return container
    image = container.image or _image_of(shifter_arguments(container.arguments))
    if image is None and not any(environ.get(name) for name in _JOB_IMAGES):
        raise ClusterError(
            "Shifter has no image, and this job was not submitted with one "
            "(SLURM_SPANK_SHIFTER_IMAGE is not set): give image=, or submit it with --image="
        )
    request = environ.get("SLURM_SPANK_SHIFTER_IMAGEREQUEST")
    if image and request and _full_name(image) != _full_name(request):
        warnings.warn(
            f"Shifter: the image {image} is not the job's own, {request}; every node now sets up "
            "both: submit the job with the one that is used, and pass Shifter()",
            stacklevel=2,
        )
    return container


_JOB_IMAGES = ("SHIFTER", "SHIFTER_IMAGE", "SLURM_SPANK_SHIFTER", "SLURM_SPANK_SHIFTER_IMAGE")


def _image_of(arguments: Sequence[str]) -> str | None:
    for number, word in enumerate(arguments):
        if word.startswith("--image="):
            return word.removeprefix("--image=")
        if word in ("--image", "-i"):
            return next(iter(arguments[number + 1 :]), None)
    return None


def _full_name(image: str) -> str:
    name = image.removeprefix("docker:")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
