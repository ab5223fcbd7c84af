"""TLS: certificates become files that only their owner reads; a user's own files are used."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed.security import Security

from ips_dask_cluster.tls import tls_arguments

ROLES = ("scheduler", "worker")


@pytest.fixture(scope="module")
def temporary() -> Security:
    return Security.temporary()


@pytest.fixture
def loose_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.usefixtures("loose_umask")
def test_temporary_certificates_become_private_files(
    temporary: Security, tmp_path: Path, role: str
) -> None:
    arguments = tls_arguments(temporary, role, tmp_path)
    files = {key: tmp_path / f"{role}-{key}.pem" for key in ("ca_file", "cert", "key")}
    assert arguments == [
        *("--tls-ca-file", str(files["ca_file"])),
        *("--tls-cert", str(files["cert"])),
        *("--tls-key", str(files["key"])),
    ]
    held = temporary.get_tls_config_for_role(role)
    assert {key: path.read_text() for key, path in files.items()} == {
        key: held[key] for key in files
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("role", ROLES)
def test_files_of_the_user_are_passed_on(tmp_path: Path, role: str) -> None:
    keys = {f"tls_{each}_{part}": f"/my keys/{each}.{part}" for each in ROLES for part in ("cert",)}
    security = Security(require_encryption=True, tls_ca_file="/my keys/ca.pem", **keys)
    assert tls_arguments(security, role, tmp_path) == [
        *("--tls-ca-file", "/my keys/ca.pem"),
        *("--tls-cert", f"/my keys/{role}.cert"),
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("security", [None, Security()], ids=["none", "without certificates"])
def test_no_certificates_give_no_arguments(security: Security | None, tmp_path: Path) -> None:
    assert tls_arguments(security, "worker", tmp_path) == []
