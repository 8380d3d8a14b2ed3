// SPDX-License-Identifier: Apache-2.0
// Activations of eight bits: x and hidden rows become integers up to 127 with one scale a row, and are multiplied as bf16, which holds
// these exactly. Sums are multiplied by the scale of their column. The largest of a hidden row is known when all of w13's tiles of
// it are done: each warp that has features of a row leaves the largest of those behind it, and w2's gathering threads read them.

#if INTEGERS

constexpr float LARGEST_INTEGER = 127.0f;

__device__ inline float integer_scale(float largest) { return largest > 0.0f ? largest / LARGEST_INTEGER : 1.0f; }

// Of what integers are made from; finite, so that zeros stay zeros.
__device__ inline float integer_inverse(float largest) { return largest > 0.0f ? fminf(LARGEST_INTEGER / largest, 3e38f) : 1.0f; }

// To the next integer, the even one of two: of numbers this large the spacing is 1.
__device__ inline float rounded(float number) { return (number + 12582912.0f) - 12582912.0f; }

__device__ inline float largest_of(uint4 in, float largest) {
    const float2 v[4] = {unpack(in.x), unpack(in.y), unpack(in.z), unpack(in.w)};
    #pragma unroll
    for (int i = 0; i < 4; i++) largest = fmaxf(largest, fmaxf(fabsf(v[i].x), fabsf(v[i].y)));
    return largest;
}

// x [M, k13] to [M, row_bytes(panels13)], a warp a token; as in quantise_rows all blocks share the work, or each does all.
__device__ inline void quantise_tokens(const Arguments& a, const char* from, int tokens) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, chunks = a.panels13 * 8;
    const int first = a.quantisers ? warp * gridDim.x + blockIdx.x : warp, apart = (a.quantisers ? gridDim.x : 1) * (CONSUMERS / 32);
    for (int token = first; token < tokens; token += apart) {
        const uint4* row = (const uint4*)from + (u64)token * chunks;
        char* to = (char*)a.x + (u64)token * row_bytes(a.panels13);
        float largest = 0.0f;
        #pragma unroll 8
        for (int chunk = lane; chunk < chunks; chunk += 32) largest = largest_of(row[chunk], largest);
        #pragma unroll
        for (int distance = 16; distance; distance /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, distance));
        const float scale = integer_scale(largest);
        #pragma unroll 2
        for (int chunk = lane; chunk < chunks; chunk += 32) {
            const uint4 in = row[chunk];
            const float2 v[4] = {unpack(in.x), unpack(in.y), unpack(in.z), unpack(in.w)};
            u32 out[4];
            #pragma unroll
            for (int i = 0; i < 4; i++) out[i] = pack_bf16(rounded(v[i].x / scale), rounded(v[i].y / scale));
            ((uint4*)to)[chunk] = make_uint4(out[0], out[1], out[2], out[3]);
        }
        if (lane == 0) *(float*)(to + a.panels13 * 128) = scale;
    }
    tell_quantised(a);
}

// Sums by the scales of their columns.
template <int N>
__device__ inline void scale_columns(float (&acc)[MBLK][N / 2], const float* scales) {
    #pragma unroll
    for (int j = 0; j < N / 8; j++) {
        const float2 two = *(const float2*)(scales + 8 * j + 2 * (threadIdx.x & 3));
        #pragma unroll
        for (int b = 0; b < MBLK; b++)
            #pragma unroll
            for (int i = 0; i < 4; i++) acc[b][4 * j + i] *= i & 1 ? two.y : two.x;
    }
}

// w13: the largest of each column among a warp's features; `most` has those of a thread. `to`: where they lie in the first row.
template <int N>
__device__ inline void store_largest(
    float (&most)[N / 4], char* to, const Pair* pairs, int valid, u32 numel, u32 row_bytes) {
    int column = 0, end = N / 4;
    largest_of_rows<N / 4, 16>(most, column, end);
    #pragma unroll
    for (int i = 0; i < (N / 4 + 7) / 8; i++) {
        const int at = (column + i) / 2 * 8 + 2 * (threadIdx.x & 3) + (column + i) % 2;
        if (column + i >= end || at >= valid) continue;
        const u32 pair = pairs[at];
        if (pair < numel) store(row_of(to, pair, row_bytes), pack_bf16(0.0f, most[i])); // rounded as its number is
    }
}

// w2: hidden rows as integers into the stages. A row is begin_of(row) * 16 bytes from the first.
template <class Begin>
__device__ inline void gather_integers(const Arguments& a, const Tile& t, Begin begin_of, int slot, int& stage, u32& parity) {
    Shared& s = shared();
    const int g = threadIdx.x - CONSUMERS - 32, chunk = g & 7, first = g >> 3, panels = a.panels2;
    constexpr int AT_ONCE = ROWS_EACH <= 1 ? PANELS : 1; // panels that are loaded at once
    const int count = max(0, (t.n - first + ROWS_APART - 1) / ROWS_APART);
    wait(&s.empty[stage], parity ^ 1);    // so the tile's slot is free too
    u32 from[ROWS_EACH];
    float inverse[ROWS_EACH];
    #pragma unroll
    for (int i = 0; i < ROWS_EACH; i++) {
        const u32 begin = begin_of(first + i * ROWS_APART);
        from[i] = begin + chunk;
        float largest = 0.0f;
        for (int c = chunk; c < panels * HIDDEN_GROUPS; c += 8) {
            const uint4 in = load_written(row_of(a.hidden + panels * 128, begin + c, 16));
            largest = fmaxf(fmaxf(largest, fmaxf(__uint_as_float(in.x), __uint_as_float(in.y))),
                            fmaxf(__uint_as_float(in.z), __uint_as_float(in.w)));
        }
        #pragma unroll
        for (int distance = 4; distance; distance /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, distance));
        inverse[i] = integer_inverse(largest);
        if (chunk == 0 && i < count) s.column_scales[slot][first + i * ROWS_APART] = integer_scale(largest);
    }
#if !MOST_PAIRS
    for (int i = g; i < t.valid; i += GATHERERS) s.pairs[slot][i] = a.sorted[t.row + i];
#endif
    uint4 in[AT_ONCE][ROWS_EACH];
    const auto load = [&](int panel) {
        #pragma unroll
        for (int p = 0; p < AT_ONCE; p++) {
            if (p && panel + p >= panels) break;
            #pragma unroll
            for (int i = 0; i < ROWS_EACH; i++)
                if (i < count) in[p][i] = load_written(row_of(a.hidden + (panel + p) * 128, from[i], 16));
        }
    };
    load(0);
    for (int k = 0; k < panels; k += PANELS) {
        wait(&s.empty[stage], parity ^ 1);
        const u32 to = tokens_at(stage) + first * 128; // see gather_rows
        const u32 even = to + ((chunk ^ (first & 7)) << 4), odd = to + ((chunk ^ (first & 7) ^ (ROWS_APART & 4)) << 4);
        #pragma unroll
        for (int panel = 0; panel < PANELS; panel++) {
            if (panel && k + panel >= panels) break;
            if (panel && AT_ONCE == 1) load(k + panel);
            #pragma unroll
            for (int i = 0; i < ROWS_EACH; i++) {
                if (i >= count) continue;
                const uint4 now = in[AT_ONCE == 1 ? 0 : panel][i];
                const u32 words[4] = {now.x, now.y, now.z, now.w};
                u32 out[4];
                #pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float2 v = unpack(words[j]);
                    out[j] = pack_bf16(rounded(v.x * inverse[i]), rounded(v.y * inverse[i]));
                }
                store_shared((i & 1 ? odd : even) + panel * PANEL_BYTES + i * ROWS_APART * 128,
                             make_uint4(out[0], out[1], out[2], out[3]));
            }
        }
        publish_stores();
        arrive(&s.full[stage]);
        if (k + PANELS < panels) load(k + PANELS);
        if (++stage == STAGES) { stage = 0; parity ^= 1; }
    }
}

#endif
