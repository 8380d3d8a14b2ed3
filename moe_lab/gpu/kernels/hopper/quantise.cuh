// SPDX-License-Identifier: Apache-2.0
// Numbers to e4m3 and back: x before the first tile, hidden activations in w13's epilogue, and the sums of each step by
// the scales of its weights and rows. Numbers of 128 features share a scale, so that the largest becomes 448.

// Where the scale of a tile's row lies: a thread's columns, of two blocks of eight, are next to one another.
__device__ inline int scale_place(int row) {
    return (row & ~15) | (row & 6) << 1 | (row & 8) >> 2 | (row & 1);
}

// The multiplying warps have their share of x done: gathering warps go on, of this block or, if they are counted, of all.
__device__ inline void tell_quantised(const Arguments& a) {
    if (!a.quantisers) {
        announce<2, CONSUMERS + GATHERERS>();
        return;
    }
    __syncwarp();
    if ((threadIdx.x & 31) == 0) count_one(a.done + E + 2);
}

// The largest of each of n columns among the eight lanes that hold rows of it: lanes trade halves of what they have.
// Leaves (n + 7) / 8 in `most`: columns from `column` on, below `end`; places past that hold 0.
template <int n, int distance>
__device__ inline void largest_of_rows(float* most, int& column, int& end) {
    constexpr int kept = (n + 1) / 2;
    const bool upper = threadIdx.x & distance;
    #pragma unroll
    for (int i = 0; i < kept; i++) {
        const float low = most[i], high = i + kept < n ? most[i + kept] : 0.0f;
        most[i] = fmaxf(upper ? high : low, __shfl_xor_sync(ALL, upper ? low : high, distance));
    }
    if (!upper) end = min(end, column + kept);
    column += upper ? kept : 0;
    if constexpr (distance > 4) largest_of_rows<kept, distance / 2>(most, column, end);
}

#if FP8

// Sixteen lanes make a group: [M, k13] of 16 bits to [M, row_bytes(panels13)]. The multiplying warps have time to do so
// until the first weights are there; gathering warps wait until those of all blocks are done. Few tokens are done
// by every block for itself, which is quicker than to wait for others.
__device__ inline void quantise_rows(const Arguments& a, const char* from, int tokens) {
    constexpr int AT_ONCE = 4;
    const int lane = threadIdx.x & 15, groups = tokens * a.panels13, part = threadIdx.x >> 4;
    const int apart = (a.quantisers ? gridDim.x : 1) * (CONSUMERS / 16);
    char* rows = (char*)a.x;
    for (int first = (a.quantisers ? blockIdx.x * (CONSUMERS / 16) : 0) + part; first - (part & 1) < groups;
         first += AT_ONCE * apart) {
        uint4 in[AT_ONCE];
        #pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int group = first + i * apart;
            in[i] = group < groups ? ((const uint4*)from)[(u64)group * 16 + lane] : make_uint4(0, 0, 0, 0);
        }
        #pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int group = first + i * apart;
            const float2 v[4] = {unpack(in[i].x), unpack(in[i].y), unpack(in[i].z), unpack(in[i].w)};
            float largest = 0.0f;
            #pragma unroll
            for (int j = 0; j < 4; j++) largest = fmaxf(largest, fmaxf(fabsf(v[j].x), fabsf(v[j].y)));
            #pragma unroll
            for (int distance = 8; distance; distance /= 2)
                largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, distance));
            const float inverse = inverse_of(largest);
            u32 out[2];
            #pragma unroll
            for (int j = 0; j < 2; j++)
                out[j] = to_e4m3(v[2 * j].x * inverse, v[2 * j].y * inverse)
                    | (u32)to_e4m3(v[2 * j + 1].x * inverse, v[2 * j + 1].y * inverse) << 16;
            if (group >= groups) continue;
            const int token = group / a.panels13, step = group - token * a.panels13;
            char* row = rows + (u64)token * row_bytes(a.panels13);
            *(uint2*)(row + step * 128 + lane * 8) = make_uint2(out[0], out[1]);
            if (lane == 0) *(float*)(row + a.panels13 * 128 + step * 4) = scale_of(largest);
        }
    }
    tell_quantised(a);
}

// The scales of a thread's columns.
template <int N>
__device__ inline void read_scales(float4 (&scales)[(N + 15) / 16], const float* rows) {
    #pragma unroll
    for (int i = 0; i < (N + 15) / 16; i++) scales[i] = ((const float4*)(rows + 4 * (threadIdx.x & 3)))[4 * i];
}

// Adds the products of a step, of 16 rows by N columns a warp, each by the scale of its weight rows and of its column.
template <int N>
__device__ inline void add_scaled(
    float (&acc)[N / 2], const float (&product)[N / 2], const float4 (&scales)[(N + 15) / 16], float2 unit) {
    #pragma unroll
    for (int j = 0; j < N / 8; j++) {
        const float4 four = scales[j / 2];
        const float first = j & 1 ? four.z : four.x, second = j & 1 ? four.w : four.y;
        acc[4 * j] += product[4 * j] * (first * unit.x);
        acc[4 * j + 1] += product[4 * j + 1] * (second * unit.x);
        acc[4 * j + 2] += product[4 * j + 2] * (first * unit.y);
        acc[4 * j + 3] += product[4 * j + 3] * (second * unit.y);
    }
}

#if !ROWS

__device__ inline void wait_for_consumers() { asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS) : "memory"); }

// w13: a tile has all features of a group. Their largest is found over both warpgroups, then rows go out by way of shared
// memory, 16 bytes a thread.
template <int N>
__device__ inline void store_hidden_e4m3(
    const Arguments& a, const Tile& t, const Pair* pairs, float (&acc)[MBLK][N / 2], int group) {
    Shared& s = shared();
    constexpr int CHUNKS = 4 * MBLK, STORED = CHUNKS * 16; // of a row of the tile; bytes
    const u32 bytes = row_bytes(a.panels2, HIDDEN_GROUPS);
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5 & 3;
    float most[N / 4];
    #pragma unroll
    for (int i = 0; i < N / 4; i++) {
        const int at = i / 2 * 4 + i % 2;
        most[i] = 0.0f;
        #pragma unroll
        for (int b = 0; b < MBLK; b++) {
            acc[b][at] = gated(acc[b][at], acc[b][at + 2]);
            most[i] = fmaxf(most[i], fabsf(acc[b][at]));
        }
    }
    int column = 0, end = N / 4;
    largest_of_rows<N / 4, 16>(most, column, end);
    #pragma unroll
    for (int i = 0; i < (N / 4 + 7) / 8; i++) {
        const int at = (column + i) / 2 * 8 + 2 * (lane & 3) + (column + i) % 2;
        if (column + i < N / 4) atomicMax(&s.largest[at], __float_as_uint(most[i]));
    }
    wait_for_consumers();
    if (thread < N) {
        const float largest = __uint_as_float(s.largest[thread]);
        s.largest[thread] = 0;
        s.inverse[scale_place(thread)] = inverse_of(largest);
        const u32 pair = pairs[thread];
        if (thread < t.valid && pair < a.numel)
            *(float*)(a.hidden + (u64)pair * bytes + a.panels2 * 128 + t.unit * 4) = scale_of(largest);
    }
    wait_for_consumers();
    // Features of a warp's 16: neighbouring ones are in two blocks, or in two warpgroups.
    const int chunk = MBLK == 2 ? group * 4 + warp : warp, within = (lane >> 2) * 2 + (MBLK == 2 ? 0 : group);
    float4 inverse[(N + 15) / 16];
    read_scales<N>(inverse, s.inverse);
    #pragma unroll
    for (int i = 0; i < N / 4; i++) {
        const int j = i / 2, c = i % 2, row = 8 * j + 2 * (lane & 3) + c, at = 4 * j + c;
        const float4 four = inverse[j / 2];
        const float by = j & 1 ? (c ? four.w : four.z) : (c ? four.y : four.x);
        const unsigned short two = to_e4m3(acc[0][at] * by, MBLK == 2 ? acc[MBLK - 1][at] * by : 0.0f);
        char* to = s.rows + row * STORED + ((chunk ^ (row & (CHUNKS - 1))) << 4) + within;
        if (MBLK == 2) *(unsigned short*)to = two;
        else *to = (char)two;
    }
    wait_for_consumers();
    for (int row = thread / CHUNKS; row < t.valid; row += CONSUMERS / CHUNKS) {
        const u32 pair = pairs[row];
        const int chunk = thread % CHUNKS;
        if (pair < a.numel)
            *(uint4*)(a.hidden + (u64)pair * bytes + t.unit * STORED + chunk * 16) =
                *(const uint4*)(s.rows + row * STORED + ((chunk ^ (row & (CHUNKS - 1))) << 4));
    }
}

#endif
#endif
