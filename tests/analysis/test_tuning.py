import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import tuning_builder
from checkout import REPO
from tuning_builder import A, B, C, row

from moe_lab import cli, report, runs
from moe_lab.analysis import tuning
from moe_lab.pages import load
from moe_lab.pages.tuning import findings, tables
from moe_lab.runs import bench_runs
from moe_lab.spec import architectures, configs
from moe_lab.spec.configs import text
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.options import seconds
from moe_lab.spec.problem import MoEProblem

torch = pytest.importorskip("torch")

from moe_lab.gpu.bench.check import Errors
from moe_lab.gpu.bench.supervise import TuneState, supervise_tuning
from moe_lab.gpu.bench.tune import search, steps
from moe_lab.gpu.bench.tune.journal import Journal
from moe_lab.gpu.bench.tune.pool import Pool
from moe_lab.gpu.bench.tune.session import Session

HOPPER = search.Limits(232448, 2)
QWEN = {"K": 2048, "N": 768, "E": 128, "topk": 8}


@pytest.mark.parametrize(
    ("tile", "fits"),
    [
        ((128, 256, 64, 8, 8, 3), True),
        ((128, 256, 64, 8, 4, 3), False),  # 256 accumulators a thread
        ((128, 256, 64, 8, 8, 5), False),  # 245760 bytes of buffers
        ((16, 32, 64, 1, 4, 2), True),
        ((16, 32, 64, 1, 8, 2), False),  # two results a thread
        (
            (16, 256, 256, 1, 4, 2),
            False,
        ),  # 64 loads of 16 bytes a thread: 128 registers of addresses, and too much memory
    ],
    ids=lambda v: text(v) if isinstance(v, tuple) else "",
)
def test_tiles_are_pruned_by_what_a_multiprocessor_has(tile: Any, fits: bool) -> None:
    assert search.fits(tile, HOPPER) is fits


def test_plan_begins_with_the_backends_own_tile_and_stays_in_the_limits() -> None:
    centre = (16, 64, 128, 1, 4, 4)
    plan = search.plan(MoEProblem(1, **QWEN), dict.fromkeys((16, 32), centre), HOPPER, 12)
    assert set(plan) == {("w13", 16), ("w13", 32), ("w2", 16), ("w2", 32)}, "an expert has less than one row"
    tiles = plan["w13", 16]
    assert tiles[0] == centre
    assert len(tiles) == len(set(tiles)) == 12
    assert all(search.fits(tile, HOPPER) and tile[0] == 16 for tile in tiles)
    assert search.distance(tiles[2], centre) == 1.0, "a neighbour after a scattered one"


@pytest.mark.parametrize(("arch", "kpack"), [("gfx942", {1, 2}), ("gfx950", {1})])
def test_on_amd_the_compilers_options_are_tried_with_one_buffer_and_wavefronts_of_64(arch: str, kpack: set) -> None:
    card = architectures.find(arch)
    limits = search.Limits(card.smem_block_bytes, 2, amd=card)
    tiles = list(search.space(1536, 2048, 16, limits))
    waves, nonkdim, packs = (set(values) for values in list(zip(*tiles, strict=True))[6:])
    assert (waves, nonkdim, packs) == ({0, 2, 4}, {16}, kpack), "a matrix instruction of 32 rows has no room"
    assert {tile[7] for tile in search.space(1536, 2048, 32, limits)} == {16, 32}
    assert {tile[5] for tile in tiles} == {2}
    plan = search.plan(MoEProblem(1, **QWEN), dict.fromkeys((16, 32), (16, 64, 128, 1, 4, 4)), limits, None)
    assert plan["w13", 16][0] == (16, 64, 128, 1, 4, 2)
    wide = (128, 256, 64, 8, 8, 2, 0, 16, 1)
    assert search.shared_memory_bytes(wide, limits) == (128 + 256) * 64 * 2
    assert search.fits((128, 256, 64, 8, 4, 2, 0, 16, 1), limits), "128 accumulators of 512 registers a thread"


def test_no_tile_is_wider_or_deeper_than_the_gemm() -> None:
    tiles = list(search.space(48, 40, 16, HOPPER))
    assert {tile[1] for tile in tiles} == {32, 64}
    assert {tile[2] for tile in tiles} == {32, 64}


@pytest.mark.parametrize(
    ("M", "topk", "small"),
    [(1, 8, 1), (3, 8, 1), (2, 8, 2), (4096, 8, 2), (1, 1, 1), (5, 1, 2), (64, 1, 16)],
    ids=lambda v: str(v),
)
def test_small_problem_compiles_the_same_kernels(M: int, topk: int, small: int) -> None:
    pairs, few = M * topk, small * topk
    assert (pairs == 1, pairs % 16) == (few == 1, few % 16) or (pairs % 16 and few % 16)
    assert small == search.small(MoEProblem(M, 64, 32, 8, topk)).M


TILES = [(rows, n, 64, 1, 4, stages) for rows in (16, 32, 64) for n in (32, 64, 128, 256) for stages in (2, 3)]


def speed(key: search.Key) -> float:
    """Invented microseconds: wider is quicker for w13, narrower for w2; 64 rows are hopeless."""
    part, (rows, n, *_, stages) = key
    return (n if part == "w2" else 8192 / n) + stages + {16: 0, 32: 5, 64: 900}[rows]


def test_halving_finds_the_best_and_drops_a_hopeless_block_m_after_the_first_round() -> None:
    asked: list[tuple[int, int]] = []

    def measure(keys: Any, repetitions: int, number: int) -> dict[search.Key, float]:
        asked.append((len(keys), repetitions))
        assert number == 0 or all(key[1][0] != 64 for key in keys)
        return {key: speed(key) for key in keys}

    left = search.halve([(part, tile) for part in search.PARTS for tile in TILES], measure, (2, 5, 9))
    assert asked == [(48, 2), (12, 5), (12, 9)], "three are kept of each GEMM and block_m"
    best = {part: min((k for k in left if k[0] == part), key=lambda k: left[k])[1] for part in search.PARTS}
    assert best == {"w13": (16, 256, 64, 1, 4, 2), "w2": (16, 32, 64, 1, 4, 2)}
    pairs = search.finalists(left, 4)
    assert pairs[0] == (best["w13"], best["w2"])
    assert all(w13[0] == w2[0] for w13, w2 in pairs)
    assert [pair for pair in pairs if pair[0] == pair[1]], "one tile for both is compared too"


def test_halving_goes_on_with_what_could_be_measured() -> None:
    def half(keys: Any, repetitions: int, number: int) -> dict[search.Key, float]:
        return {key: speed(key) for key in keys if key[1][1] < 256} if number < 2 else {}

    left = search.halve([(part, tile) for part in search.PARTS for tile in TILES], half)
    assert left, "a last round without time leaves the one before"
    assert all(tile[1] < 256 for _, tile in left)
    assert search.finalists({}) == []


def test_between_are_even_ms_in_the_middle_spread_over_the_gaps() -> None:
    assert search.between([1, 2, 4, 8, 16], 9) == [(6, 4, 8), (12, 8, 16)], "no even M lies between 1 and 4"
    many = search.between([2**i for i in range(15)], 3)
    assert [low for _, low, _ in many] == [4, 256, 8192]
    assert search.between([1, 16], 0) == []


# A compiling process in place of ours: tile 2 kills it, tile 3 hangs, tile 4 cannot be compiled.
COMPILER = """
import json, os, signal, sys, time
print("some words that a compiler prints", flush=True)
for line in sys.stdin:
    tile = json.loads(line)["tile"]
    if tile == 2: os.kill(os.getpid(), signal.SIGSEGV)
    if tile == 3: time.sleep(60)
    print('{"task":1,"error":' + ('"no"' if tile == 4 else "null") + "}", flush=True)
"""


def test_a_compile_that_dies_or_hangs_costs_only_its_tile(tmp_path: Path) -> None:
    (tmp_path / "compiler.py").write_text(COMPILER)
    done: dict[int, str | None] = {}
    pool = Pool([sys.executable, str(tmp_path / "compiler.py")], 2, 1.0)
    pool.run(
        [{"tile": i} for i in range(8)], time.time() + 30, lambda task, error, _: done.update({task["tile"]: error})
    )
    assert {tile for tile, error in done.items() if error is None} == {0, 1, 5, 6, 7}
    assert (done[2], done[4]) == ("the compiling process was killed by SIGSEGV", "no")
    assert done[3] == "the compiling process hung for 1 s"


def test_compiling_stops_when_its_time_is_over(tmp_path: Path) -> None:
    clock, done = iter(range(100)), []
    (tmp_path / "compiler.py").write_text(COMPILER)
    pool = Pool([sys.executable, str(tmp_path / "compiler.py")], 1, 5.0, now=lambda: next(clock))
    pool.run([{"tile": 9}] * 8, 3, lambda task, *_: done.append(task))
    assert (len(done), len(pool.left)) == (3, 5)


# A measuring process in place of ours: it dies at key [1] until it is told, then at two keys at once until told.
MEASURER = """
import json, os, sys
state = json.loads(open(sys.argv[-1]).read())
note = sys.argv[-1] + ".now"
open(sys.argv[1], "w").write(json.dumps(state))
if not state["dead"]: open(note, "w").write("[[1]]"); os._exit(3)
if not state["alone"]: open(note, "w").write("[[2], [3]]"); os._exit(3)
"""


def test_a_death_is_told_to_the_next_measuring_process(tmp_path: Path) -> None:
    (tmp_path / "measurer.py").write_text(MEASURER)
    out = tmp_path / "out.json"
    argv = [sys.executable, str(tmp_path / "measurer.py"), str(out)]
    supervise_tuning(argv, out, 5.0, time.time() + 60)
    assert json.loads(out.read_text()) == {"dead": [[[1], "the process stopped with exit code 3"]], "alone": [[2], [3]]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["measurer.py", "out.json"]


AGAIN = "import os, sys; open(sys.argv[-1] + '.now', 'w').write('[[1]]'); os._exit(5)"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(2)", "refused"),
        ("raise SystemExit(5)", "before its first tile"),
        (AGAIN, "twice at the same"),
    ],
    ids=["refuses", "dies-at-once", "dies-again"],
)
def test_a_measuring_process_that_cannot_go_on_is_not_started_again(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "m.py").write_text(code)
    with pytest.raises(UserError, match=said):
        supervise_tuning([sys.executable, str(tmp_path / "m.py")], tmp_path / "o", 5.0, time.time() + 60)


class FakeCase:
    """A case whose steps return their microseconds, by ``speed`` of each tile; wide w13 tiles are wrong."""

    room, oracle = 4, SimpleNamespace(bound=Errors(0.01, 0.01))

    def __init__(self, M: int = 64):
        self.problem, self.built = MoEProblem(M, 64, 32, 8, 2, "fp32", model="tiny"), []

    def part(self, part: str, tile: Any, partner: Any) -> Any:
        self.built.append((part, tile))
        if (part, tile[1]) == ("w13", 256):
            raise UserError("wrong: largest error 1 (allowed 0.01)")
        return (lambda: speed((part, tile))), Errors(0.001, 0.001)

    def whole(self, pair: Any) -> Any:
        self.built.append(pair)
        return (lambda: speed(("w13", pair[0])) + speed(("w2", pair[1])) + 7), Errors(0.001, 0.001)

    def tidy(self) -> None:
        pass


def session(path: Path, state: TuneState | None = None, drift: Any = lambda: 1.0, now: Any = lambda: 0.0) -> Any:
    """Return a session that asks the steps themselves for their time, times a drift."""
    noted: list[Any] = []

    def clock(given: dict[Any, Any], repetitions: int, *_: Any) -> Any:
        factor = drift()
        return {key: [factor * step()] * repetitions for key, step in given.items()}, []

    journal = Journal(path)
    journal.begin({"bench": "tune"})
    own = Session(
        "fused_moe", "uniform", 0, journal, state or TuneState(), noted.append, torch.device("cpu"), clock, now
    )
    return own, noted


CENTRES = {16: (16, 64, 64, 1, 4, 2), 32: (32, 64, 64, 1, 4, 2), 64: (64, 64, 64, 1, 4, 2)}


def test_session_compares_tiles_of_different_turns_by_their_reference(tmp_path: Path) -> None:
    drifts = iter([1.0, 3.0, 0.5, 2.0])
    own, noted = session(tmp_path / "j", drift=lambda: next(drifts))
    keys = [("w2", tile) for tile in TILES[:8]]
    found = own.parts(FakeCase(), keys, 3, 0, CENTRES, 9.0)
    assert found == pytest.approx({key: speed(key) for key in keys}), (
        "the clock of the second turn was three times slower"
    )
    rows = own.journal.of(phase="search")
    assert [r["median_us"] / r["reference_us"] for r in rows] == pytest.approx(
        [speed(k) / speed(("w2", CENTRES[16])) for k in keys], rel=1e-3
    )
    assert len(noted[4]) == 4, "before the four are timed, all of them are noted"


def test_session_never_times_what_is_wrong_and_measures_nothing_twice(tmp_path: Path) -> None:
    own, _ = session(tmp_path / "j")
    keys = [("w13", tile) for tile in TILES[:8]]
    found = own.parts(FakeCase(), keys, 3, 0, CENTRES, 9.0)
    assert {key[1][1] for key in found} == {32, 64, 128}
    wrong = [r for r in own.journal.of(phase="search") if r["median_us"] is None]
    assert [(r["correct"], r["error"][:5]) for r in wrong] == [(False, "wrong")] * 2
    (tmp_path / "j").write_bytes((tmp_path / "j").read_bytes() + b'{"M":64,"phase":"sea')
    again, _ = session(tmp_path / "j")
    case = FakeCase()
    assert again.parts(case, keys, 3, 0, CENTRES, 9.0) == pytest.approx(found)
    assert case.built == [], "everything came from the file, whose torn line is cut off"


def test_session_stops_in_time_and_leaves_out_what_killed_a_process(tmp_path: Path) -> None:
    ticks = iter(range(100))
    own, _ = session(tmp_path / "j", now=lambda: next(ticks))
    assert len(own.parts(FakeCase(), [("w2", tile) for tile in TILES], 3, 0, CENTRES, 2.5)) == 12, "three turns of four"
    dead, lonely = TILES[0], TILES[1]
    case = FakeCase()
    rows = [own.row(case.problem, "search", "w2", 0, tile) for tile in (dead, lonely)]
    keys = [[r[k] for k in ("M", "phase", "part", "round", "w13", "w2")] for r in rows]
    own, noted = session(tmp_path / "k", TuneState([(keys[0], "the process died")], [keys[1]]))
    found = own.parts(case, [("w2", tile) for tile in TILES[:4]], 3, 0, CENTRES, 9.0)
    assert ("w2", dead) not in found
    assert ("w2", dead) not in case.built
    (row_of_dead,) = [r for r in own.journal.rows.values() if r["w2"] == text(dead)]
    assert row_of_dead["error"] == "the process died"
    assert noted[1] == [tuple(keys[1])], "it is timed by itself"


def test_tune_compares_what_is_left_with_the_backends_own(tmp_path: Path) -> None:
    own, _ = session(tmp_path / "j")
    case = FakeCase()
    plan = {(part, rows): [t for t in TILES if t[0] == rows] for part in search.PARTS for rows in (16, 32)}
    assert steps.compiled(own.journal, case.problem, plan) == [], "nothing is measured before it has compiled"
    for task in steps.tasks([case.problem], {64: plan}):
        failed = "no" if task["tile"] == text(TILES[4]) else None
        line = own.row(case.problem, "compile", task["part"], 0, configs.parse(task["tile"]))
        own.journal.add(line | {"M": task["M"], "error": failed})
    steps.tune(own, case, plan, 100.0)
    final = sorted(own.journal.of(phase="final"), key=lambda r: r["median_us"])
    assert (final[0]["w13"], final[0]["w2"]) == ("16x128x64x1x4x3", text(TILES[0])), "2 stages did not compile"
    assert [r["origin"] for r in final if "default" in r["origin"]] == ["default"]
    assert text(TILES[4]) not in {r["w13"] for r in own.journal.of(phase="search")}
    middles = [(90, 64, 128)]
    steps.judge_between(own, middles, FakeCase, steps.Budget(0.0, 100.0))
    assert own.journal.of(phase="between") == [], "the other key has no result yet"
    steps.tune(own, FakeCase(128), plan, 100.0)
    steps.judge_between(own, middles, FakeCase, steps.Budget(0.0, 100.0))
    assert {r["origin"] for r in own.journal.of(phase="between")} >= {"key 64, key 128", "default"}


def test_budget_and_options_are_read_as_they_are_written() -> None:
    assert [seconds(t) for t in ("90s", "5m", "1.5h", "7")] == [90, 300, 5400, 7]
    for wrong in ("", "m", "-5m", "5 apples", "0s"):
        with pytest.raises(UserError, match="is not a time"):
            seconds(wrong)


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path))
    return tmp_path


def tuned_run(profiles: Path, lines: list[dict[str, Any]], **changes: Any) -> tuning.Tuning:
    path = tuning_builder.write(profiles / "a.json", lines, **changes)
    bench_runs.import_bench([path], "h200/tune_qwen3-30b-a3b", root=profiles, overwrite=True)
    return load.tuned("h200/tune_qwen3-30b-a3b")


def test_chosen_tiles_stand_beside_the_backends_own_and_the_best_seen(profiles: Path) -> None:
    table = tuning.chosen(tuned_run(profiles, tuning_builder.rows())).set_index("M")
    assert table.loc[64, ["w13", "w2", "us", "one"]].tolist() == [A, B, 100.0, A]
    assert table["gain_pct"].tolist() == pytest.approx([50.0, 50.0])
    assert table["one_pct"].tolist() == pytest.approx([10.0, 10.0])
    assert table["over_seen_pct"].tolist() == pytest.approx([2.0, 2.0]), "51 in its last round, 50 in its first"
    assert table[["tried", "failed"]].iloc[0].tolist() == [7, 1]


def test_the_nearest_key_is_the_one_that_a_lookup_takes(profiles: Path) -> None:
    (line,) = tuning.between(tuned_run(profiles, tuning_builder.rows())).to_dict("records")
    assert (line["M"], line["nearest"], line["other"]) == (6, 1, 64), "6 / 1 is less than 64 / 6"
    assert (line["nearest_us"], line["other_us"], line["best_us"]) == (126.0, 150.0, 120.0)
    assert line["cost_pct"] == pytest.approx(5.0)


def test_landscape_has_every_tile_once_in_its_last_round(profiles: Path) -> None:
    run = tuned_run(profiles, [*tuning_builder.rows(), row("search", "w13", 64, 102.0, C, round=1, reference_us=200.0)])
    table = tuning.landscape(run, 64).set_index(["part", "tile"])
    assert table.loc[("w13", A), ["us", "round", "over_best"]].tolist() == [51.0, 1, 1.0]
    assert table.loc[("w13", C), "us"] == pytest.approx(51.0), "its turn ran at half the speed"
    assert table.loc[("w2", C), ["block_m", "block_n", "num_stages"]].tolist() == [64, 128, 4]
    assert set(tuning.landscape(run)["M"]) == {64}, "the middle one of two"


def test_findings_are_rendered_from_the_rows(profiles: Path) -> None:
    said = [str(f) for f in findings.all_of(tuned_run(profiles, tuning_builder.rows())) if f]
    assert said[0].startswith("On H200, qwen3-30b-a3b, bf16, fused_moe: tuned tiles save 50")
    assert any("at 1 size between" in s and "5.0" in s and "(key 1)" in s for s in said)
    assert any(s.startswith("Shipped tiles in our kernel: vllm 0.15.0's are 20") for s in said)
    assert any("7 kernels compiled, 1 of them" in s for s in said)
    own_only = [r for r in tuning_builder.rows() if r["origin"] == "default"]
    assert "no tile is quicker than the backend's own at any of 2 sizes" in str(
        findings.all_of(tuned_run(profiles, own_only))[0]
    )


def test_without_a_run_everything_says_so(profiles: Path) -> None:
    none = load.tuned("h200/tune_qwen3-30b-a3b")
    assert [*map(str, findings.all_of(none))] == [none.missing]
    assert "moe-lab tune --name tune_qwen3-30b-a3b" in none.missing
    best = tuning.chosen(none)
    for shown in (tables.chosen(best), tables.shipped(tuning.shipped(none), best), tables.failures(none.rows)):
        assert "Nothing to show" in shown.sentence


def test_tiles_that_others_ship_have_a_column_for_each_of_their_numbers() -> None:
    row = {"M": 64, "release": "vllm 0.15.0", "w13": "16x256x128x1x8x2", "w2": pd.NA, "us": 284.3, "slower_pct": 0.6}
    frame = pd.DataFrame([row | {"chosen_us": 282.6}])
    html = tables.shipped(frame, frame).html()
    assert "16x256" not in html
    assert all(f">{number}</td>" in html for number in (256, 128, 8))


@pytest.mark.parametrize("there", [True, False], ids=["run", "no-run"])
def test_notebook_renders_with_and_without_its_run(profiles: Path, there: bool) -> None:
    if there:
        tuned_run(profiles, tuning_builder.rows())
    notebook = REPO / "notebooks" / "06_tuning.ipynb"
    out = profiles / "out"
    built = report.build([str(notebook)], out=out, parameters={}, grid=None, show_code=False)
    assert [page.failed for page in built.pages] == [None]
    page = next(out.glob("06_*.html")).read_text()
    assert ("Tuned tiles save" in page) is there
    assert ("There is no run" in page) is not there


def test_tune_keeps_a_run_with_its_tiles_and_goes_on_where_it_stopped(profiles: Path, capsys: Any, interpreter) -> None:
    argv = ["tune", "--device", "cpu", "--format", "fp32", "--model", "64x32x4x2", "--candidates", "1", "--jobs", "1"]
    argv += ["--m", "1", "--between", "0", "--name", "cpu/t"]
    assert cli.main([*argv, "--budget", "0.1s"]) == 2
    assert "Nothing was measured in 0.1s; run it again with a longer --budget." in capsys.readouterr().err
    assert cli.main([*argv, "--budget", "20m"]) == 0  # it ends long before; a busy machine still has time to search
    folder, path = map(Path, capsys.readouterr().out.splitlines())
    run = runs.load("cpu/t")
    assert run.manifest["rows"]["complete"]
    assert set(run.rows()["phase"]) == {"compile", "search", "final"}
    assert run.rows()["error"].isna().all()
    tuned = configs.read(path)
    assert path.parent == folder
    assert (tuned.E, tuned.N, tuned.K, tuned.topk, tuned.origin) == (4, 32, 64, 2, "cpu/t")
    assert tuned.points[0].us == run.rows().query("phase == 'final'")["median_us"].min()
    given = ["configs", "export", "cpu/t", "--for", "vllm", "--out", str(profiles / "out")]
    assert cli.main(given) == 0
    assert Path(capsys.readouterr().out.strip()).name == "E=4,N=32,device_name=unknown,dtype=float32.json"
    assert cli.main([*argv, "--budget", "1m"]) == 2
    assert "A finished run 'cpu/t' already exists" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["{", "[1]", '{"M": [1]}', '{"M": NaN}', '{"w13": {"a": 1}}'])
def test_a_journal_that_others_changed_is_one_sentence(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"bench": "tune"}}\n{line}\n')
    with pytest.raises(UserError, match=r"^'rows\.jsonl' cannot be read as rows of a tuning \(line 2: "):
        Journal(path)
