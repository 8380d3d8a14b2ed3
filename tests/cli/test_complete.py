"""What the shell offers after Tab."""

import os
import subprocess
import sys

import pytest
from checkout import REPO


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("moe-lab breakdown --ro", ["--root", "--roles"]),
        ("moe-lab compare h200/experts_qwen3_sweep h200/align_s", ["h200/align_steps", "h200/align_sweep"]),
        ("moe-lab report 01", ["01_layer_breakdown"]),
        ("moe-lab kernels h200/x --by role,st", ["role,stage", "role,stream"]),
        ("moe-lab bench experts --backends h", ["hopper", "humming"]),
    ],
    ids=["option", "run", "notebook", "list", "plugins"],
)
def test_tab_offers_options_runs_notebooks_and_what_lists_are_made_of(line, offered, tmp_path):
    pytest.importorskip("argcomplete", reason="needs the extra completion")
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    env = {**os.environ, **asked, "COMP_TYPE": "9", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "said")}
    subprocess.run([sys.executable, "-m", "moe_lab"], cwd=REPO, env=env)
    assert (tmp_path / "said").read_text().split() == offered
