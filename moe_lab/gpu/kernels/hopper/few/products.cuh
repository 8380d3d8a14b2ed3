// SPDX-License-Identifier: Apache-2.0
// What a warp does with an item: 16 weight rows by 128 columns, times the tokens.

// An item's weights as they are stored, in registers.
struct Item {
    u32 scales[SCALE_WORDS], words[2][4];

    __device__ void load(u32 words_at, u32 scales_at) {
        load_words(scales, scales_at);
        #pragma unroll
        for (int half = 0; half < 2; half++) load_words(words[half], words_at + half * 512);
    }
};

// Adds an item's products to sums, of which there are two sets, so that a product waits for the last but one.
__device__ inline void multiply_item(float (&sums)[2][4], const Item& item, bool whole, const u32 (&tokens)[4][4]) {
    Scale rows[2];
    #pragma unroll
    for (int part = 0; part < 8; part++) {
        if (part == 4 && !whole) break;
        if (part * 16 % GROUP == 0) read_scales(rows, item.scales, part * 16 / GROUP);
        u32 wide[4];
        widen(wide, item.words[part / 4][part % 4], rows);
        multiply(sums[part & 1], wide, tokens[part / 2][part % 2 * 2], tokens[part / 2][part % 2 * 2 + 1]);
    }
}
