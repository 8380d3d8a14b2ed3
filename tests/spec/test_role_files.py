"""Roles of kernels as data: each engine is a file, which keeps to the contract beside all the others."""

import re

import pandas as pd
import pytest
import yaml

from moe_lab.analysis import roles as analysis
from moe_lab.runs.attribution.tree import build
from moe_lab.runs.parse._facts import short_name
from moe_lab.spec import roles
from moe_lab.spec.launches import COLUMNS, RANGE_COLUMNS, Launches, tidy


def file_of(engine):
    return yaml.safe_load((roles.FOLDER / f"{engine}.yaml").read_text())


def told(names):
    """Return the roles that kernels of these full names get, each alone in a report."""
    found = []
    for name in names:
        rows = {"kind": ["kernel"], "name": [short_name(name)], "name_full": [name], "duration_ns": [1]}
        launches = Launches(tidy(pd.DataFrame(rows), COLUMNS), tidy(pd.DataFrame(), RANGE_COLUMNS), {})
        found.append(analysis.column(launches, build(launches, timed=False))[0])
    return found


@pytest.mark.parametrize("engine", roles.engines())
def test_a_file_of_an_engine_is_complete_and_its_examples_get_their_roles_beside_all_others(engine):
    said = file_of(engine)
    assert set(said) == {"about", "source", "rules", "examples"}
    assert told(said["examples"]) == list(said["examples"].values())


@pytest.mark.parametrize("engine", roles.engines())
def test_every_rule_that_asks_for_names_only_has_an_example(engine):
    examples = [(short_name(name), analysis._plain(name)) for name in file_of(engine)["examples"]]
    for rule in roles.load(roles.FOLDER / f"{engine}.yaml"):
        assert rule.engine == engine
        fits = any(re.search(rule.kernel, short) and re.search(rule.full, full) for short, full in examples)
        assert fits or not rule.by_name, rule


def test_every_role_says_what_it_is_and_is_given_by_a_rule():
    given = {rule.role for rule in roles.builtin()}
    assert set(roles.ROLES) <= given
    assert all(roles.ROLES.values())


def test_an_engine_is_added_by_one_file(tmp_path, monkeypatch):
    for path in roles.FOLDER.glob("*.yaml"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "newcomer.yaml").write_text("rules: [{kernel: '^newcomers_moe', role: w13+act}]\n")
    monkeypatch.setattr(roles, "FOLDER", tmp_path)
    monkeypatch.setattr(roles, "builtin", roles.builtin.__wrapped__)
    monkeypatch.setattr(analysis, "builtin", roles.builtin)
    assert "newcomer" in roles.engines()
    assert told(["newcomers_moe_kernel", "fused_moe_kernel"]) == ["w13+act", "experts"]
