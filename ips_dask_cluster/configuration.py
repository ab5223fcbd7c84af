"""Read every setting from a keyword, Dask's configuration, a profile or the default, and check it.

``settings`` uses the values. A setting that is misspelt, belongs to sbatch or has the wrong type
raises here, before anything starts.
"""

from __future__ import annotations

import difflib
import math
import operator
import os
import re
import shlex
import signal
import warnings
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import dask
import yaml
from dask.utils import parse_bytes, parse_timedelta

from ips_dask_cluster.jobqueue import shipped_sections

__all__ = ["BASE_CLASS", "DEFAULT", "Configured", "checked", "duration", "profiles"]

#: Section that dask-jobqueue's base class reads instead of the user's.
BASE_CLASS = "slurm-allocation-base-class"
#: Section that applies to every profile.
DEFAULT = "slurm-allocation"

with (resources.files("ips_dask_cluster") / "slurm-allocation.yaml").open() as _file:
    _OURS: dict[str, dict[str, Any]] = yaml.safe_load(_file)["jobqueue"]
# Profiles stay out of Dask's configuration; otherwise the package's values would look like the
# user's.
dask.config.update_defaults({"jobqueue": {name: _OURS[name] for name in (DEFAULT, BASE_CLASS)}})

_RENAMED = {"extra": "worker-extra-args", "env-extra": "job-script-prologue"}

_ALLOCATE = "it belongs to the allocation, which you hold already; say it there: "
_ELSEWHERE = {
    "queue": _ALLOCATE + "salloc --partition=...",
    "account": _ALLOCATE + "salloc --account=...",
    "project": _ALLOCATE + "salloc --account=...",
    "walltime": _ALLOCATE + "salloc --time=...",
    "job-cpu": _ALLOCATE + "salloc --cpus-per-task=...",
    "job-mem": _ALLOCATE + "salloc --mem=...",
    "job-extra": _ALLOCATE + "salloc OPTIONS; options of the steps are srun_extra_args",
    "job-extra-directives": _ALLOCATE + "salloc OPTIONS; options of the steps are srun_extra_args",
    "job-directives-skip": "no job is submitted; what srun shall not get is srun_args_skip",
    "header-skip": "no job is submitted; what srun shall not get is srun_args_skip",
    "submit-command-extra": "no job is submitted; options of the steps are srun_extra_args",
    "cancel-command-extra": "no job is cancelled; steps end with the cluster",
    "shebang": "no job is submitted; the scripts of the steps are those of template_directory",
    "job-name": "no job is submitted; the cluster's name is name",
    "job-cls": "the cluster starts its own kind of steps",
    "scheduler-cls": "the scheduler is a step of its own; its options are scheduler_options",
    "dashboard-address": "say it as scheduler_options={'dashboard_address': ...}",
    "host": "say it as scheduler_options={'host': ...}",
    "threads-per-worker": "threads are cores (of a node) divided by processes (workers on it)",
    "memory-limit": "memory is that of all workers of a node: memory",
}


def duration(value: Any) -> float:
    """Return a duration in seconds, from a number or a text as Dask reads it or like ``"2 min"``.

    Raises ValueError if it is invalid or negative.
    """
    text = re.sub(r"min(ute)?s?$", "minutes", value.strip()) if isinstance(value, str) else value
    try:
        number = float(parse_timedelta(text, default="s"))
    except (AttributeError, KeyError, TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"{value!r} is no number of seconds, nor a text such as '2 min'")
    return int(number) if number == int(number) else number


def _whole(least: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        number = int(value) if isinstance(value, str) else operator.index(value)
        if isinstance(value, bool) or number < least:
            raise ValueError
        return number

    return convert


def _bytes(value: Any) -> int:
    number = int(parse_bytes(value))
    if isinstance(value, bool) or number <= 0:
        raise ValueError
    return number


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _text(value: Any) -> str:
    return os.fspath(value)


def _name(value: Any) -> str:
    # The name becomes part of a directory, of log files and of a socket name, which has room for
    # 108 bytes (unix(7)).
    if not re.fullmatch(r"[^/\x00-\x1f]+", value) or len(os.fsencode(value)) > 64:
        raise ValueError
    return str(value)


def _environment(value: Any) -> dict[str, str]:
    for name, word in value.items():
        usable = isinstance(word, (str, int, float, os.PathLike)) and not isinstance(word, bool)
        if not usable or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise ValueError
    return {name: str(word) for name, word in value.items()}


def _that_has(attribute: str) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if isinstance(value, type) or not hasattr(value, attribute):
            raise ValueError
        return value

    return convert


def _path(value: Any) -> str:
    path = os.path.expandvars(os.path.expanduser(os.fspath(value)))
    # A variable is not set; the path would create a directory with a $ in its name.
    if "$" in path:
        raise ValueError
    return path


def _words(value: Any) -> tuple[str, ...]:
    words = shlex.split(value) if isinstance(value, str) else value
    if isinstance(words, Mapping) or any(isinstance(w, (Mapping, list)) for w in words):
        raise ValueError
    return tuple(map(str, words))


def _lines(value: Any) -> tuple[str, ...]:
    lines = value.splitlines() if isinstance(value, str) else tuple(value)
    return tuple(map(os.fspath, lines))


def _signals(value: Any) -> tuple[str, ...]:
    names = _words(value)
    if any(signal.Signals[name] in (signal.SIGKILL, signal.SIGSTOP) for name in names):
        raise ValueError  # No process can catch these.
    return names


def _security(value: Any) -> Any:
    if not isinstance(value, bool) and not hasattr(value, "get_tls_config_for_role"):
        raise ValueError
    return value


def _launcher(value: Any) -> Any:
    if value not in ("srun", "local"):
        raise ValueError
    return value


@dataclass(frozen=True)
class _Kind:
    """Describe in words what a setting must be, with the function that converts to it."""

    need: str
    convert: Callable[[Any], Any]


_COUNT = _Kind("a whole number of 1 or more", _whole(1))
_DURATION = _Kind('a number of seconds, or a text such as "2 min"', duration)
_FLAG = _Kind("True or False", _flag)
_TEXT = _Kind("a text", _text)
_PATH = _Kind("a path, all of whose variables are set here", _path)
_WORDS = _Kind("a list of words, or a text that a shell can split", _words)

_NUMBER = _Kind("a whole number of 0 or more", _whole(0))
_ENVIRONMENT = _Kind("a mapping of names of variables to texts or numbers", _environment)

_KINDS = {
    # Parameters of the constructor that are no settings of the configuration.
    "n-workers": _NUMBER,
    "nodes": _NUMBER,
    "container": _Kind('a container, such as Shifter(image="...")', _that_has("prefix")),
    "allocation": _Kind("an ips_dask_cluster.slurm.allocation.Allocation", _that_has("nodes")),
    "env": _ENVIRONMENT,
    "scheduler-env": _ENVIRONMENT,
    "on-loss": _Kind("a function", _that_has("__call__")),
    "on-failure": _Kind("a function", _that_has("__call__")),
    "on-walltime": _Kind("a function", _that_has("__call__")),
    # Settings of the configuration.
    "name": _Kind("a text that may name a file, of 64 bytes at most", _name),
    "launcher": _Kind('"srun" or "local"', _launcher),
    "cores": _COUNT,
    "memory": _Kind('a number of bytes, or a text such as "64 GiB"', _bytes),
    "processes": _COUNT,
    "worker-per-gpu": _FLAG,
    "gpus-per-worker": _COUNT,
    "slots": _FLAG,
    "python": _TEXT,
    "worker-command": _TEXT,
    "worker-extra-args": _WORDS,
    "interface": _TEXT,
    "worker-interface": _TEXT,
    "nanny": _FLAG,
    "death-timeout": _DURATION,
    "local-directory": _PATH,
    "job-script-prologue": _Kind("a list of lines, or one text", _lines),
    "restarts": _NUMBER,
    "security": _Kind("True, False or a distributed.Security", _security),
    "shared-temp-directory": _PATH,
    "log-directory": _PATH,
    "template-directory": _PATH,
    "scheduler-options": _Kind("a mapping of names to values", dict),
    "srun-extra-args": _WORDS,
    "srun-args-skip": _WORDS,
    "start-timeout": _DURATION,
    "close-timeout": _DURATION,
    "teardown-timeout": _DURATION,
    "walltime-margin": _DURATION,
    "close-on-signals": _Kind('a list of names such as "SIGTERM"', _signals),
    "version-check": _FLAG,
}


@dataclass(frozen=True)
class _Layer:
    """Hold settings from one source: keywords, or a section of the configuration."""

    values: dict[str, Any]
    section: str | None = None

    def called(self, name: str) -> str:
        """Return the full name of a setting for a message."""
        if self.section is None:
            return _underscored(name)
        return f"jobqueue.{self.section}.{name}{_origin(self.section, name)}"


class Configured:
    """Give each setting by its name in the YAML file, checked and by precedence.

    The order is: keyword; the user's configuration (``DASK_...`` variables, YAML files,
    ``dask.config.set``) in the section of the profile, then in ``jobqueue.slurm-allocation``; the
    package's profile; its default. ``profile`` names the section ``jobqueue.<profile>``; None
    stands for ``slurm-allocation``. A keyword that is None counts as not given. ``others`` are
    parameters of the constructor that are no settings, as suggestions for a misspelt keyword.
    Raises TypeError for an unknown or misplaced keyword, and ValueError for such a key of the
    configuration, an unknown profile or an invalid value.
    """

    def __init__(
        self, profile: str | None, keywords: dict[str, Any], others: Iterable[str] = ()
    ) -> None:
        profile = _known_profile(profile or DEFAULT)
        sections = list(dict.fromkeys((profile, DEFAULT)))
        layers = [_from_keywords(keywords, others), *map(_from_user, sections)]
        layers += [_Layer(_OURS[name], name) for name in sections if name in _OURS]
        self._values = {name: _first(name, layers) for name in _OURS[DEFAULT]}

    def __call__(self, name: str) -> Any:
        return self._values[name]

    def words(self, name: str) -> tuple[str, ...]:
        """Return a setting that is a list of words; a string was split as in a shell."""
        return tuple(self._values[name])

    def lines(self, name: str) -> tuple[str, ...]:
        """Return a setting that is a list of lines; a string was split at line ends."""
        return tuple(self._values[name])


def checked(word: str, value: Any) -> Any:
    """Return the converted value of a keyword that is no setting of the configuration.

    None stays None. Raises ValueError if the value is invalid.
    """
    return _converted(_dashed(word), _Layer({_dashed(word): value}))


def profiles() -> list[str]:
    """Return the values of ``config_name``: the package's profiles and the user's sections.

    dask-jobqueue's own sections, such as ``slurm``, are valid too, but are not listed.
    """
    users = set(dask.config.get("jobqueue", {})) - set(shipped_sections())
    return sorted({*_OURS, *map(_dashed, users)} - {BASE_CLASS})


def _known_profile(name: str) -> str:
    if _dashed(name) in set(_OURS) - {BASE_CLASS}:
        return _dashed(name)
    if _dashed(name) != BASE_CLASS and dask.config.get(f"jobqueue.{name}", None) is not None:
        return name
    raise ValueError(
        f"config_name={name!r}: neither is it a profile of the package nor has dask's "
        f"configuration a section jobqueue.{name}; known are {', '.join(profiles())}"
    )


def _from_keywords(keywords: dict[str, Any], others: Iterable[str]) -> _Layer:
    layer = _Layer({_dashed(word): value for word, value in keywords.items()})
    known = [*map(_underscored, _OURS[DEFAULT]), *others]
    for word in keywords:
        if _dashed(word) not in {*_OURS[DEFAULT], *_RENAMED}:
            raise TypeError(f"SlurmAllocationCluster takes no {word!r}: {_advice(word, known)}")
    given = {name: value for name, value in layer.values.items() if value is not None}
    return _renamed(_Layer(given))


def _from_user(section: str) -> _Layer:
    """Return the settings of a section that differ from the shipped ones."""
    found = dask.config.get(f"jobqueue.{section}", None) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"jobqueue.{section}: a mapping of settings is needed, not {found!r}")
    shipped = _OURS[DEFAULT] if section == DEFAULT else shipped_sections().get(section, {})
    users = {_dashed(key): value for key, value in found.items()}
    layer = _Layer({k: v for k, v in users.items() if k not in shipped or shipped[k] != v}, section)
    for name in layer.values:
        if name not in {*_OURS[DEFAULT], *_RENAMED}:
            raise ValueError(
                f"{layer.called(name)} is no setting of SlurmAllocationCluster: "
                f"{_advice(name, _OURS[DEFAULT])}"
            )
    return _renamed(layer)


def _renamed(layer: _Layer) -> _Layer:
    values = dict(layer.values)
    for old, new in _RENAMED.items():
        value = values.pop(old, None)
        if value is not None:
            warnings.warn(
                f"{layer.called(old)} has been renamed in dask-jobqueue; write "
                f"{new if layer.section else _underscored(new)} instead",
                FutureWarning,
                stacklevel=5,  # The line that constructs the cluster.
            )
            values.setdefault(new, value)
    return _Layer(values, layer.section)


def _advice(name: str, known: Iterable[str]) -> str:
    if _dashed(name) in _ELSEWHERE:
        return _ELSEWHERE[_dashed(name)]
    close = difflib.get_close_matches(name, known, n=1)
    return f"do you mean {close[0]!r}?" if close else "there is no such setting"


def _origin(section: str, name: str) -> str:
    """Return in brackets the variable or file that sets a setting; empty if neither does."""
    variable = _underscored(f"DASK_JOBQUEUE__{section}__{name}").upper()
    for written in os.environ:
        if written.upper() == variable:
            return f" (environment variable {written})"
    key = f"jobqueue.{section}.{name}"
    files = dask.config.collect_yaml(dask.config.paths, return_paths=True)
    paths = [path for path, config in files if dask.config.get(key, None, config) is not None]
    return f" (in {paths[-1]})" if paths else ""


def _first(name: str, layers: list[_Layer]) -> Any:
    """Return the value of the first layer that has one; mappings are merged, as Dask does."""
    default = _OURS[DEFAULT][name]
    # null means "from the allocation" if that is the default, and otherwise "not set".
    said = [
        layer
        for layer in layers
        if name in layer.values and (layer.values[name] is not None or default is None)
    ]
    if isinstance(default, Mapping):
        return dict(ChainMap(*(_converted(name, layer) for layer in said)))
    return _converted(name, said[0])


def _converted(name: str, layer: _Layer) -> Any:
    value = layer.values[name]
    kind = _KINDS[name]
    try:
        return None if value is None else kind.convert(value)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise ValueError(f"{layer.called(name)}={value!r}: {kind.need} is needed") from None


def _dashed(word: str) -> str:
    return word.replace("_", "-")


def _underscored(name: str) -> str:
    return name.replace("-", "_")
