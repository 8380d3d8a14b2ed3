import json

import pytest

torch = pytest.importorskip("torch")

from builders import ranked

from moe_lab.gpu import __main__ as command
from moe_lab.gpu.workloads import layer as workload
from moe_lab.spec import models, ranges
from moe_lab.spec.models import Attention, Model, Router


@pytest.fixture
def run(monkeypatch, capsys, device):
    """Run the command on a tiny preset; returns (exit status, JSON or None, stderr)."""
    tiny = Model(64, 48, 8, 2, 1, Attention("gqa", 4, 2, 16, qk_norm=True), Router(), "test")
    monkeypatch.setitem(models.MODELS, "tiny", tiny)

    def run(*arguments):
        base = ["layer", "--model", "tiny", "--batch", "3", "--context", "5", "--input-len", "4", "--format", "fp32"]
        status = command.main([*base, "--device", device, "--iterations", "2", "--warmup", "1", *arguments])
        out, err = capsys.readouterr()
        assert out.count("\n") == (status == 0)
        return status, json.loads(out) if out else None, err

    return run


def test_workload_prints_one_line_of_json_that_says_what_ran(run, device):
    status, result, _ = run("--phase", "decode")
    assert status == 0
    assert (
        result.items()
        >= {
            "model": "tiny",
            "phase": "decode",
            "M": 3,
            "batch": 3,
            "input_len": None,
            "context": 5,
            "format": "fp32",
            "backend": "fused_moe",
            "align": "auto",
            "graph": False,
            "routing": "router",
            "iterations": 2,
            "warmup": 1,
            "seed": 0,
            "rows_useful": 6,
        }.items()
    )
    assert result["problem"] == {
        "M": 3, "K": 64, "N": 48, "E": 8, "topk": 2,
        "format": "fp32", "dtype": "fp32", "activation": "silu", "model": "tiny",
        "apply_router_weight_on_input": False, "biases": False, "shared": 0,
    }  # fmt: skip
    assert result["rows_padded"] == 16 * result["experts_hit"]  # at most 6 rows an expert: one tile of 16 each
    assert len(result["iteration_ms"]) == 2
    assert all(ms > 0 for ms in result["iteration_ms"])
    assert result["versions"]["torch"] == torch.__version__
    assert (result["gpu"] is None) == (device == "cpu")


def test_ranks_share_the_experts_and_their_ranges_and_results_say_which_they_are(monkeypatch, tmp_path, opened_ranges):
    """GIVEN two ranks with tokens of their own THEN the first speaks for both, and each has a root of its own."""
    tiny = Model(128, 16, 4, 2, 1, Attention("gqa", 2, 1, 16), Router(), "test")
    monkeypatch.setitem(models.MODELS, "tiny", tiny)
    monkeypatch.setattr(workload, "range_api", lambda: "torch")
    words = ["layer", "--model", "tiny", "--batch", "2", "--context", "3", "--format", "fp32", "--device", "cpu"]
    options = command.parser().parse_args([*words, "--iterations", "1", "--backend", "torch_loop", "--ranks", "2"])

    def one(rank):
        return workload.measure(options, rank), opened_ranges

    (first, roots), (second, others) = ranked.run(2, one, tmp_path)
    assert second is None
    assert {"M": 2, "ranks": 2, "comm": "nccl_all_to_all"}.items() <= first.items()
    for rank, ranges_of in enumerate((roots, others)):
        name = ranges_of[0][1]
        assert ranges.parse_root(name)["rank"] == str(rank)
        stages = [stage for _, stage in ranges_of if stage in ranges.STAGES]
        assert (stages[:2], stages[-1]) == (["router", "dispatch"], "combine")


def test_workload_of_a_prefill_counts_every_token(run):
    _, result, _ = run("--phase", "prefill", "--routing", "hot", "--backend", "torch_loop")
    assert (result["M"], result["input_len"], result["context"]) == (12, 4, None)
    assert (result["rows_useful"], result["rows_padded"]) == (24, 24)  # the loop pads nothing
    assert result["align"] is None


def test_workload_writes_the_same_json_where_a_capture_asks_for_it(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MOE_LAB_WORKLOAD_JSON", str(tmp_path / "workload.json"))
    _, result, _ = run()
    assert json.loads((tmp_path / "workload.json").read_text()) == result
    assert len(list(tmp_path.iterdir())) == 1


def test_saved_routing_is_replayed(run, tmp_path):
    _, saved, _ = run("--routing", "zipf:1.5", "--seed", "4", "--save-topk-ids", str(tmp_path / "ids.npy"))
    _, again, _ = run("--routing", f"replay:{tmp_path / 'ids.npy'}", "--seed", "5")
    assert again["experts_hit"] == saved["experts_hit"]
    assert again["rows_padded"] == saved["rows_padded"]
    assert again["routing"] == "replay:ids.npy"  # not where it lay


def test_ranges_open_around_measured_iterations_only(run, monkeypatch):
    opened = []

    class Mark:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            opened.append(f"+{self.name}")

        def __exit__(self, *failure):
            opened.append(f"-{self.name}")

    silent = ranges.marker("none")
    monkeypatch.setattr(ranges, "marker", lambda api: silent if api == "none" else Mark)
    monkeypatch.setattr(workload, "range_api", lambda: "nvtx")
    run("--warmup", "3")
    root = "moe_lab|model=tiny|phase=decode|M=3|backend=fused_moe"
    leaves = ["input_norm", "self_attn", "post_attention_norm"]
    stages = ["router", "align", "w13", "act", "w2", "combine"]
    inside = [f"{sign}{leaf}" for leaf in leaves for sign in "+-"]
    inside += ["+mlp", *(f"{sign}{s}" for s in stages for sign in "+-"), "-mlp"]
    assert opened == 2 * [f"+{root}", "+layers.0", *inside, "-layers.0", f"-{root}"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "kimi-k2"], "multi-head latent attention"),
        (["--model", "gpt-2"], "No model preset is called 'gpt-2'"),
        (["--routing", "skewed"], "Routing 'skewed' is unknown"),
        (["--routing", "replay:none.pt"], "no file 'none.pt' with topk_ids"),
        (["--backend", "magic"], "No experts plugin is called 'magic'"),
        (["--align", "magic"], "No align plugin is called 'magic'"),
        (["--dtype", "fp8"], "There is no format 'fp8'"),
        (["--batch", "0"], "Need batch >= 1"),
        (["--save-topk-ids", "ids.csv"], "Save topk_ids as .pt or .npy"),
        (["--graph", "--backend", "torch_loop"], "leave --graph out"),
        (["--overlap", "--ranks", "2"], "with shared experts; leave it out"),
    ],
)
def test_workload_refuses_in_one_sentence_with_status_2(run, arguments, sentence):
    status, result, err = run(*arguments)
    assert (status, result) == (2, None)
    assert sentence in err
    assert err.count("\n") == 1


def test_workload_refuses_a_count_of_none_with_status_2(run, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("--warmup", "0")
    assert "argument --warmup: '0' is not a whole number from 1 to" in capsys.readouterr().err


def test_out_of_memory_is_one_sentence(run, monkeypatch):
    from moe_lab.gpu.layer import DecoderLayer

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")

    monkeypatch.setattr(DecoderLayer, "forward", full)
    status, _, err = run()
    assert status == 2
    assert "does not fit in this GPU's memory; lower --batch" in err


def test_missing_gpu_is_one_sentence(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, err = run("--device", "cuda")
    assert status == 2
    assert "No GPU is visible to torch" in err


def test_range_cost_measures_every_api(capsys):
    """No bound on the time: the figure is for reading, on an idle machine: `python -m moe_lab.gpu ranges`."""
    cost = command.range_cost(repeats=100)
    assert cost["none_ns"] > 0
    assert cost["repeats"] == 100


@pytest.mark.gpu
@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("backend", ["fused_moe", "torch_grouped"])
def test_workload_replays_a_graph_on_the_gpu(run, phase, backend):
    status, result, err = run("--graph", "--phase", phase, "--format", "bf16", "--backend", backend)
    assert status == 0, err
    assert result["graph"]
    assert result["gpu"]["sm_count"] > 0
