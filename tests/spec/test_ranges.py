import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_lab.spec import ranges

VALUE = st.text("abcXYZ019_.+-", min_size=1)


@given(st.dictionaries(VALUE, VALUE, min_size=1))
def test_root_name_is_read_back_by_parse_root(fields):
    assert ranges.parse_root(ranges.root_name(**fields)) == fields


def test_root_name_has_the_grammar_that_the_filters_rely_on():
    name = ranges.root_name(model="qwen3-30b-a3b", phase="decode", M=16, backend="fused_moe")
    assert name == "moe_lab|model=qwen3-30b-a3b|phase=decode|M=16|backend=fused_moe"


@pytest.mark.parametrize("value", ["a b", "a|b", "a=b", "a/b", "ä", "{x}"])
def test_root_name_refuses_characters_that_filters_cannot_select(value):
    with pytest.raises(ValueError, match="outside"):
        ranges.root_name(model=value)


@pytest.mark.parametrize("name", ["layers.0", "moe_lab", "moe_lab|model", "other|model=x", ""])
def test_parse_root_knows_only_roots(name):
    assert ranges.parse_root(name) is None


@pytest.mark.parametrize(
    ("name", "stages"),
    [("w13", ("w13",)), ("w13+act", ("w13", "act")), ("self_attn", ()), ("w13+self_attn", ()), ("", ())],
)
def test_stages_of_splits_fused_stages(name, stages):
    assert ranges.stages_of(name) == stages


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("{'Module': 'model.layers.0.mlp', 'Inputs': [[1, 2]]}", "model.layers.0.mlp"),
        ("{'Module': 'model.layers.0.mlp', 'Inputs': <unreadable", "model.layers.0.mlp"),
        ("{'Other': 1}", "{'Other': 1}"),
        ("{1, 2}", "{1, 2}"),
        ("layers.0", "layers.0"),
    ],
)
def test_display_name_reads_layerwise_markers_as_module_paths(name, shown):
    assert ranges.display_name(name) == shown


@pytest.mark.parametrize("api", ["none", "nvtx"])
def test_marker_nests_and_lets_errors_through(api):
    if api == "nvtx":
        pytest.importorskip("nvtx")
    mark = ranges.marker(api)
    with pytest.raises(ZeroDivisionError), mark("layers.0"), mark("mlp"), mark("mlp"):
        _ = 1 / 0


def test_marker_closes_what_it_opened_even_after_an_error(monkeypatch):
    nvtx = pytest.importorskip("nvtx")
    calls = []

    class Domain:
        def get_event_attributes(self, message):
            return message

        def push_range(self, attributes):
            calls.append(f"+{attributes}")

        def pop_range(self):
            calls.append("-")

    monkeypatch.setattr(nvtx, "get_domain", lambda name: calls.append(name) or Domain())
    mark = ranges.marker("nvtx")
    with pytest.raises(ZeroDivisionError), mark("mlp"), mark("w13"):
        _ = 1 / 0
    assert calls == ["moe_lab", "+mlp", "+w13", "-", "-"]


def test_marker_refuses_an_api_it_does_not_know():
    with pytest.raises(ValueError, match="choose nvtx, roctx, torch or none"):
        ranges.marker("itt")


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("model.layers.3.self_attn", "self_attn"),
        ("w13+act", "w13+act"),
        ("model.layers.0.input_layernorm", "norm"),
        ("mlp", None),
        ("model.layers.0.mlp.experts", "experts"),
        ("model.layers.0.mlp.gate", "router"),
        ("model.layers.0.mlp.topk", "router"),
        ("model.layers.0.mlp.gate_proj", None),
        ("cub::DeviceRadixSort::SortPairs", None),
    ],
)
def test_stage_of_reads_module_paths_and_fused_stages(name: str, stage: str | None) -> None:
    assert ranges.stage_of(name) == stage


def test_operators_of_pytorch_are_no_stages():
    assert ranges.stage_of("aten::layer_norm") is None
    assert ranges.stage_of("model.norm") == "norm"
