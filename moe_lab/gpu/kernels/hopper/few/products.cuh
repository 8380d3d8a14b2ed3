// SPDX-License-Identifier: Apache-2.0
// What a warp does with an item: 16 weight rows by 128 columns, times the tokens.

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
