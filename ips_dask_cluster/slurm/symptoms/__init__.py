"""Map log texts to causes and remedies: the table behind ``diagnosis``.

Data only. The first symptom that matches is the cause, since later entries of the table are often
consequences of earlier ones. ``docs/troubleshooting.md`` shows the table, and
``tests/unit/recorded`` has a text for every entry. To add a symptom, add an entry here and a
recorded text, and run ``tools/symptom-table``.
"""

from __future__ import annotations

from ips_dask_cluster.slurm.symptoms.containers import CONTAINERS
from ips_dask_cluster.slurm.symptoms.nodes import CRASHES, NODES, OWN
from ips_dask_cluster.slurm.symptoms.slurm import ECHOES, SLURM
from ips_dask_cluster.slurm.symptoms.symptom import Symptom

__all__ = ["SYMPTOMS", "Symptom"]

SYMPTOMS: tuple[Symptom, ...] = (*OWN, *CONTAINERS, *SLURM, *CRASHES, *NODES, *ECHOES)
"""Every symptom, the most specific first."""
