// SPDX-License-Identifier: Apache-2.0
// The product of a tile whose weights have four or eight bits. A thread reads those that it needs as the first factor of a wgmma,
// widens them to bf16 in registers, and multiplies by tokens that lie in shared memory as ever. So some of a step's
// weights are widened while those before are multiplied.

#if WIDEN

// A product waits for the one before it that adds to the same sums, which takes longer than it does itself where its columns are
// few. So parts add to sums of their own in turn.
template <int N>
constexpr int SETS = N <= 16 ? 4 / MBLK : MBLK * N <= 48 ? 2 : 1;

template <int N>
constexpr int PARTS = MBLK == 1 && N <= 16 ? 4 : 2; // of 16 columns that are widened and multiplied at once

template <int N>
__device__ inline void multiply_widened(
    const Arguments& a, const Tile& t, float (&acc)[MBLK][N / 2], const char* expert_end, int units, int group, int& stage,
    u32& parity) {
    Shared& s = shared();
    const int warp = threadIdx.x >> 5 & 3, lane = threadIdx.x & 31, panels = a.panels(t.phase);
    // Used when all is multiplied.
#if WIDEN == INT8
    OfRows scales_of_rows;
    scales_of_rows.read<1 + BIASES>(expert_end, units, t, group);
#else
    float factor;
    asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(factor) : "l"(expert_end - FACTOR_BYTES));
#endif
    // A group has both blocks of its unit, or one of the one unit.
    const int unit = MBLK == 2 ? group * UNIT : 0, block = MBLK == 2 ? 0 : group;
    const u32 slab_at = unit + (block * 4 + warp) * SLAB_BYTES;
    const u32 words_at = slab_at + 32 * SCALE_WORDS + lane * 16;
    float sums[SETS<N>][MBLK][N / 2];
    #pragma unroll
    for (int i = 0; i < SETS<N> * MBLK * N / 2; i++) sums[0][0][i] = 0.0f;
    const auto pin_all = [&]() {
        #pragma unroll
        for (int i = 0; i < SETS<N>; i++) pin<N>(sums[i]);
    };
    u32 wide[2][PARTS<N>][MBLK][4];          // those that are multiplied, and the next ones
    u32 words[MBLK][4];
#if WIDEN != INT8
    const u32 scales_at = slab_at + (lane >> 2) * SCALE_WORDS * 4;
    u32 scales[MBLK][SCALE_WORDS];
#endif
    const auto load = [&](int first) {    // part of the step's eight
        const u32 from = weights_at(stage);
        #pragma unroll
        for (int b = 0; b < MBLK; b++) {
#if WIDEN == INT8
            #pragma unroll
            for (int p = first; p < first + PARTS<N>; p++) {
                if (p % 2 == 0) load_words(words[b], from + words_at + p * 256 + b * 4 * SLAB_BYTES);
                widen(wide[first / PARTS<N> & 1][p - first][b], words[b][p % 2 * 2], words[b][p % 2 * 2 + 1]);
            }
#else
            if (first == 0) load_words(scales[b], from + scales_at + b * 4 * SLAB_BYTES);
            if (first % 4 == 0) load_words(words[b], from + words_at + first * 128 + b * 4 * SLAB_BYTES);
            Scale rows[2];
            #pragma unroll
            for (int p = 0; p < PARTS<N>; p++) {
                if (p == 0 || (first + p) * 16 % GROUP == 0) read_scales(rows, scales[b], (first + p) * 16 / GROUP);
                widen(wide[first / PARTS<N> & 1][p][b], words[b][(first + p) % 4], rows);
            }
#endif
        }
    };
    const auto start = [&](int first) {
        const u32 x = descriptor(tokens_at(stage) + first / 4 * PANEL_BYTES) + first % 4 * 2;
        pin_all();
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        #pragma unroll
        for (int p = 0; p < PARTS<N>; p++)
            #pragma unroll
            for (int b = 0; b < MBLK; b++)
                wgmma_of<N>(sums[p % SETS<N>][b], wide[first / PARTS<N> & 1][p][b], x + p * 2);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        pin_all();
    };
    int previous = -1;
    const auto step = [&](int parts) {
        wait(&s.full[stage], parity);
        #pragma unroll
        for (int first = 0; first < parts; first += PARTS<N>) {
            load(first);
            start(first);
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory"); // the next ones' registers are free
            if (first == 0 && previous >= 0 && lane == 0) arrive(&s.empty[previous]);
        }
        previous = stage;
        if (++stage == STAGES) { stage = 0; parity ^= 1; }
    };
    for (int k = 0; k < panels / 2; k++) step(8);
    if (panels & 1) step(4);
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    pin_all();
    if (lane == 0) arrive(&s.empty[previous]);
    #pragma unroll
    for (int b = 0; b < MBLK; b++)
        #pragma unroll
        for (int i = 0; i < N / 2; i++) {
            #pragma unroll
            for (int set = 0; set < SETS<N>; set++) acc[b][i] += sums[set][b][i];
#if WIDEN != INT8
            acc[b][i] *= factor;
#endif
        }
#if WIDEN == INT8
    scales_of_rows.scale<N>(acc);
#endif
}

#endif
