"""The worker of the equilibrium scan: one free-boundary Grad-Shafranov solve for each task.

Three parts, in this order: the physics (`solve_equilibrium` and what it calls), which travels by
value to the Dask workers and knows nothing of IPS; the component, which turns its configuration
into a task pool; and the report, which turns the results into a table and a picture.

IPS loads this file by its path, so nothing beside it can be imported: that is why it is one file.
"""

import csv
import json
import math
import textwrap
import time
import uuid
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
from ipsframework import Component

__all__ = [
    "ScanWorker",
    "draw_scan",
    "read_numbers",
    "read_numerics",
    "scan_points",
    "solve_equilibrium",
    "table_row",
    "write_table",
]

POOL = "equilibria"
MU0 = 4e-7 * math.pi
COLUMNS = (
    "name",
    "plasma_current",
    "pressure_axis",
    "converged",
    "q95",
    "beta_p",
    "li",
    "R_axis",
    "Z_axis",
    "R_geo",
    "minor_radius",
    "elongation",
    "volume",
    "current_from_field",
    "iterations",
    "residual",
    "seconds",
    "reason",
)


# ---------------------------------------------------------------------------------- the physics


def solve_equilibrium(machine_file, plasma_file, point, numerics, output_file):
    """Solve the Grad-Shafranov equation for one plasma current and one pressure on axis.

    FreeGS is imported here because only the Dask workers need it. Several calls may run as threads
    of one process: each has a machine and an equilibrium of its own, none changes the working
    directory, and none redirects standard output (without ``show``, FreeGS prints one line when it
    loses the magnetic axis and otherwise nothing).

    Parameters
    ----------
    machine_file, plasma_file : str
        The input files: coils and computational domain; shape, toroidal field and profiles.
    point : dict
        ``plasma_current`` [A] and ``pressure_axis`` [Pa].
    numerics : dict
        ``nx``, ``ny``, ``tolerance`` and ``max_iterations``.
    output_file : str
        Where the G-EQDSK file goes. It appears there when it is whole, and only if the iteration
        converged.

    Returns
    -------
    dict
        ``converged``, ``reason`` and ``seconds``; if converged, also the other `COLUMNS`.
    """
    started = time.perf_counter()
    import freegs
    from freegs import geqdsk

    machine = _read_json(machine_file)
    plasma = _read_json(plasma_file)
    equilibrium = _empty_equilibrium(machine, numerics)
    profiles = freegs.jtor.ConstrainPaxisIp(
        equilibrium,
        point["pressure_axis"],
        point["plasma_current"],
        plasma["vacuum_f"],
        **plasma["profile"],
    )
    shape = freegs.control.constrain(xpoints=plasma["x_points"], isoflux=plasma["isoflux"])
    result = {"converged": True, "reason": ""}
    try:
        _, changes = freegs.solve(
            equilibrium,
            profiles,
            shape,
            rtol=numerics["tolerance"],
            maxits=numerics["max_iterations"],
            convergenceInfo=True,
        )
    except RuntimeError as error:  # how FreeGS says that the iterations were used up
        result.update(converged=False, reason=str(error))
    else:
        result.update(iterations=len(changes), residual=float(changes[-1]))
        result.update(_volume_quantities(equilibrium), **_boundary_quantities(equilibrium))
        with _written_whole(output_file) as stream:
            geqdsk.write(equilibrium, stream, label=machine["name"])
    result["seconds"] = time.perf_counter() - started
    return result


def _read_json(path):
    """Read one input file; an error names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def _empty_equilibrium(machine, numerics):
    """Build coils without current around a grid without plasma."""
    import freegs

    coils = [(label, freegs.machine.Coil(**place)) for label, place in machine["coils"].items()]
    coils += [
        (label, freegs.machine.Solenoid(**place)) for label, place in machine["solenoids"].items()
    ]
    return freegs.Equilibrium(
        tokamak=freegs.machine.Machine(coils),
        nx=numerics["nx"],
        ny=numerics["ny"],
        **machine["domain"],
    )


def _volume_quantities(equilibrium):
    """Scalars that FreeGS integrates over the plasma or finds inside it."""
    r_axis, z_axis, _ = equilibrium.magneticAxis()
    return {
        "q95": float(equilibrium.q(0.95)),
        "beta_p": float(equilibrium.poloidalBeta()),
        "li": float(equilibrium.internalInductance3()),
        "R_axis": float(r_axis),
        "Z_axis": float(z_axis),
    }


def _boundary_quantities(equilibrium, points=360):
    """Scalars that follow from the plasma boundary and the field along it.

    The volume is taken from the boundary because FreeGS's own counts whole grid cells (2 % off at
    65 x 65). The current is Ampere's law for the solved field: unlike ``plasmaCurrent()``, which
    is the requested current by construction, it tells how good the solution is.
    """
    boundary = equilibrium.separatrix(npoints=points)
    steps = np.roll(boundary, -1, axis=0) - boundary
    r, z = (boundary + steps / 2).T
    dr, dz = steps.T
    width, height = np.ptp(boundary, axis=0)
    circulation = np.sum(equilibrium.Br(r, z) * dr + equilibrium.Bz(r, z) * dz)
    return {
        "R_geo": float(boundary[:, 0].min() + width / 2),
        "minor_radius": float(width / 2),
        "elongation": float(height / width),
        "volume": float(abs(np.sum(math.pi * r**2 * dz))),
        "current_from_field": float(circulation / MU0),
    }


@contextmanager
def _written_whole(path):
    """Open a text file that gets its name when it is complete, so that no reader sees half of it.

    The name until then is unique: a task that is run again after a lost node must not share it
    with a first attempt that is still alive.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with part.open("x", encoding="ascii") as stream:
            yield stream
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# -------------------------------------------------------------------------------- the component


class ScanWorker(Component):
    """Solve one equilibrium for each point of the scan, and report on all of them."""

    def init(self, timestamp=0.0, **keywords):
        """Read the scan, so that mistakes show before work starts.

        Parameters
        ----------
        timestamp : float
            Unused.
        **keywords
            Unused.
        """
        self.points = scan_points(
            read_numbers(self.config, "PLASMA_CURRENTS"),
            read_numbers(self.config, "AXIS_PRESSURES"),
        )
        self.numerics = read_numerics(self.config)
        self.placement = {
            "dask_nodes": _read_number(self.config, "DASK_NODES", int),
            "dask_ppw": _read_number(self.config, "DASK_PPW", int) if self.DASK_PPW else None,
        }

    def step(self, timestamp=0.0, **keywords):
        """Run the scan; write its table and its picture into the work directory.

        Parameters
        ----------
        timestamp : float
            Unused.
        **keywords
            Unused.

        Raises
        ------
        RuntimeError
            If not one point has a solution. The table, which tells why, is written before.
        """
        results = self._solve_all()
        rows = [table_row(name, point, results.get(name)) for name, point in self.points.items()]
        workdir = Path(self.services.get_working_dir())
        write_table(rows, workdir / "scan.csv")
        draw_scan(rows, workdir, workdir / "scan.png")
        converged = sum(row["converged"] for row in rows)
        self.services.info("equilibrium scan: %d of %d points converged", converged, len(rows))
        if not converged:
            raise RuntimeError(f"no point of the scan has a solution: {workdir / 'scan.csv'}")

    def _solve_all(self):
        """Run one task for each point; return what each gave, by the name of the point."""
        workdir = self.services.get_working_dir()
        self.services.create_task_pool(POOL)
        try:
            for name, point in self.points.items():
                self.services.add_task(
                    POOL,
                    name,
                    1,
                    workdir,
                    solve_equilibrium,
                    str(Path(workdir, "machine.json")),
                    str(Path(workdir, "plasma.json")),
                    point,
                    self.numerics,
                    str(Path(workdir, f"{name}.geqdsk")),
                )
            self.services.submit_tasks(POOL, use_dask=True, **self.placement)
            return self.services.get_finished_tasks(POOL)
        finally:
            self.services.remove_task_pool(POOL)


def read_numbers(config, key, kind=float):
    """Read a list of numbers, which a config file gives as one string or a list of strings.

    Parameters
    ----------
    config : mapping
        The component's section of the configuration.
    key : str
        Its key.
    kind : type
        What each must be: float or int.

    Returns
    -------
    list

    Raises
    ------
    ValueError
        Naming the key and the word that is no such number; also when there is none.
    """
    value = config.get(key, "")
    words = (" ".join([value] if isinstance(value, str) else value)).split()
    numbers = []
    for word in words:
        try:
            numbers.append(kind(word))
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise ValueError(f"{key} = {value!r}: {word!r} is not {wanted}") from None
    if not numbers:
        raise ValueError(f"{key} is missing or empty: it takes numbers, separated by commas")
    return numbers


def _read_number(config, key, kind=float):
    """Read exactly one number: `read_numbers` with a complaint about more of them."""
    numbers = read_numbers(config, key, kind)
    if len(numbers) > 1:
        raise ValueError(f"{key} = {config[key]!r}: one number is needed")
    return numbers[0]


def read_numerics(config):
    """Read grid and stopping rule.

    Parameters
    ----------
    config : mapping
        The component's section of the configuration.

    Returns
    -------
    dict
        ``nx``, ``ny``, ``tolerance`` and ``max_iterations``, as `solve_equilibrium` takes them.

    Raises
    ------
    ValueError
        Naming the key, if its value is not one number or a grid size not 2^n + 1.
    """
    kinds = {"NX": int, "NY": int, "TOLERANCE": float, "MAX_ITERATIONS": int}
    numerics = {key.lower(): _read_number(config, key, kind) for key, kind in kinds.items()}
    for key in ("nx", "ny"):
        cells = numerics[key] - 1
        if cells < 16 or cells & (cells - 1):  # Romberg integration halves the grid
            raise ValueError(f"{key.upper()} = {numerics[key]}: 17, 33, 65, 129, ... is needed")
    return numerics


def scan_points(currents, pressures):
    """Combine every current with every pressure.

    Parameters
    ----------
    currents, pressures : list of float
        Plasma currents [A] and pressures on axis [Pa], in any order; doubles are dropped.

    Returns
    -------
    dict
        Name of the point to its ``plasma_current`` and ``pressure_axis``, in rising order.
    """
    return {
        f"ip{current / 1e3:g}kA_p{pressure / 1e3:g}kPa": {
            "plasma_current": current,
            "pressure_axis": pressure,
        }
        for current, pressure in product(sorted(set(currents)), sorted(set(pressures)))
    }


# ----------------------------------------------------------------------------------- the report


def table_row(name, point, value):
    """Make one row of the table out of what a task gave, whatever that is.

    Parameters
    ----------
    name : str
        The point's name.
    point : dict
        Its coordinates in the scan.
    value : object
        The dict of `solve_equilibrium`, or what the pool has in its place: the exception that
        the task raised, an exit status, None.

    Returns
    -------
    dict
        Some of `COLUMNS`; ``converged`` and ``reason`` always.
    """
    if isinstance(value, dict):
        return {"name": name, **point, **value}
    failed = isinstance(value, BaseException)
    reason = f"{type(value).__name__}: {value}" if failed else f"no result, but {value!r}"
    return {"name": name, **point, "converged": False, "reason": reason}


def write_table(rows, path):
    """Write the table, one line for each point, numbers in SI units.

    Parameters
    ----------
    rows : list of dict
        As `table_row` makes them.
    path : path-like
        The CSV file.
    """
    with open(path, "w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, COLUMNS, restval="")
        table.writeheader()
        for row in rows:
            table.writerow(
                {
                    key: f"{value:.7g}" if isinstance(value, float) else value
                    for key, value in row.items()
                }
            )


def draw_scan(rows, directory, path):
    """Draw q95 and poloidal beta over the scan, and the flux surfaces of its four corners.

    Parameters
    ----------
    rows : list of dict
        As `table_row` makes them, for a whole rectangle of points.
    directory : path-like
        Where the G-EQDSK files and ``machine.json`` are.
    path : path-like
        The picture.
    """
    from matplotlib.figure import Figure  # not pyplot, which wants a display and keeps figures

    currents = sorted({row["plasma_current"] for row in rows})
    pressures = sorted({row["pressure_axis"] for row in rows})
    by_point = {(row["plasma_current"], row["pressure_axis"]): row for row in rows}
    coils = _read_json(Path(directory, "machine.json"))["coils"]
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    cells = figure.add_gridspec(2, 4)
    for line, key, title in (
        (0, "q95", "Safety factor $q_{95}$"),
        (1, "beta_p", r"Poloidal beta $\beta_p$"),
    ):
        axes = figure.add_subplot(cells[line, :2], title=title)
        table = [[by_point[i, p].get(key, math.nan) for i in currents] for p in pressures]
        _draw_map(axes, currents, pressures, np.array(table))
    for line, pressure in enumerate((pressures[-1], pressures[0])):
        for column, current in enumerate((currents[0], currents[-1])):
            axes = figure.add_subplot(cells[line, 2 + column])
            _draw_surfaces(axes, by_point[current, pressure], directory, coils)
    figure.savefig(path, dpi=120)


def _draw_map(axes, currents, pressures, table):
    """Draw a quantity as coloured cells with numbers; a cell without one is a failed point."""
    axes.imshow(table, origin="lower", aspect="auto", alpha=0.6)
    for (line, column), value in np.ndenumerate(table):
        text = "failed" if math.isnan(value) else f"{value:.3g}"
        axes.text(column, line, text, ha="center", va="center")
    axes.set_xticks(range(len(currents)), [f"{current / 1e3:g}" for current in currents])
    axes.set_yticks(range(len(pressures)), [f"{pressure / 1e3:g}" for pressure in pressures])
    axes.set_xlabel("plasma current [kA]")
    axes.set_ylabel("pressure on axis [kPa]")


def _draw_surfaces(axes, row, directory, coils):
    """Draw one equilibrium in the poloidal plane, or say why there is none."""
    axes.set_title(f"{row['plasma_current'] / 1e3:g} kA, {row['pressure_axis'] / 1e3:g} kPa")
    if not row["converged"]:
        axes.text(
            0.5,
            0.5,
            textwrap.fill(row["reason"], 24),
            ha="center",
            va="center",
            transform=axes.transAxes,
        )
        axes.set_axis_off()
        return
    from freeqdsk import geqdsk

    with open(Path(directory, f"{row['name']}.geqdsk"), encoding="ascii") as stream:
        data = geqdsk.read(stream)
    flux = (data.psi - data.simagx) / (data.sibdry - data.simagx)
    axes.contour(
        data.r_grid,
        data.z_grid,
        flux,
        levels=np.arange(0.1, 1.5, 0.1),
        colors="0.6",
        linewidths=0.6,
    )
    axes.plot(data.rbdry, data.zbdry, color="C3")
    axes.plot(data.rmagx, data.zmagx, "+", color="C0")
    axes.plot(
        [coil["R"] for coil in coils.values()],
        [coil["Z"] for coil in coils.values()],
        "s",
        color="k",
        markersize=4,
    )
    axes.set(aspect="equal", xlabel="R [m]", ylabel="Z [m]")
