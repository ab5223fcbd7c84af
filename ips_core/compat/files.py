"""The functions of ``ipsframework.ipsutil``, with its names and arguments."""

from __future__ import annotations

import glob
import itertools
import os
import shutil
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zipfile import ZipFile

__all__ = ["copyFiles", "getTimeString", "params_from_csv", "which", "writeToContainer"]


def which(program: str, alt_paths: Iterable[str] | None = None) -> str | None:
    """Return the path of a program.

    Parameters
    ----------
    program : str
        Its name, looked up on PATH and then in `alt_paths`; or a path, which is checked.
    alt_paths : iterable of str, optional
        More directories.

    Returns
    -------
    str or None
        None: it is not there, or not executable.
    """
    found = shutil.which(program)
    if found or not alt_paths:
        return found
    return shutil.which(program, path=os.pathsep.join(alt_paths))


def copyFiles(
    src_dir: str,
    src_file_list: str | Iterable[str],
    target_dir: str,
    prefix: str = "",
    keep_old: bool = False,
) -> None:
    """Copy files of one directory to another, which is created if need be.

    Parameters
    ----------
    src_dir, target_dir : str
        From where to where; nothing is done if they are the same.
    src_file_list : str or iterable of str
        Names, with wildcards if wanted; in a text, blanks separate them.
    prefix : str
        Put before each name.
    keep_old : bool
        True: a file that is there already stays, and the new one is called ``name.0``, ``name.1``
        and so on.

    Raises
    ------
    Exception
        A name matches nothing; then nothing is copied.
    """
    if src_dir == target_dir:
        return
    for source in _matching(src_dir, src_file_list):
        target = os.path.join(target_dir, prefix + os.path.basename(source))
        if os.path.isfile(target) and os.path.samefile(source, target):
            continue
        if keep_old and os.path.isfile(target):
            names = (f"{target}.{number}" for number in itertools.count())
            target = next(name for name in names if not os.path.isfile(name))
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        shutil.copy(source, target)


def _matching(directory: str, names: str | Iterable[str]) -> list[str]:
    """Return the files that names or patterns mean, each once."""
    found: dict[str, None] = {}
    for name in names.split() if isinstance(names, str) else names:
        path = os.path.join(directory, name)
        files = [path] if os.path.isfile(path) else sorted(glob.glob(path))
        if not files:
            raise Exception(f"No such file : {path}")
        found.update(dict.fromkeys(files))
    return list(found)


def getTimeString(timeArg: Any = None) -> str:
    """Return a moment as events have it, such as ``2024-02-29|13:30:00UTC``.

    Parameters
    ----------
    timeArg : time.struct_time, optional
        Default: now, in local time.
    """
    return time.strftime("%Y-%m-%d|%H:%M:%S%Z", time.localtime() if timeArg is None else timeArg)


def params_from_csv(infile: str) -> dict[str, dict[str, list[str]]]:
    """Return the columns of a CSV file whose header says ``simulation:parameter``.

    Parameters
    ----------
    infile : str
        The file; a row for each instance.

    Returns
    -------
    dict
        By simulation, then by parameter: the values of all rows, as text without blanks around
        them.
    """
    import csv

    with open(infile, newline="", encoding="utf-8") as file:
        header, *rows = [row for row in csv.reader(file) if row]
    found: dict[str, dict[str, list[str]]] = {}
    for number, title in enumerate(header):
        simulation, _, parameter = (part.strip() for part in title.partition(":"))
        found.setdefault(simulation, {})[parameter] = [row[number].strip() for row in rows]
    return found


def writeToContainer(
    ziphandle: str | ZipFile, src_dir: str, src_file_list: str | Iterable[str]
) -> None:
    """Add files to a ZIP file under the names that they are listed by.

    Parameters
    ----------
    ziphandle : str or zipfile.ZipFile
        The ZIP file; as a path, it is created if need be.
    src_dir : str
        Where the files are; empty: the current directory.
    src_file_list : str or iterable of str
        Names, with wildcards if wanted; in a text, blanks separate them. One that is in the ZIP
        file already is left out.
    """
    from zipfile import ZipFile

    if not isinstance(ziphandle, ZipFile):
        with ZipFile(ziphandle, "a") as opened:
            writeToContainer(opened, src_dir, src_file_list)
        return
    there = set(ziphandle.namelist())
    for file in _matching(src_dir, src_file_list):
        name = os.path.relpath(file, src_dir or ".")
        if name not in there:
            ziphandle.write(file, name)
