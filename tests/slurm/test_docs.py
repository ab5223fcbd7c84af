"""The examples of docs/clusters.md run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"


def examples() -> dict[str, str]:
    """The Python of each section, by its heading."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for section in sections:
        blocks = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        assert blocks, f"no example below {section.splitlines()[0]}"
        found[section.splitlines()[0]] = "\n".join(blocks)
    return found


EXAMPLES = examples()

#: What must be in the output, where there is one to speak of.
SAYS = {
    "Start, use, close": ["nodes=4/4", "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]"],
    "Which nodes": ["['n1']\n['n3', 'n4']\n['n2']\n"],
    "When something dies": ["was killed by signal 9", "is started again", "restarted=True"],
    "Several workers on a node, GPUs": ["-0-0", "-1-1"],
    "The end of the allocation": ["None"],
    "Logs": ["'scan-worker-n2.log'", "Registered to"],
    "Networks and ports": ["tls://127.0.0.1:"],
}


@pytest.mark.parametrize("heading", EXAMPLES)
def test_example_of_the_page_runs(heading, job_id, shared_tmp_path):
    script = shared_tmp_path / "example.py"
    script.write_text(EXAMPLES[heading])
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=110, cwd=shared_tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert [said for said in SAYS.get(heading, ()) if said not in done.stdout] == [], done.stdout
    assert "Traceback" not in done.stderr
