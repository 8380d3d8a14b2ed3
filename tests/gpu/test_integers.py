"""Activations of eight bits in `hopper`: `integers.cuh` on the CPU, with the epilogue that leaves it the largest."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from builders import emulated

from moe_lab.gpu.formats import int8
from moe_lab.gpu.kernels.hopper import SOURCE, Shape, shared_bytes
from moe_lab.gpu.kernels.hopper.widened import macros as macros_of

HEADERS = ("tiles", "gate", "quantise", "integers", "epilogue")
# Their own instructions are not needed here: what is left of `asm volatile(...)` is nothing.
TEXT = """
#include "stored.cuh"
#include "ptx.cuh"
#include "layout.cuh"
#include "../numbers.cuh"
struct uint2 { u32 x, y; };
static uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
static u64 evict_last() { return 0; }
template <class V> void store_y(u64 to, V value, u64) { store(to, value); }
static struct { int x; } gridDim = {BLOCKS};
#define asm
#define volatile(...)
#define Block Launch
HEADERS

extern "C" __global__ void __launch_bounds__(THREADS, 1) quantised(
    const char* x, char* to, u32* done, int tokens, int panels) {
    Arguments a = {};
    a.x = to, a.done = done, a.panels13 = panels, a.quantisers = BLOCKS > 1 ? BLOCKS * CONSUMERS / 32 : 0;
    quantise_tokens(a, x, tokens);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) left(
    const float* sums, char* hidden, const Pair* pairs, int valid, int panels, int numel) {
    Arguments a = {};
    a.hidden = hidden, a.units13 = a.panels2 = panels, a.numel = numel;
    Tile t = {};
    t.valid = valid;
    for (t.unit = 0; t.unit * MBLK < panels; t.unit++) {
        float acc[MBLK][MAX_N / 2];
        memcpy(acc, sums + (t.unit * CONSUMERS + threadIdx.x) * MBLK * MAX_N / 2, sizeof(acc));
        store_hidden<MAX_N>(a, t, pairs, acc, threadIdx.x >> 7);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) gathered(
    char* hidden, const Pair* pairs, char* tokens, float* scales, int* slots, int valid, int panels, int numel) {
    Shared& s = shared();
    const int thread = threadIdx.x;
    if (thread == 0) for (int i = 0; i < STAGES; i++) barrier_init(&s.full[i], GATHERERS), barrier_init(&s.empty[i], 1);
    __syncthreads();
    Arguments a = {};
    a.hidden = hidden, a.sorted = pairs, a.panels2 = panels, a.numel = numel;
    Tile t = {};
    t.valid = valid, t.n = padded(valid);
    int stage = 0;
    u32 parity = 0;
    const auto begin_of = [&](int row) { return pairs[row < valid ? row : 0] * (hidden_row_bytes(panels) / 16); };
    const int g = thread - CONSUMERS - 32;
    if (g >= 0 && g < GATHERERS) gather_integers(a, t, begin_of, 1, stage, parity);
    __syncthreads();
    if (thread) return;
    for (int i = 0; i < (panels + 1) / 2; i++) if (!barrier(&s.full[i]).phase) abort();
    memcpy(tokens, raw + tokens_at(0), STAGES * PANELS * PANEL_BYTES);
    memcpy(scales, s.column_scales[1], MAX_N * 4);
#if !MOST_PAIRS
    for (int i = 0; i < valid; i++) slots[i] = s.pairs[1][i];
#endif
}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Kernels around the functions that are tested; the emulator looks for the other headers beside it."""
    folder = tmp_path_factory.mktemp("kernels") / "hopper"
    folder.mkdir()
    for name in ("stored", "ptx", "layout", "../numbers"):
        (folder / f"{name}.cuh").write_text((SOURCE.parent / f"{name}.cuh").read_text())
    path = folder / "integers.cu"
    path.write_text(TEXT.replace("HEADERS", "".join((SOURCE.parent / f"{name}.cuh").read_text() for name in HEADERS)))
    return path


def defined(shape, most_pairs=512, blocks=1):
    macros = {"MBLK": shape.units, "MAX_N": shape.max_n, "STEP": 8, "STAGES": shape.stages, "E": 8, "FP8": 0, "ROWS": 0}
    macros |= {"MOST_PAIRS": most_pairs, "HALF": 0, "KEEP_Y": 0, "BIASES": 0, "SWIGLUOAI": 0, "BLOCKS": blocks}
    macros |= {"SHARED": shared_bytes(shape, 8, most_pairs, "int8"), **dict(macros_of("int8"))}
    return tuple(macros.items())


@pytest.mark.parametrize("blocks", [1, 3], ids=["alone", "shared"])
def test_tokens_become_the_integers_of_the_format(blocks, source):
    tokens, K = 11, 320
    x = (torch.randn(tokens, K) * 4.0 ** torch.arange(-5, 6)[:, None]).bfloat16()
    x[3] = 0
    x[4] = torch.arange(K) % 255 - 127  # integers and halves of them
    x[5] = x[4] / 2
    found, done = torch.full((tokens, 2 * K + 16), 255, dtype=torch.uint8), torch.zeros(11, dtype=torch.int32)
    options = {"macros": defined(Shape(2, 40, 8, 4), blocks=blocks), "cooperative": True}
    emulated.launch(source, "quantised", blocks, 256, x, found, done, tokens, K // 64, **options)
    meant = int8.quantise_activations(x)
    assert torch.equal(found[:, : 2 * K].contiguous().view(torch.bfloat16).float(), meant.values.float())
    assert torch.equal(found[:, 2 * K : 2 * K + 4].contiguous().view(torch.float32), meant.scales)
    assert done[8 + 2] == (8 * blocks if blocks > 1 else 0)


@pytest.mark.parametrize("most_pairs", [512, 0], ids=["own-sort", "align"])
@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize(("max_n", "valid"), [(8, 3), (16, 16), (40, 33)])
def test_hidden_rows_become_integers_by_the_largest_of_all_their_tiles(max_n, valid, units, most_pairs, source):
    panels, numel = 5, 60  # five units of w13: the last tile of two has one
    N, shape = panels * 64, Shape(units, max_n, 8, 4)
    pairs = torch.randperm(numel)[:valid].to(torch.int16 if most_pairs else torch.int32)
    gate, up = torch.randn(2, max_n, N + 64) * 2.0 ** torch.randint(-3, 4, (2, max_n, 1))
    up[1] = 0
    tile, thread, block, i = torch.meshgrid(
        *map(torch.arange, (-(-panels // units), 256, units, max_n // 2)), indexing="ij"
    )
    group, warp, lane = thread // 128, thread // 32 % 4, thread % 32
    unit, odd = (2 * tile + group, block) if units == 2 else (tile, group)
    feature, column = unit * 64 + warp * 16 + lane // 4 * 2 + odd, i // 4 * 8 + lane % 4 * 2 + i % 2
    sums = torch.where(i // 2 % 2 == 1, up[column, feature], gate[column, feature]).contiguous()

    hidden = torch.full((numel, 2 * N + panels * 16 * (3 - units)), 255, dtype=torch.uint8)
    given = {"macros": defined(shape, most_pairs)}
    emulated.launch(source, "left", 1, 256, sums, hidden, pairs, valid, panels, numel, **given)
    meant = (torch.nn.functional.silu(gate) * up)[:valid, :N]
    rows = hidden[pairs.long()]
    stored = rows[:, : 2 * N].contiguous().view(torch.bfloat16)
    torch.testing.assert_close(stored.float(), meant, rtol=2**-7, atol=1e-6)
    largest = rows[:, 2 * N :].contiguous().view(torch.float32)
    assert torch.equal(largest.amax(1), stored.float().abs().amax(1))
    others = torch.ones(numel, dtype=torch.bool).index_fill(0, pairs.long(), False)
    assert (hidden[others] == 255).all()

    tokens, scales = torch.zeros(4, 2, max_n, 128, dtype=torch.uint8), torch.zeros(max_n)
    slots = torch.full((max_n,), -1, dtype=torch.int32)
    arguments = (hidden, pairs, tokens, scales, slots, valid, panels, numel)
    emulated.launch(source, "gathered", 1, 512, *arguments, **given)
    row, chunk = torch.arange(valid)[:, None], torch.arange(8)[None]
    panel = tokens.view(8, max_n, 8, 16)[:panels, row, chunk ^ row % 8]  # [panels, valid, 8, 16]
    found = panel.permute(1, 0, 2, 3).contiguous().view(torch.bfloat16).reshape(valid, N).float()
    expected = int8.quantise_activations(stored)
    assert torch.equal(scales[:valid, None], expected.scales)
    assert torch.equal(found, found.round())
    assert (stored.float() / expected.scales - found).abs().max() < 0.5 + 1e-4, "halves may go either way"
    if not most_pairs:
        assert torch.equal(slots[:valid], pairs)
