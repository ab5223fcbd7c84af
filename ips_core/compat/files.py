"""Provide the functions of ``ipsframework.ipsutil``, with its names and arguments."""

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
    """Return the path of an executable program.

    Parameters
    ----------
    program : str
        Name of the program, looked up on PATH and then in `alt_paths`; or its path.
    alt_paths : iterable of str, optional
        Directories to search after PATH. Default: none.

    Returns
    -------
    str or None
        Path of the program; None if it does not exist or is not executable.
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
    """Copy files from one directory to another, which is created if it is missing.

    Parameters
    ----------
    src_dir, target_dir : str
        Source and target directory; if they are equal, nothing is copied.
    src_file_list : str or iterable of str
        File names, with or without wildcards; in a str, blanks separate them.
    prefix : str
        Text put before the name of each copy. Default: empty.
    keep_old : bool
        True: an existing target stays, and the copy is called ``name.0``, ``name.1`` and so on.
        Default: False.

    Raises
    ------
    Exception
        A name matches nothing; no file was copied.
    OSError
        A file cannot be copied; the files before it were.
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
    """Return the files that match names or patterns, each once; raise Exception for no match."""
    found: dict[str, None] = {}
    for name in names.split() if isinstance(names, str) else names:
        path = os.path.join(directory, name)
        files = [path] if os.path.isfile(path) else sorted(glob.glob(path))
        if not files:
            raise Exception(f"No such file : {path}")
        found.update(dict.fromkeys(files))
    return list(found)


def getTimeString(timeArg: Any = None) -> str:
    """Return a time in the form of events, such as ``2024-02-29|13:30:00UTC``.

    Parameters
    ----------
    timeArg : time.struct_time, optional
        Time to format. Default: now, in local time.

    Returns
    -------
    str
        Date, time of day and time zone.
    """
    return time.strftime("%Y-%m-%d|%H:%M:%S%Z", time.localtime() if timeArg is None else timeArg)


def params_from_csv(infile: str) -> dict[str, dict[str, list[str]]]:
    """Return the columns of a CSV file with headers ``simulation:parameter``.

    Parameters
    ----------
    infile : str
        Path of the file, with one row for each instance.

    Returns
    -------
    dict
        Values by simulation, then by parameter: a list with one str for each row, without
        surrounding blanks.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        The file is empty.
    IndexError
        A row is shorter than the header.
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
    """Add files to a ZIP file, under their names relative to a directory.

    Parameters
    ----------
    ziphandle : str or zipfile.ZipFile
        ZIP file, open for writing, or its path; a missing file is created.
    src_dir : str
        Directory of the files; empty for the current directory.
    src_file_list : str or iterable of str
        File names, with or without wildcards; in a str, blanks separate them. Names that the ZIP
        file already has are skipped.

    Raises
    ------
    Exception
        A name matches nothing.
    OSError
        A file cannot be read, or the ZIP file cannot be written.
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
