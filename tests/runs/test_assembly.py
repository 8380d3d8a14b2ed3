"""Listings of our kernels, cut down from what Triton 3.7.1 makes of them, and the columns that they amount to."""

from pathlib import Path

import pytest

from moe_lab.runs import assembly
from moe_lab.spec.errors import UserError

SAMPLES = Path(__file__).parents[1] / "samples"
TILE_FLOP = 2 * 128 * 256 * 64  # block_m, block_n, block_k of all samples of the GEMM: one step of the loop


def columns(name: str, warps: int = 8):
    return assembly.columns(assembly.read((SAMPLES / f"{name}.txt").read_text()), warps)


@pytest.mark.parametrize(
    ("name", "unit", "shape", "flop"),
    [
        ("sass_sm80", "mma.sync", "HMMA.16816.F32.BF16", TILE_FLOP),
        ("sass_sm90", "wgmma", "HGMMA.64x256x16.F32.BF16", TILE_FLOP),
        ("sass_sm100", "tcgen05", "UTCHMMA", TILE_FLOP),
        ("amdgcn_gfx942", "mfma", "v_mfma_f32_32x32x8_bf16", TILE_FLOP),
    ],
)
def test_the_inner_loop_does_one_step_of_the_tile_on_the_tensor_unit(name, unit, shape, flop) -> None:
    found = columns(name)
    assert (found["tensor_unit"], found["tensor_shape"], found["loop_tensor_flop"]) == (unit, shape, flop)
    tensor = dict(found["loop_mix"])[unit]
    assert found["loop_not_tensor_pct"] == pytest.approx(100 * (1 - tensor / found["loop_instructions"]))
    assert sum(count for _, count in found["loop_mix"]) == found["loop_instructions"]
    assert found["loop_instructions"] < found["static_instructions"]


@pytest.mark.parametrize(
    ("written", "flop"),
    [
        pytest.param(["UMOV UR35, 0x8400490"], 2 * 128 * 256 * 32, id="constant"),
        pytest.param(["UMOV UR35, 0x8400490", "ULOP3.LUT UR35, UR35, UR4, URZ, 0xfc, !UPT"], None, id="computed"),
        pytest.param(["UMOV UR35, 0x0"], None, id="no-shape"),
        pytest.param([], None, id="not-written"),
    ],
)
def test_the_shape_of_a_tcgen05_instruction_is_in_the_constant_of_its_descriptor(written, flop) -> None:
    multiply = "UTCQMMA gdesc[UR10], gdesc[UR12], tmem[UR8], tmem[UR34], idesc[UR35], UPT"
    found = assembly.read(sass(*written, multiply, "EXIT")).instructions
    assert [one.flop for one in found if one.unit == "tcgen05"] == [flop]


def test_the_work_of_a_block_is_not_known_where_only_some_warps_multiply() -> None:
    listing = assembly.read((SAMPLES / "sass_sm90.txt").read_text())
    assert assembly.columns(listing, 8) == assembly.columns(listing, None) | {
        "loop_tensor_flop": assembly.columns(listing, 8)["loop_tensor_flop"]
    }
    assert assembly.columns(listing, None)["loop_tensor_flop"] is None


def test_registers_stack_and_spills_are_what_the_assembler_states() -> None:
    hopper = columns("sass_sm90")
    assert (hopper["static_registers"], hopper["stack_bytes"], hopper["local_accesses"]) == (200, 0, 0)
    assert "static_vgprs" not in hopper, "NVIDIA has none: NA, not 0"
    amd = columns("amdgcn_gfx942_spills")
    stated = {"static_vgprs": 37, "static_agprs": 0, "static_sgprs": 106, "sgpr_spills": 259, "vgpr_spills": 0}
    assert {key: amd[key] for key in stated} == stated
    assert amd["code_bytes"] == 12148


def test_the_shared_memory_that_the_driver_takes_is_not_the_kernels() -> None:
    text = (SAMPLES / "sass_sm100.txt").read_text()
    assert "SHARED:1024" in text
    assert assembly.read(text).facts["smem_in_code_bytes"] == 0
    assert assembly.read(text.replace("SHARED:1024", "SHARED:1536")).facts["smem_in_code_bytes"] == 512


def test_loads_are_counted_by_their_width() -> None:
    for name in ("sass_sm80", "sass_sm90", "sass_sm100"):
        assert columns(name)["loop_loads"] == [("16", 12)], "cp.async of 16 bytes: rows of x and of w"
    assert columns("amdgcn_gfx942")["loop_loads"] == [("16", 6)]
    assert columns("amdgcn_gfx942")["loads"] == [("16", 7), ("4", 1)]


SASS = """
 Function k:
  REG:32 STACK:8 SHARED:0 LOCAL:0 CONSTANT[0]:1 TEXTURE:0 SURFACE:0 SAMPLER:0
	code for sm_90a
{}
        /*0f00*/                   BRA 0xf00 ;
        /*0f10*/                   NOP ;
"""


def sass(*instructions: str) -> str:
    return SASS.format("\n".join(f"        /*{16 * i:04x}*/  {text} ;" for i, text in enumerate(instructions)))


@pytest.mark.parametrize(
    ("instructions", "loop"),
    [
        pytest.param(["MOV R1, R2", "EXIT"], None, id="no-jump"),
        pytest.param(["MOV R1, R2", "FADD R1, R1, R2", "@P0 BRA 0x10", "EXIT"], 2, id="one-loop"),
        pytest.param(
            ["MOV R1, R2", "IADD3 R1, R1, R2", "HMMA.16816.F32 R1, R2, R3, R4", "@P0 BRA 0x20", "@P1 BRA 0x10", "EXIT"],
            2,
            id="the-inner-one",
        ),
        pytest.param(
            ["MOV R1, R2", "HMMA.16816.F32 R1, R2, R3, R4", "FADD R1, R1, R2", "@P0 BRA 0x20", "@P1 BRA 0x10", "EXIT"],
            4,
            id="that-around-one-without-tensor-work",
        ),
        pytest.param(
            ["MOV R1, R2", "@P0 BRA 0x40", "IADD3 R1, R1, R2", "EXIT", "MOV R3, R4", "BRA 0x20"],
            None,
            id="code-moved-behind-the-end-is-no-loop",
        ),
        pytest.param(
            [
                "MOV R1, R2",
                "HMMA.16816.F32 R1, R2, R3, R4",
                "@!P0 BRA 0x50",
                "@P1 BRA 0x10",
                "EXIT",
                "SYNCS.PHASECHK.TRYWAIT P0, [R1], R2",
                "@!P0 BRA 0x50",
                "BRA 0x30",
            ],
            6,
            id="waiting-inside-is-part-of-it",
        ),
    ],
)
def test_a_loop_is_a_jump_to_where_all_ways_to_it_have_passed(instructions, loop) -> None:
    assert assembly.columns(assembly.read(sass(*instructions)), 4).get("loop_instructions") == loop


@pytest.mark.parametrize(
    ("instruction", "unit", "width"),
    [
        ("LDG.E.128 R4, desc[UR4][R2.64]", "global load", "16"),
        ("LDG.E.U8 R4, desc[UR4][R2.64]", "global load", "1"),
        ("LDGSTS.E.BYPASS.LTC128B.128 [R9], desc[UR4][R2.64]", "async copy", "16"),
        ("UTMALDG.2D [UR8], [UR4]", "TMA", None),
        ("LDL.64 R4, [R1]", "local memory", None),
        ("MUFU.EX2 R4, R5", "special function", None),
        ("F2FP.BF16.F32.PACK_AB R4, R5, R6", "conversion", None),
        ("BAR.SYNC.DEFER_BLOCKING 0x0", "wait", None),
        ("LDSM.16.M88.4 R4, [R5]", "shared memory", None),
        ("QGMMA.64x128x32.F32.E4M3.E4M3 R24, gdesc[UR8], R24", "wgmma", None),
        ("IMAD R1, R2, R3, R4", "other", None),
    ],
)
def test_each_instruction_of_sass_has_its_unit(instruction, unit, width) -> None:
    found = assembly.columns(assembly.read(sass(instruction)), 4)
    assert found["mix"] == [(unit, 1)]
    assert found["loads"] == ([(width, 1)] if width else [])


@pytest.mark.parametrize(
    ("instruction", "unit", "width"),
    [
        ("buffer_load_dwordx4 v[1:4], v1, s[0:3], 0 offen", "global load", "16"),
        ("buffer_load_dwordx4 v1, s[0:3], 0 offen lds", "async copy", "16"),
        ("global_load_ushort v1, v[2:3], off", "global load", "2"),
        ("scratch_store_dword off, v1, s0", "local memory", None),
        ("ds_bpermute_b32 v1, v2, v3", "exchange", None),
        ("ds_read_b128 v[1:4], v5", "shared memory", None),
        ("v_exp_f32_e32 v1, v2", "special function", None),
        ("s_waitcnt vmcnt(0)", "wait", None),
        ("v_mfma_f32_16x16x32_fp8_fp8 v[0:3], v[4:5], v[6:7], v[0:3]", "mfma", None),
    ],
)
def test_each_instruction_of_amd_has_its_unit(instruction, unit, width) -> None:
    text = f'.amdgcn_target "amdgcn-amd-amdhsa--gfx942"\nk:\n\t{instruction}\n\t.amdhsa_kernel k\n'
    found = assembly.columns(assembly.read(text), 4)
    assert found["mix"] == [(unit, 1)]
    assert found["loads"] == ([(width, 1)] if width else [])


LINES = """//--------------------- .text.k
	//## File "/made/here/triton/language/standard.py", line 43 inlined at "/made/here/kernel.py", line 7
	//## File "/made/here/kernel.py", line 7
        /*0000*/                   MOV R1, R2 ;
        /*0010*/                   LDG.E R4, desc[UR4][R2.64] ;
	//## File "/made/here/helper.py", line 9
        /*0020*/                   LDL R4, [R1] ;
	//## File "/made/here/triton/language/standard.py", line 50
        /*0030*/                   EXIT ;
"""
LOC = """\t.file\t1 "/made/here" "kernel.py"
\t.file\t2 "/made/here/triton/language" "standard.py"
k:
\tv_mov_b32_e32 v1, v2
\t.loc\t2 43 17 is_stmt 0        ; standard.py:43:17 @[ kernel.py:7:30 ]
\tv_add_f32_e32 v1, v1, v2
\t.loc\t1 0 0                    ; :0:0
\tglobal_load_dword v1, v[2:3], off
\t.loc\t1 9 3                    ; kernel.py:9:3
\tv_writelane_b32 v1, s2, 0
"""


def test_each_instruction_comes_from_a_line_of_the_kernel_and_not_of_what_it_calls_of_triton() -> None:
    nvidia = assembly.read(sass("MOV R1, R2", "LDG.E R4, desc[UR4][R2.64]", "LDL R4, [R1]", "@P0 EXIT") + LINES)
    assert [str(one.place) for one in nvidia.instructions] == [
        *["kernel.py:7"] * 2,
        "helper.py:9",
        "standard.py:50",  # nothing says who calls it
    ]
    assert (nvidia.instructions[0].place.file, nvidia.instructions[3].text) == ("/made/here/kernel.py", "@P0 EXIT")
    amd = assembly.read(f'.amdgcn_target "amdgcn-amd-amdhsa--gfx942"\n{LOC}\t.amdhsa_kernel k\n')
    assert [str(one.place) for one in amd.instructions] == ["None", "kernel.py:7", "kernel.py:7", "kernel.py:9"]
    found = assembly.columns(amd, 4)
    assert found["narrow_lines"] == found["load_lines"] == [("kernel.py:7", 1)]
    assert found["spill_lines"] == [("kernel.py:9", 1)]


@pytest.mark.parametrize("text", ["", "PTX", sass().replace("code", "none"), SASS.format("") * 2], ids=range(4))
def test_a_listing_that_cannot_be_read_is_one_sentence(text) -> None:
    with pytest.raises(UserError, match=r"compile it again|not of a known assembler"):
        assembly.read(text)
