// SPDX-License-Identifier: Apache-2.0
// What a warp does with an item: 16 weight rows by 128 columns, times the tokens.

__device__ inline float2 load_pair(u32 from) {
    u32 words[2];
    load_words(words, from);
    return make_float2(__uint_as_float(words[0]), __uint_as_float(words[1]));
}

// What the sums of a group are multiplied by in rows r and r + 8, and 8 times its zero points, less 128.
struct GroupScale {
    float by[2], zero[2];

    __device__ GroupScale(const u32 (&words)[SCALE_WORDS], int group) {
        #pragma unroll
        for (int h = 0; h < 2; h++) {
#if WIDEN == E2M1 && GROUP == 32
            by[h] = __uint_as_float(__byte_perm(words[h * GROUPS / 4 + group / 4], 0, 0x4044 | (group & 3) << 8) << 7);
#elif WIDEN == E2M1
            Scale rows[2];
            read_scales(rows, words, group);
            by[h] = __uint_as_float(rows[h].by & 0xffff0000);
#else
            constexpr int EACH = SCALE_WORDS / GROUPS;
            const u32 scale = words[group * EACH], add = words[group * EACH + EACH - 1];
            by[h] = __uint_as_float(h ? scale & 0xffff0000 : scale << 16);
            if (WIDEN == INT4_ZEROS) {
                by[h] *= power_of_two(100);
                zero[h] = -128.0f - __uint_as_float(h ? add & 0xffff0000 : add << 16);
            }
#endif
        }
    }
};

// Adds an item's products to a thread's sums. `factors_at`: of its two columns.
__device__ inline void multiply_item(
    float (&total)[4], u32 words_at, u32 scales_at, u32 factors_at, bool whole, const u32 (&tokens)[4][4]) {
    constexpr int CHAINS = GROUP >= 64 ? 2 : 1; // so that a product waits for the last but one
    u32 scales[SCALE_WORDS];
    load_words(scales, scales_at);
    float acc[4] = {}, sums[CHAINS][4];
    const auto fold = [&](int group) {
        const GroupScale scale(scales, group);
        float2 less = make_float2(0.0f, 0.0f);
        if (SUMS) less = load_pair(factors_at + (1 + group) * WIDTH * 4);
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            float sum = sums[0][j] + (CHAINS == 2 ? sums[CHAINS - 1][j] : 0.0f);
            if (SUMS) sum -= (j & 1 ? less.y : less.x) * (WIDEN == INT4_ZEROS ? scale.zero[j >> 1] : 1.0f);
            acc[j] += sum * scale.by[j >> 1];
        }
    };
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        if (half && !whole) break;
        u32 words[4];
        load_words(words, words_at + half * 512);
        #pragma unroll
        for (int p = 0; p < 4; p++) {
            const int part = half * 4 + p;
            if (part * 16 % GROUP == 0) {
                #pragma unroll
                for (int j = 0; j < 4; j++) sums[0][j] = sums[CHAINS - 1][j] = 0.0f;
            }
            u32 bits[4];
            #pragma unroll
            for (int j = 0; j < 4; j++) bits[j] = bits_of(words[p], j);
            multiply(sums[p % CHAINS], bits, tokens[part / 2][p % 2 * 2], tokens[part / 2][p % 2 * 2 + 1]);
            if (GROUP < 128 && (part + 1) * 16 % GROUP == 0) fold(part * 16 / GROUP);
        }
    }
    if (GROUP == 128) fold(0);
    const float2 by = load_pair(factors_at);
    #pragma unroll
    for (int j = 0; j < 4; j++) total[j] += acc[j] * (j & 1 ? by.y : by.x);
}
