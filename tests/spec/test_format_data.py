import pytest

from moe_lab.spec import formats, plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem

QWEN = {"M": 16, "K": 2048, "N": 768, "E": 128, "topk": 8}


@pytest.mark.parametrize("name", plugins.names("formats"))
def test_every_format_says_enough_for_bytes_names_and_tolerances(name):
    known = formats.get(name)
    assert known.name == name
    assert known.dtype in ("fp32", "fp16", "bf16")
    assert known.weight_bytes(256, 256) >= 256 * 256 * known.weight_bits // 8
    assert bool(known.activation_block) == bool(known.activation_roundoff)
    assert bool(known.scale_bytes) == known.quantised


def test_fp8_block_counts_a_byte_a_number_and_four_a_scale():
    """GIVEN Qwen3's experts WHEN all are hit THEN a 128x128 block costs 4 bytes more; tokens come and go in bf16."""
    fp8, bf16 = (MoEProblem(**QWEN, format=f) for f in ("fp8_block", "bf16"))
    weights, scales = 128 * 3 * 2048 * 768, 128 * 3 * 16 * 6 * 4
    assert fp8.minimum_bytes(128) == weights + scales + 2 * 16 * 2048 * 2
    assert bf16.minimum_bytes(128) == 2 * weights + 2 * 16 * 2048 * 2
    assert fp8.minimum_bytes(0, "w13") == 16 * (2048 + 16 * 4) + 128 * 1536 * 2, "x in fp8 with a scale a 128 features"
    assert fp8.minimum_bytes(0, "w2") == 128 * (768 + 6 * 4) + 128 * 2048 * 2
    assert (fp8.dtype, fp8.useful_flops()) == ("bf16", bf16.useful_flops())


def test_scales_of_rows_and_of_matrices_are_counted():
    """GIVEN Qwen3's experts WHEN they have a scale a row or a matrix THEN so many times 4 bytes are read beside."""
    token, tensor = (MoEProblem(**QWEN, format=f"fp8_{kind}") for kind in ("token", "tensor"))
    numbers = 128 * 3 * 2048 * 768 + 2 * 16 * 2048 * 2
    assert token.minimum_bytes(128) == numbers + 128 * (2 * 768 + 2048) * 4
    assert tensor.minimum_bytes(128) == numbers + 128 * 2 * 4
    assert token.minimum_bytes(0, "w2") == 128 * (768 + 4) + 128 * 2048 * 2
    assert tensor.minimum_bytes(0, "w2") == 128 * 768 + 4 + 128 * 2048 * 2
    assert formats.get("fp8_tensor").activation_bytes(0, 768) == 0


def test_groups_of_int4_and_mxfp4_cost_half_a_byte_a_number_and_their_scales():
    """GIVEN Qwen3's experts WHEN 4 bits hold a weight THEN a group adds 2 bytes, 3 with a zero point, 1 in mxfp4."""
    numbers, rows = 128 * 3 * 2048 * 768, 2 * 16 * 2048 * 2
    for name, group, beside in (("int4_w4a16", 128, 2), ("int4_w4a16_g32_zeros", 32, 3), ("mxfp4", 32, 1)):
        found = MoEProblem(**QWEN, format=name)
        assert found.minimum_bytes(128) == numbers // 2 + numbers // group * beside + rows
        assert found.minimum_bytes(0, "w2") == 128 * (768 + 2048) * 2, "activations are bf16"


def test_nvfp4_and_int8_count_the_scales_of_matrices_and_of_rows():
    numbers, rows = 128 * 3 * 2048 * 768, 2 * 16 * 2048 * 2
    nvfp4, int8, wide = (MoEProblem(**QWEN, format=name) for name in ("nvfp4", "int8", "int8_w8a16"))
    assert nvfp4.minimum_bytes(128) == numbers // 2 + numbers // 16 + 128 * 2 * 4 + rows
    assert int8.minimum_bytes(128) == wide.minimum_bytes(128) == numbers + 128 * (2 * 768 + 2048) * 4 + rows
    assert int8.minimum_bytes(0, "w2") == 128 * (768 + 4) + 128 * 2048 * 2
    assert wide.minimum_bytes(0, "w2") == 128 * (768 + 2048) * 2


def test_scales_of_activations_may_have_other_bytes_than_those_of_weights():
    """GIVEN Qwen3's experts WHEN activations of four-bit weights are e4m3 THEN their scales are 4 bytes for 128."""
    for name, alone in (("int4_w4a8", "int4_w4a16"), ("mxfp4_w4a8", "mxfp4")):
        found = MoEProblem(**QWEN, format=name)
        assert found.minimum_bytes(128) == MoEProblem(**QWEN, format=alone).minimum_bytes(128)
        assert found.minimum_bytes(0, "w2") == 128 * (768 + 6 * 4) + 128 * 2048 * 2
        assert formats.get(name).multiplied == "e4m3"


def test_a_backend_that_names_int4_takes_all_of_its_groups():
    assert formats.get("int4_w4a16_g32_zeros").among(["bf16", "int4_w4a16"])
    assert not formats.get("mxfp4").among(["bf16", "int4_w4a16"])


def test_blocks_at_the_edge_count_whole():
    assert formats.get("fp8_block").weight_bytes(130, 129) == 130 * 129 + 2 * 2 * 4


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ({"format": "fp8_block", "dtype": "bf16"}, "fp8_block"),
        ({"dtype": "fp16", "quant": None}, "fp16"),
        ({"dtype": "bf16", "quant": "fp8_of_old"}, None),
        ({"dtype": "complex"}, None),
        ({}, None),
    ],
)
def test_older_runs_state_their_format_by_dtype_and_quant(sizes, name):
    assert formats.stated(sizes) == name


def test_a_format_is_one_file(tmp_path, monkeypatch):
    """GIVEN a folder with one more format WHEN it is named THEN bytes, dtype and the list of what is known have it."""
    (tmp_path / "gpu" / "formats").mkdir(parents=True)
    (tmp_path / "gpu" / "formats" / "int6.py").write_text(
        'INFO = {"about": "x", "dtype": "fp16", "weight_bits": 8, "activation_bits": 16}\n'
    )
    (tmp_path / "gpu" / "formats" / "bare.py").write_text('INFO = {"about": "x", "dtype": "fp16"}\n')
    monkeypatch.setattr(plugins, "PACKAGE", tmp_path)
    problem = MoEProblem(**QWEN, format="int6")
    assert problem.facts() == QWEN | {
        **{"format": "int6", "dtype": "fp16", "activation": "silu", "model": None},
        **{"apply_router_weight_on_input": False, "biases": False, "shared": 0},
    }
    assert problem.minimum_bytes(128) == 128 * 3 * 2048 * 768 + 2 * 16 * 2048 * 2
    with pytest.raises(UserError, match=r"no format 'int9'; choose one of: bare, int6"):
        MoEProblem(**QWEN, format="int9")
    with pytest.raises(UserError, match=r"INFO of the format 'bare' lacks .*weight_bits"):
        MoEProblem(**QWEN, format="bare")
