"""The timeline of one instance."""

import pytest
from nsys_builder import NsysBuilder
from nsys_runs import graph, parsed

from moe_lab.analysis.timeline import timeline
from moe_lab.spec.errors import UserError


def report():
    """Return three roots whose GPU work spans 50, 10 and 30 us; the first kernel starts at 1 ms, 2 ms and 3 ms."""
    b = NsysBuilder()
    for i, us in enumerate((50, 10, 30)):
        at, gpu = 10**6 * i, 10**6 * (i + 1)
        b.push("moe_lab|M=1", at, at + 1000)
        b.push("mlp", at + 10, at + 900)
        b.push("w13", at + 20, at + 100)
        b.launch(at + 30, 10 * i, gpu=(gpu, gpu + 4000), name="up")
        b.launch(at + 200, 10 * i + 1, gpu=(gpu + 5000, gpu + us * 1000), name="sum", stream=8)
        b.call(at + 300, at + 302, 10 * i + 2)
        b.memcpy(gpu + 1000, gpu + 2000, 10 * i + 2)
    b.kernel(0, 5, 999)
    return b


def test_timeline_shows_the_median_instance_from_its_first_operation(tmp_path):
    kernels, ranges = timeline(parsed(report(), tmp_path))
    assert kernels["name"].tolist() == ["up", "memcpy host to device", "sum"]
    assert kernels["kind"].tolist() == ["kernel", "memcpy", "kernel"]
    assert kernels["start_us"].tolist() == [0, 1, 5]
    assert kernels["duration_us"].tolist() == [4, 1, 25]
    assert kernels["stream"].tolist() == [7, 7, 8]
    assert kernels["path"].tolist() == ["moe_lab|M=1/mlp/w13", "moe_lab|M=1/mlp", "moe_lab|M=1/mlp"]
    assert kernels["stage"].fillna("none").tolist() == ["w13", "none", "none"]
    assert ranges["name"].tolist() == ["moe_lab|M=1", "mlp", "w13"]
    assert ranges["depth"].tolist() == [0, 1, 2]
    assert ranges["start_us"].tolist() == [0, 0, 0]
    assert ranges["end_us"].tolist() == [30, 30, 4]


@pytest.mark.parametrize(("instance", "end_us"), [(0, 50), (1, 10), (-1, 30)])
def test_timeline_shows_the_instance_of_a_number(instance, end_us, tmp_path):
    _, ranges = timeline(parsed(report(), tmp_path), "^mlp$", instance)
    assert ranges["end_us"].tolist()[0] == end_us
    assert ranges["path"].tolist() == ["mlp", "mlp/w13"]


def test_timeline_shows_one_replay_of_a_graph(tmp_path):
    kernels, ranges = timeline(parsed(graph(), tmp_path), instance=1)
    assert kernels["stage"].tolist() == ["w13", "w2"]
    assert ranges["name"].tolist() == ["moe_lab|M=1", "mlp", "w13", "w2"]
    assert ranges["start_us"].tolist() == [0, 0, 0, 0.01]


@pytest.mark.parametrize("instance", [3, -4, "first"])
def test_timeline_says_which_instances_there_are(instance, tmp_path):
    with pytest.raises(UserError, match="give 'median' or a number from 0 to 2"):
        timeline(parsed(report(), tmp_path), instance=instance)


def test_timeline_says_that_there_is_no_root(tmp_path):
    b = NsysBuilder()
    b.launch(1, 1, gpu=(0, 5))
    with pytest.raises(UserError, match="No GPU operation lies in any range"):
        timeline(parsed(b, tmp_path))
