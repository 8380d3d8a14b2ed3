// SPDX-License-Identifier: Apache-2.0
// The product of a tile, by two warpgroups: weights are the 64 rows of a wgmma and tokens its N columns.

#if FP8

// A step has two parts: two blocks of weights, or, of hidden activations in groups of 64 (HALVED), two halves. Products of a
// part are sums of their own, since those of a wgmma keep few bits and each part has other scales. HALVED is known where the
// loop is compiled: else ptxas lets every product end before the next.
template <int N, bool HALVED>
__device__ inline void multiply_e4m3(
    float (&acc)[MBLK][N / 2], const Tile& t, int group, int steps, int& stage, u32& parity) {
    Shared& s = shared();
    const int lane = threadIdx.x & 31;
    float product[1][N / 2];
    float4 scales[(N + 15) / 16];
    const int unit = 2 * (MBLK == 2 ? group : t.unit & 1);
    for (int k = 0; k < steps; k++) {
        wait(&s.full[stage], parity);
        const u32 w = descriptor(weights_at(stage) + group * MBLK * 8192), x = descriptor(tokens_at(stage));
        const float2 by = *(const float2*)(s.unit_scales[stage] + unit);
        #pragma unroll
        for (int part = 0; part < 2; part++) {
            if (MBLK == 1 && part && !HALVED) break;
            const u32 w_part = w + (MBLK == 2 ? part * 512 : part * 4), x_part = x + (MBLK == 2 ? 0 : part * 4);
            pin<N>(product);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
            wgmma_first<N>(product[0], w_part, x_part);
            wgmma<N>(product[0], w_part + 2, x_part + 2);
            if (!HALVED) {
                wgmma<N>(product[0], w_part + 4, x_part + 4);
                wgmma<N>(product[0], w_part + 6, x_part + 6);
            }
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            pin<N>(product);
            // The scales of few columns stay in registers for both blocks.
            const float* rows = s.row_scales[stage][MBLK == 2 ? 0 : part];
            if (N <= 80 && (MBLK == 1 || part == 0)) read_scales<N>(scales, rows);
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            pin<N>(product);
            if (N > 80) read_scales<N>(scales, rows);
            add_scaled<N>(acc[MBLK == 2 ? part : 0], product[0], scales, by);
        }
        __syncwarp();
        if (lane == 0) arrive(&s.empty[stage]);
        if (++stage == STAGES) { stage = 0; parity ^= 1; }
    }
}

#endif

// One tile: its sums [MBLK * 64 rows of the group, N] stay in registers until the epilogue stores them.
template <int N>
__device__ inline void multiply(
    const Block& block, const Tile& t, const Pair* pairs, [[maybe_unused]] const float* column_scales, int& stage, u32& parity) {
    Shared& s = shared();
    const Arguments& a = block.a;
    const int group = threadIdx.x >> 7, lane = threadIdx.x & 31;
    const int steps = a.steps(t.phase);
    float acc[MBLK][N / 2];
    #pragma unroll
    for (int b = 0; b < MBLK; b++)
        #pragma unroll
        for (int i = 0; i < N / 2; i++) acc[b][i] = 0.0f; // undefined, those of every N would stay alive
    [[maybe_unused]] const int units = t.phase ? a.units2 : a.units13;
    [[maybe_unused]] const char* expert_end = (t.phase ? a.w2 : a.w13) + (t.expert + 1) * expert_bytes(units, steps);
#if BIASES
    OfRows biases;
    biases.read<1>(expert_end, units, t, group); // added when all is multiplied
#endif
#if FP8
    if (MBLK == 1 && t.phase) multiply_e4m3<N, true>(acc, t, group, steps, stage, parity);
    else multiply_e4m3<N, false>(acc, t, group, steps, stage, parity);
#elif WIDEN
    multiply_widened<N>(a, t, acc, expert_end, units, group, stage, parity);
#else
    int previous = -1;
    for (int k = 0; k < steps; k++) {
        wait(&s.full[stage], parity);
        const u32 w = descriptor(weights_at(stage) + group * MBLK * 8192), x = descriptor(tokens_at(stage));
        pin<N>(acc);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        #pragma unroll
        for (int part = 0; part < 4; part++)
            #pragma unroll
            for (int b = 0; b < MBLK; b++)
                wgmma<N>(acc[b], w + b * 512 + part * 2, x + part * 2);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        pin<N>(acc);
        if (previous >= 0) {
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            if (lane == 0) arrive(&s.empty[previous]);
        }
        previous = stage;
        if (++stage == STAGES) { stage = 0; parity ^= 1; }
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    pin<N>(acc);
    if (lane == 0) arrive(&s.empty[previous]);
#endif
#if INTEGERS
    scale_columns<N>(acc, column_scales);
#endif
#if BIASES
    biases.add<N>(acc);
#endif
    if (t.phase) return store_rows<N>(a, t, pairs, acc, group);
#if FP8
    store_hidden_e4m3<N>(a, t, pairs, acc, group);
#else
    store_hidden<N>(a, t, pairs, acc, group);
#endif
    if (!a.fused) return;                 // with w2 in another launch nobody waits for the tile
    __syncwarp();
    if (lane == 0)
        asm volatile("red.release.cta.shared::cta.add.u32 [%0], 1;" ::"r"(shared_address(s.ended + group)) : "memory");
}

__device__ inline void multiply_tiles(const Block& block) {
    int stage = 0;
    u32 parity = 0;
#if ROWS
    u32 drained = 0;
#else
    int slot = 0;
#endif
    Tile t;
    for (int i = 0; block.next(i, t); i++) {
#if ROWS
        multiply_rows(block, t, stage, parity, drained);
#else
#if MOST_PAIRS
        const Pair* pairs = shared().sorted + t.row;
#else
        const Pair* pairs = shared().pairs[slot];
#endif
#if INTEGERS
        const float* column_scales = shared().column_scales[slot];
#else
        const float* column_scales = nullptr;
#endif
        slot = slot == RING - 1 ? 0 : slot + 1;
        switch (t.n) {
#define CASE(N) case N: multiply<N>(block, t, pairs, column_scales, stage, parity); break;
            FOR_EACH_N(CASE)
        }
#endif
    }
}
