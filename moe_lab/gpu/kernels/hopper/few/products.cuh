// SPDX-License-Identifier: Apache-2.0
// What a warp does with an item: 16 weight rows by 128 columns, times the tokens.

// Adds an item's products to sums, of which there are two sets, so that a product waits for the last but one.
__device__ inline void multiply_item(float (&sums)[2][4], u32 words_at, u32 scales_at, bool whole, const u32 (&tokens)[4][4]) {
    u32 scales[SCALE_WORDS];
    load_words(scales, scales_at);
    Scale rows[2];
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        if (half && !whole) break;
        u32 words[4];
        load_words(words, words_at + half * 512);
        #pragma unroll
        for (int p = 0; p < 4; p++) {
            const int part = half * 4 + p;
            if (part * 16 % GROUP == 0) read_scales(rows, scales, part * 16 / GROUP);
            u32 wide[4];
            widen(wide, words[p], rows);
            multiply(sums[p & 1], wide, tokens[part / 2][p % 2 * 2], tokens[part / 2][p % 2 * 2 + 1]);
        }
    }
}
