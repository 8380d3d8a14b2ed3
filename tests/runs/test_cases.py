"""Small inputs that went wrong once, kept beside the checkout: each gives its right value, or one sentence."""

from pathlib import Path

import pytest
from checkout import CASES

from moe_lab import cli

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the folder ../shared/cases is not here")

RIGHT = [
    (
        ("breakdown", "kineto-dur-overflows-next-kernel/report.json"),
        "80.00 us",
        "counted up to the start of the next, 1599.9800 ms less",
    ),
    (("breakdown", "kineto-graph-launch-without-kernels/report.json"), "1 kernels", "8 "),
    (("breakdown", "kineto-huge-stream/report.json"), "2 kernels, 20.00 us", ""),
    (("breakdown", "kineto-multi-rank-same-tid/report.json"), "2 kernels, 30.00 us, 100.00 % of it in the roots", ""),
    (("breakdown", "kineto-roles-no-match/report.json", "--roles", "auto"), "83.00 us", ""),
    (("breakdown", "rocpd-kernel-without-region-name/report.db"), "3 kernels, 1.500 us", ""),
    (("counters", "ncu-es-locale-only-duration/report.csv"), "117.344", ""),
    (("counters", "ncu-es-locale-only-duration/with_clue.csv"), "117.344", ""),
]


@pytest.mark.parametrize(("argv", "shown", "noted"), RIGHT, ids=lambda v: v[1].split("/")[0] if len(v) > 1 else None)
def test_case_gives_its_right_value(
    argv: tuple[str, ...], shown: str, noted: str, capsys: pytest.CaptureFixture
) -> None:
    command, file, *more = argv
    assert cli.main([command, str(CASES / file), *more]) == 0
    said = capsys.readouterr()
    assert shown in said.out
    assert noted in said.err


def hostile() -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    for command, kind, pattern in (
        ("breakdown", "kineto_ints", "*.json"),
        ("breakdown", "kineto_surrogate", "*.json"),
        ("breakdown", "rocprofv3", "*"),
        ("kernels --by role", "kineto_ints", "*.json"),
        ("kernels --by role", "kineto_surrogate", "*.json"),
        ("kernels --by role", "rocprofv3", "*"),
        ("import", "bench_json", "*.json"),
        ("configs import", "configs_json", "*.json"),
        ("configs import", "path_traversal", "*.json"),
        ("peers add", "path_traversal", "*.whl"),
        ("peers add", "peers_wheel", "*.whl"),
        ("report", "notebook", "*.ipynb"),
        ("report --grid", "yaml", "*.yaml"),
        ("report --grid", "grid_memory", "*.yaml"),
    ):
        found += [(command, path) for path in sorted((CASES / "hostile" / kind).glob(pattern))]
    return found


@pytest.mark.parametrize(("command", "path"), hostile(), ids=lambda v: v if isinstance(v, str) else v.name)
def test_hostile_case_is_one_sentence_or_a_result_and_touches_nothing_else(
    command: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    place, outside = tmp_path / "in", tmp_path / "outside"
    for folder in (place / "profiles", outside):
        folder.mkdir(parents=True)
    monkeypatch.chdir(place)
    monkeypatch.setenv("MOE_LAB_PROFILES", str(place / "profiles"))
    monkeypatch.setenv("MOE_LAB_CONFIGS", str(place / "configs"))
    monkeypatch.setenv("MOE_LAB_PEERS", str(place / "peers"))
    more = ["--model", "qwen3-30b-a3b"] if command == "configs import" and path.name.startswith("v_") else []
    code = cli.main([*command.split(), str(path), *more])
    said = capsys.readouterr().err
    assert code in ((0, 2) if command.startswith(("breakdown", "kernels")) else (2,)), said
    lines = [line for line in said.splitlines() if line.startswith("moe-lab: ")]
    assert len(lines) == (code == 2)
    assert "Traceback" not in said
    assert "a defect of moe-lab" not in said
    assert not list(outside.iterdir())
    assert {p.name for p in tmp_path.iterdir()} == {"in", "outside"}
