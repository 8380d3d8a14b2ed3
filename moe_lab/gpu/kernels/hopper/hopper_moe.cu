// SPDX-License-Identifier: Apache-2.0
// Both GEMMs of an experts layer in one launch of persistent, warp-specialised blocks (Hopper: wgmma, bulk copies).
//
// The product is taken the other way round, y^T = w x^T: weights are the 64 rows of a wgmma and tokens its columns,
// which go in steps of eight. So an expert's tokens are padded to 8 or 16, not to 64 or 128, and all M take one path.
//
// A tile is MBLK * 128 weight rows by up to MAX_N tokens of one expert. A block first does every gridDim-th w13 tile,
// then takes w2 tiles from a counter as it gets to them, so that all end together whatever a tile costs. Weights depend
// on nothing that is computed here, so the warp that fetches them runs ahead by as many stages as fit, across tiles and
// from w13 into w2; only the warps that gather rows of the hidden activations wait until the tiles of that expert are
// done. All blocks run at the same time.
// Weights are stored as they are used: 128 rows by 128 bytes after one another, swizzled (see prepare.py), so a copy is one
// piece.
//
// Threads: two warpgroups multiply (multiply.cuh, rows.cuh, epilogue.cuh, quantise.cuh), two fetch: one warp the weights
// (weights.cuh), up to seven the rows (gather.cuh); with ROWS four do, and three take the sums out (drain.cuh). Before that all of
// them find out which pairs are whose (sort.cuh) and so which tiles there are (tiles.cuh).
//
// Compile-time: MBLK (1 or 2), MAX_N, STEP, STAGES, TOPK, E, MOST_PAIRS (0: sorted pairs are given; else as many as it
// sorts itself at most), KEEP_Y (the L2 cache is told to keep rows of y), HALF (x and y are fp16, else bf16), FP8 (weights
// and what they are multiplied with are e4m3), WIDEN and GROUP (weights have four or eight bits, see widen.cuh), INTEGERS
// (activations have eight bits too, see integers.cuh), ROWS (tokens are the rows of a wgmma, see rows.cuh), BLOCK_QUANTISES,
// SWIGLUOAI, ALPHA, LIMIT, ID (type of topk_ids), SHARED (bytes that the launch asks for). wgmma<N>(), wgmma_first<N>() and
// FOR_EACH_N(X) precede this text.

#include "stored.cuh"
#include "layout.cuh"
#include "ptx.cuh"
#include "registers.cuh"
#include "../numbers.cuh"
#include "tiles.cuh"
#include "sort.cuh"
#include "gate.cuh"
#include "quantise.cuh"
#include "integers.cuh"
#include "epilogue.cuh"
#include "rows.cuh"
#include "drain.cuh"
#include "widen.cuh"
#include "multiply_widened.cuh"
#include "multiply.cuh"
#include "weights.cuh"
#include "gather.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 1) hopper_moe(
    const char* x, const char* w13, const char* w2, char* hidden, char* y, const float* topk_weights,
    const ID* topk_ids, const int* sorted_token_ids, const int* expert_ids, const int* num_tokens_post_padded,
    u32* done, char* quantised,
    int numel, int rows13, int columns, int k13, int k2, int given_bytes, int first_phase, int last_phase) {
    Shared& s = shared();
    const int thread = threadIdx.x, lane = thread & 31;

    if (thread == THREADS - 1 && first_phase == 0) prefetch_early(w13, topk_ids, numel, rows13 / 128, (k13 / PANEL + PANELS - 1) / PANELS);
    // The launch that sums up the rows will want the router's weights.
    for (int i = (blockIdx.x * THREADS + thread) * 32; i < numel; i += gridDim.x * THREADS * 32)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(topk_weights + i));
    if (thread == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&s.full[i], 1 + GATHERERS);
            barrier_init(&s.empty[i], CONSUMERS / 32);
        }
        s.ended[0] = s.ended[1] = 0;
#if ROWS
        barrier_init(&s.handed, CONSUMERS / 32);
        barrier_init(&s.drained, DRAINERS / 32);
#elif FP8
        for (int i = 0; i < SCALES; i++) s.largest[i] = 0;
#endif
#if ROWS
        for (int i = 0; i < RING; i++) s.numbers[i] = ~0u;
#else
        for (int i = 0; i < RING; i++) s.taken[i] = ~0ull;
#endif
        publish_barriers();
    }
#if MOST_PAIRS
    sort_pairs(topk_ids, numel);
    const Pair* sorted = s.sorted;
#else
    find_groups(expert_ids, *num_tokens_post_padded / 8);
    const Pair* sorted = sorted_token_ids;
#endif
    __syncthreads();

    const int groups = numel / TOPK * (k13 / PANEL);
    const bool given = FP8 && given_bytes, alone = !given && groups <= BLOCK_QUANTISES; // given: x is quantised already
    if (QUANTISES && alone) quantised += (u64)blockIdx.x * (numel / TOPK) * row_bytes(k13 / PANEL);
    const Arguments a = {QUANTISES ? quantised : x, w13, w2, hidden, y, sorted, done,
                         numel, rows13 / 128, (columns + 127) / 128, k13 / PANEL, k2 / PANEL, columns,
                         first_phase < last_phase, given, given ? given_bytes : row_bytes(k13 / PANEL),
                         QUANTISES && !first_phase && !alone && !given ? gridDim.x * (CONSUMERS / 32) : 0};
    const int units13 = (a.units13 + MBLK - 1) / MBLK, units2 = (a.units2 + MBLK - 1) / MBLK;
    const int tiles13 = first_phase ? 0 : s.total * units13, skipped = first_phase ? s.total * units13 : 0;
    const Order order{tiles13, tiles13 + (last_phase ? s.total * units2 : 0)};
    const Block block{a, units13, units2, skipped, order};
    if (thread < CONSUMERS) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
#if FP8
        if (!first_phase && !given) quantise_rows(a, x, numel / TOPK);
#elif INTEGERS
        if (!first_phase) quantise_tokens(a, x, numel / TOPK);
#endif
        multiply_tiles(block);
    } else {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(256 - CONSUMER_REGISTERS));
        if (thread < CONSUMERS + 32) {
            if (lane == 0) fetch_weights(block);
#if ROWS
        } else if (thread >= THREADS - DRAINERS) {
            drain_tiles(block);
#endif
        } else {
            gather_rows(block);
        }
    }
}
