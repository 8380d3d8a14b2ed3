// SPDX-License-Identifier: Apache-2.0
// Weights of four or eight bits as a thread needs them for the first factor of an mma or wgmma: read, and widened to bf16 in registers.
//
// INT8: two words hold four pairs, eight_bits.py says where. Else a word holds four pairs: rows r, r + 8, r, r + 8 of a warp's
// sixteen, columns 2 (lane % 4) + {0, 1} of a product's sixteen, the last two pairs eight columns further on. Of 16 rows and a
// step come first the scales, then two halves of 64 columns: four_bits.py says in which order.

#if WIDEN == INT8

// Numbers divided by 64, exactly. A byte holds a number plus 128. As the low half of 16 bits it is that many times 2^-133: up to 127 it
// is a denormal bf16 number, and the normal ones that follow are as far apart.
__device__ inline void widen(u32 (&to)[4], u32 first, u32 second) {
    #pragma unroll
    for (int j = 0; j < 4; j++)
        to[j] = fma_bf16(__byte_perm(j < 2 ? first : second, 0, j & 1 ? 0x4341 : 0x4240), 0x7f007f00, 0xc000c000);
}

#elif WIDEN

constexpr u32 MINUS_ZERO = 0x80008000;    // added, it changes nothing
constexpr u32 ONE = 0x3f803f80;

// What the numbers of a row's group are multiplied by, twice in a word.
struct Scale {
    u32 by, add;                          // INT4: add = -8 * 8 * by / 2^130; INT4_ZEROS: -(128 + 8 * zero)
};

// The number of a word that pair j stands for. INT4: times 8 / 2^133, a denormal number. E2M1: divided by 2^126, since bf16
// has another bias; so 0.5 is a denormal number in both.
__device__ inline u32 bits_of(u32 word, int j) {
#if WIDEN == E2M1
    constexpr u32 BITS = 0x81c081c0;
    // A product shifts to the left too, in another pipe than what shifts to the right and masks.
    if (j < 2) return (j ? __funnelshift_r(word, word, 4) : word) & BITS;
    if (j == 2) return word << 6 & BITS;
    return word << 2 & 0x80c080c0 | word >> 6 & 0x01000100;
#else
    return __funnelshift_r(word, word, 4 * j) & 0x00780078;
#endif
}

__device__ inline void widen(u32 (&to)[4], u32 word, const Scale (&rows)[2]) {
    #pragma unroll
    for (int j = 0; j < 4; j++) {
        const Scale& scale = rows[j & 1];
        const u32 bits = bits_of(word, j);
#if WIDEN == E2M1
        to[j] = fma_bf16(bits, scale.by, MINUS_ZERO);
#elif WIDEN == INT4
        to[j] = fma_bf16(bits, scale.by, scale.add);
#else
        // 128 with the number behind it, less 128 with its zero behind it, is exact.
        to[j] = fma_bf16(fma_bf16(bits | 0x43004300, ONE, scale.add), scale.by, MINUS_ZERO);
#endif
    }
}

// The scales of rows r and r + 8 in a group of a step.
__device__ inline void read_scales(Scale (&rows)[2], const u32 (&words)[SCALE_WORDS], int group) {
    #pragma unroll
    for (int h = 0; h < 2; h++) {
#if WIDEN == E2M1
        const u32 word = words[h * GROUPS / 4 + group / 4], byte = __byte_perm(word, 0, 0x4040 | (group & 3) * 0x0101);
#if GROUP == 32
        rows[h].by = byte << 7;           // a power of two
#else
        // Of e4m3 in the bits of bf16, so divided by 2^120.
        rows[h].by = fma_bf16(fma_bf16(byte << 4, 0x7f007f00, MINUS_ZERO), 0x76807680, MINUS_ZERO);
#endif
#else
        constexpr int EACH = SCALE_WORDS / GROUPS;
        const int twice = h ? 0x3232 : 0x1010;
        rows[h].by = __byte_perm(words[group * EACH], 0, twice);
        rows[h].add = WIDEN == INT4 ? fma_bf16(rows[h].by, 0x80408040, MINUS_ZERO) : __byte_perm(words[group * EACH + EACH - 1], 0, twice);
#endif
    }
}

#endif
