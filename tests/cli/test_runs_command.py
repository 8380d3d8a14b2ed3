"""``moe-lab runs``: what it lists, in every form."""

import json
from pathlib import Path

import pytest

from moe_lab.cli import main


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("csv", "run,gpu,date,what\nh100/a,NVIDIA H100,2026-11-26,\n"),
        ("json", '"date": "2026-11-26"'),
        ("table", "h100/a  NVIDIA H100  2026-11-26"),
    ],
)
def test_runs_are_listed_in_every_form_with_their_day(form: str, said: str, tmp_path: Path, capsys) -> None:
    """A benchmark keeps the second at which it ran, a capture the day."""
    (tmp_path / "h100" / "a").mkdir(parents=True)
    run = {"schema": 1, "name": "h100/a", "report": "report.json", "gpu": {"name": "NVIDIA H100"}}
    (tmp_path / "h100" / "a" / "run.json").write_text(json.dumps({**run, "date": "2026-11-26T13:11:25+00:00"}))
    assert main(["runs", "--profiles", str(tmp_path), "--format", form]) == 0
    assert said in capsys.readouterr().out
