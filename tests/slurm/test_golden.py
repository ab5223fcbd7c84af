"""What users see stays as it is recorded in tests/golden until somebody changes it on purpose."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest

from ips_dask_cluster.testing import LocalSlurm

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDS = sorted(path.name for path in GOLDEN.iterdir() if path.suffix in (".txt", ".diff"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that tests/golden/record.py has written."""
    folder = tmp_path_factory.mktemp("golden")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("IPS_TEST_MARK", raising=False)  # the daemons outlive the test
        slurm = LocalSlurm(nodes=2, cpus=64, gpus=4).start()
    with contextlib.closing(slurm):
        command = [sys.executable, str(GOLDEN / "record.py"), str(folder)]
        done = slurm.salloc(command, timeout=100)
        assert done.returncode == 0, done.stderr
    return folder


def test_every_record_has_its_file(recorded: Path) -> None:
    assert sorted(path.name for path in recorded.iterdir()) == RECORDS


@pytest.mark.parametrize("name", RECORDS)
def test_output_is_as_recorded(recorded: Path, name: str) -> None:
    """If the change is meant: run tests/golden/record.py as it says, and read the difference."""
    assert (recorded / name).read_text() == (GOLDEN / name).read_text()
