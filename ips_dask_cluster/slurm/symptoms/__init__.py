"""What a log may say and what that means: the table behind ``diagnosis``.

Data only. The first symptom that matches is the cause; what follows in the table is what it brings
along. ``docs/troubleshooting.md`` shows the table, and a text for every entry is in
``tests/unit/recorded``. To add one: an entry here, a recorded text, and ``tools/symptom-table``.
"""

from __future__ import annotations

from ips_dask_cluster.slurm.symptoms.containers import CONTAINERS
from ips_dask_cluster.slurm.symptoms.nodes import CRASHES, NODES, OWN
from ips_dask_cluster.slurm.symptoms.slurm import ECHOES, SLURM
from ips_dask_cluster.slurm.symptoms.symptom import Symptom

__all__ = ["SYMPTOMS", "Symptom"]

SYMPTOMS: tuple[Symptom, ...] = (*OWN, *CONTAINERS, *SLURM, *CRASHES, *NODES, *ECHOES)
"""Every symptom, the most specific first."""
