// SPDX-License-Identifier: Apache-2.0
// Instructions on registers that CUDA C++ has no words for: pairs of bf16, products of a warp, fast functions.

__device__ inline u32 fma_bf16(u32 a, u32 b, u32 c) {
    u32 out;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
    return out;
}

template <int WORDS>
__device__ inline void load_words(u32 (&to)[WORDS], u32 from) {
    if constexpr (WORDS == 1)
        asm volatile("ld.shared.b32 %0, [%1];" : "=r"(to[0]) : "r"(from) : "memory");
    else if constexpr (WORDS == 2)
        asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "r"(from) : "memory");
    else
        #pragma unroll
        for (int i = 0; i < WORDS; i += 4)
            asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(to[i]), "=r"(to[i + 1]), "=r"(to[i + 2]), "=r"(to[i + 3]) : "r"(from + i * 4) : "memory");
}

// Of a warp: 16 rows by 16 columns of weights times eight columns of tokens, as the registers of mma.m16n8k16 hold them.
__device__ inline void multiply(float (&sums)[4], const u32 (&weights)[4], u32 low, u32 high) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(weights[0]), "r"(weights[1]), "r"(weights[2]), "r"(weights[3]), "r"(low), "r"(high));
}

// Without denormal numbers: with them the instructions around exp are as many as all others of a gate.
__device__ inline float sigmoid(float x) {
#if FP8
    // One instruction of the slow unit instead of two; off by 2^-11, far below what e4m3 rounds away.
    float t;
    asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(x * 0.5f));
    return 0.5f + 0.5f * t;
#else
    float power, inverse;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + power));
    return inverse;
#endif
}
