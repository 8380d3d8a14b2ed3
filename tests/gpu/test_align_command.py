import json

import pytest

torch = pytest.importorskip("torch")

from moe_lab.gpu import __main__ as command
from moe_lab.spec import ranges

BASE = ["align", "--experts", "16", "--topk", "2", "--tokens", "4"]


def test_align_command_opens_a_root_and_the_stage_around_each_call(opened_ranges, capsys, device, monkeypatch):
    assert command.main([*BASE, "--algorithms", "auto", "multi_block", "--iterations", "2", "--device", device]) == 0
    result = json.loads(capsys.readouterr().out)
    assert opened_ranges == [
        (depth, name) for _ in range(2) for root in result["roots"] for depth, name in ((0, root), (1, "align"))
    ]
    fields = [ranges.parse_root(name) for name in result["roots"]]
    assert [f["align"] for f in fields] == ["auto", "multi_block"]
    assert all(
        f.items() >= {"phase": "align", "M": "4", "E": "16", "topk": "2", "block_m": "64"}.items() for f in fields
    )
    assert ranges.stage_of("align") == "align"


def test_align_command_names_the_algorithms_that_do_not_take_so_many_pairs(opened_ranges, capsys, device):
    assert (
        command.main([*BASE, "--tokens", "4", "400", "--algorithms", "small", "--iterations", "1", "--device", device])
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert len(result["roots"]) == 1
    assert result["left_out"] == ["small takes up to 128 pairs, not 800."]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--topk", "17"], "Use topk <= experts"),
        (["--algorithms", "nope"], "No align plugin is called 'nope'"),
        (["--routing", "zapf"], "Routing 'zapf' is unknown"),
        (["--algorithms", "small", "--tokens", "4000"], "every algorithm was left out"),
    ],
)
def test_align_command_refuses_what_cannot_be(capsys, device, options, sentence):
    assert command.main([*BASE, "--device", device, *options]) == 2
    assert sentence in capsys.readouterr().err
