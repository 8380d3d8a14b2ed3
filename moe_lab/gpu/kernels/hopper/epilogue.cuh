// SPDX-License-Identifier: Apache-2.0
// What becomes of the sums of a tile: gates and ups to hidden activations (w13), features to rows of y (w2).
//
// A thread holds rows lane / 4 and lane / 4 + 8 of its warp's 16 in each block, and columns 8 j + 2 (lane % 4) + c. Python
// orders weight rows so that those are neighbouring features (w2), or gates above ups (w13).

// Scales or biases of rows r and r + 8 of a thread in each block.
struct OfRows {
    float2 of[MBLK];

    // LAST: 1 = the last numbers of the expert's units, 2 = those before. Past the last unit: any, of what is never stored.
    template <int LAST>
    __device__ void read(const char* expert_end, int units, const Tile& t, int group) {
        const int warp = threadIdx.x >> 5 & 3, row = (threadIdx.x & 31) >> 2;
        const int unit = min(MBLK == 2 ? 2 * t.unit + group : t.unit, units - 1), block = MBLK == 2 ? 0 : group;
        const char* from = expert_end - FACTOR_BYTES - LAST * units * 512 + (((unit * 2 + block) * 4 + warp) * 8 + row) * 8;
        #pragma unroll
        for (int b = 0; b < MBLK; b++)
            asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(of[b].x), "=f"(of[b].y) : "l"(from + b * 256));
    }

    template <int N>
    __device__ void add(float (&acc)[MBLK][N / 2]) const {
        #pragma unroll
        for (int b = 0; b < MBLK; b++)
            #pragma unroll
            for (int i = 0; i < N / 2; i++) acc[b][i] += i & 2 ? of[b].y : of[b].x;
    }

    template <int N>
    __device__ void scale(float (&acc)[MBLK][N / 2]) const {
        #pragma unroll
        for (int b = 0; b < MBLK; b++)
            #pragma unroll
            for (int i = 0; i < N / 2; i++) acc[b][i] *= i & 2 ? of[b].y : of[b].x;
    }
};

__device__ inline uint2 two_pairs(const Pair* p) {
#if MOST_PAIRS
    return make_uint2(p[0], p[1]);
#else
    return *(const uint2*)p;
#endif
}

// Calls each(i, pair, stored) for the columns of a thread: i is where its accumulators of the column begin.
template <int N, class Each>
__device__ inline void for_columns(const Pair* pairs, int inside, u32 numel, Each each) {
    #pragma unroll
    for (int j = 0; j < N / 8; j++) {
        const uint2 two = two_pairs(pairs + 8 * j);
        #pragma unroll
        for (int c = 0; c < 2; c++) {
            const u32 pair = c ? two.y : two.x;
            each(4 * j + c, pair, 8 * j + c < inside && pair < numel);
        }
    }
}

// w13: a pair's row of hidden activations, one or two neighbouring features a column.
template <int N>
__device__ inline void store_hidden(
    const Arguments& a, const Tile& t, const Pair* pairs, const float (&acc)[MBLK][N / 2], int group) {
    const int thread = threadIdx.x & 127, lane = threadIdx.x & 31, warp = thread >> 5;
    const int unit = MBLK == 2 ? 2 * t.unit + group : t.unit, block = MBLK == 2 ? 0 : group;
    const int column = 2 * (lane & 3), inside = unit < a.units13 ? t.valid - column : 0;
    const u32 row_bytes = hidden_row_bytes(a.panels2);
#if INTEGERS
    float most[N / 4];
#endif
    char* to = a.hidden + (unit * 64 + warp * 16 + (lane >> 2) * 2 + block) * 2;
    asm volatile("" : "+l"(to)); // else ptxas adds the base to every address anew
    for_columns<N>(pairs + column, inside, a.numel, [&](int i, u32 pair, bool stored) {
        const float first = gated(acc[0][i], acc[0][i + 2]);
#if INTEGERS
        most[i / 4 * 2 + i % 2] = fabsf(first);
#endif
        if (MBLK == 2) {
            const float second = gated(acc[MBLK - 1][i], acc[MBLK - 1][i + 2]);
#if INTEGERS
            most[i / 4 * 2 + i % 2] = fmaxf(fabsf(first), fabsf(second));
#endif
            if (stored) store(row_of(to, pair, row_bytes), pack(first, second));
        } else if (stored) {
            store(row_of(to, pair, row_bytes), (unsigned short)pack(first, first));
        }
    });
#if INTEGERS
    // A unit has four places of warps with two blocks each, or eight of warps with one.
    store_largest<N>(most, a.hidden + a.panels2 * 128 + (unit * HIDDEN_GROUPS * 4 + block * 4 + warp) * 4, pairs,
                     unit < a.units13 ? t.valid : 0, a.numel, row_bytes);
#endif
}

// w2: a pair's row of y, two or four neighbouring features a column.
template <int N>
__device__ inline void store_rows(
    const Arguments& a, const Tile& t, const Pair* pairs, const float (&acc)[MBLK][N / 2], int group) {
    const int thread = threadIdx.x & 127, lane = threadIdx.x & 31, warp = thread >> 5;
    const int unit = MBLK == 2 ? 2 * t.unit + group : t.unit, block = MBLK == 2 ? 0 : group;
    const int feature = unit * 128 + warp * 32 + (lane >> 2) * 4 + block * 2;
    const int column = 2 * (lane & 3), inside = feature < a.columns ? t.valid - column : 0;
    const u32 row_bytes = a.columns * 2;
    const u64 keep = evict_last();
    char* to = a.y + feature * 2;
    asm volatile("" : "+l"(to));
    for_columns<N>(pairs + column, inside, a.numel, [&](int i, u32 pair, bool stored) {
        const u32 first = pack(acc[0][i], acc[0][i + 2]);
        if (MBLK == 2) {
            const u32 second = pack(acc[MBLK - 1][i], acc[MBLK - 1][i + 2]);
            if (stored) store_y(row_of(to, pair, row_bytes), make_uint2(first, second), keep);
        } else if (stored) {
            store_y(row_of(to, pair, row_bytes), first, keep);
        }
    });
}
