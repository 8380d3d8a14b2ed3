"""A benchmark over several workers: one case each, each on its own GPU, going on where it was stopped."""

import json

import pytest
import sweep_builder

from moe_lab import cli, runs
from moe_lab.runs import cluster, sweep
from moe_lab.spec import bench_options
from moe_lab.spec.errors import UserError

# In place of the measuring process: waits until a second one runs, then writes the rows of its M and the GPU it sees.
PROGRAM = """
import json, os, pathlib, sys, time
folder, lines = pathlib.Path({folder!r}), json.loads({lines!r})
M = sys.argv[sys.argv.index("--m") + 1]
(folder / f"{{M}}-{{os.getpid()}}").touch()
end = time.time() + 20
while len(list(folder.iterdir())) < 2 and time.time() < end:
    time.sleep(0.01)
if M == "3" and not (folder.parent / "mended").exists():
    sys.exit("it went wrong")
header, row = lines[M]
row["seen"] = os.environ["CUDA_VISIBLE_DEVICES"]
text = "".join(json.dumps(line) + "\\n" for line in (header, row, {{"complete": True}}))
open(sys.argv[sys.argv.index("--out") + 1], "w").write(text)
"""


@pytest.fixture
def called(tmp_path, monkeypatch):
    """Replace the measuring process; return the folder with a file for each of its calls."""
    folder = tmp_path / "called"
    folder.mkdir()
    lines = {
        str(M): [sweep_builder.header(settings={"M": [M], "seed": 0}), sweep_builder.row("auto", M, 10.0 * M)]
        for M in (1, 2, 3)
    }
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(folder=str(folder), lines=json.dumps(lines)))
    monkeypatch.setattr(sweep, "PROGRAM", (str(script),))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    return folder


def test_two_workers_measure_a_case_each_on_a_gpu_of_its_own_and_go_on_with_what_is_missing(
    called, tmp_path, capsys, monkeypatch
):
    distributed = pytest.importorskip("distributed")
    place = tmp_path / "profiles"
    command = ["bench", "experts", "--m", "1,2,3", "--name", "x", "--on", "dask://local:2", "--profiles", str(place)]
    assert cli.main(command) == 1
    said = capsys.readouterr()
    assert "Case --m 3: the process stopped with exit code 1 and said: it went wrong" in said.err
    run = runs.load("h200/x", root=place)
    rows = run.rows()
    assert sorted(rows["M"]) == [1, 2]
    assert set(rows["seen"]) == {"5", "7"}, "both ran at once, so on two GPUs"
    assert run.manifest["rows"]["complete"] is False
    (tmp_path / "mended").touch()
    quick = {"n_workers": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}  # the rest is for one worker
    monkeypatch.setattr(cluster, "_workers", lambda kind, count: distributed.LocalCluster(**quick))
    assert cli.main(command) == 0
    assert sorted(path.name[0] for path in called.iterdir()) == ["1", "2", "3", "3"], "what has rows is not repeated"
    run = runs.load("h200/x", root=place)
    assert run.manifest["rows"]["complete"] is True
    assert sorted(run.manifest["settings"]["M"]) == [1, 2, 3]
    assert run.manifest["command"][-2:] == ["--on", "dask"], "no address"
    assert cli.main(command) == 2
    assert "already exists" in capsys.readouterr().err


def options(bench, *words):
    import argparse

    parser = argparse.ArgumentParser()
    bench_options.add(bench, parser)
    return parser.parse_args(words)


def test_a_case_has_one_value_of_each_list_but_all_backends():
    found = sweep.cases("experts", options("experts", "--m", "1,4", "--routing", "uniform,hot", "--backends", "a,b"))
    assert found == [["--m", M, "--backends", "a,b", *more] for more in ([], ["--routing", "hot"]) for M in ("1", "4")]
    align = sweep.cases("align", options("align", "--tokens", "1,4", "--experts", "4,64", "--topk", "8"))
    assert ["--tokens", "1", "--experts", "4", "--topk", "8"] not in align, "topk is at most experts"
    assert len(align) == 2


def test_a_gpu_is_held_by_one_case_at_a_time(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-1a/2b")
    with cluster.pinned() as first, cluster.pinned() as second:
        assert [first, second] == ["0", "GPU-1a/2b"]
    with cluster.pinned() as again:
        assert again == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with cluster.pinned() as none:
        assert none is None


@pytest.mark.parametrize("on", ["ray://head:10001", "dask://", "dask://local:0", "slurm:many", "dask://a b:1"])
def test_places_that_are_none_are_one_sentence(on):
    with pytest.raises(UserError, match=r"is no place to measure on; write dask://HOST:PORT"), cluster.client(on):
        pass


def test_a_slurm_job_has_one_gpu_and_one_worker(monkeypatch):
    jobqueue = pytest.importorskip("dask_jobqueue")
    monkeypatch.setattr(jobqueue.SLURMCluster, "scale", lambda self, jobs: None)
    with cluster.slurm(3) as made:
        script = made.job_script()
    assert "#SBATCH --gpus=1" in script
    assert "--nworkers 1" in script or "--nthreads 1" in script
