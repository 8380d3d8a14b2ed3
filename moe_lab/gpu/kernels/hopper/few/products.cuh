// SPDX-License-Identifier: Apache-2.0
// What a warp does with an item: 16 weight rows by 128 columns, times the tokens.

__device__ inline void multiply(float (&sums)[4], const u32 (&weights)[4], u32 low, u32 high) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(weights[0]), "r"(weights[1]), "r"(weights[2]), "r"(weights[3]), "r"(low), "r"(high));
}

// Adds an item's products to sums, of which there are two sets, so that a product waits for the last but one.
__device__ inline void multiply_item(float (&sums)[2][4], u32 slot, int lane, bool whole, const uint4 (&tokens)[4]) {
    u32 scales[SCALE_WORDS];
    load_words(scales, slot + (lane >> 2) * SCALE_WORDS * 4);
    Scale rows[2];
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        if (half && !whole) break;
        u32 words[4];
        load_words(words, slot + 32 * SCALE_WORDS + half * 512 + lane * 16);
        #pragma unroll
        for (int p = 0; p < 4; p++) {
            const int part = half * 4 + p;
            if (part * 16 % GROUP == 0) read_scales(rows, scales, part * 16 / GROUP);
            u32 wide[4];
            widen(wide, words[p], rows);
            const uint4& x = tokens[part / 2];
            multiply(sums[p & 1], wide, p & 1 ? x.z : x.x, p & 1 ? x.w : x.y);
        }
    }
}
