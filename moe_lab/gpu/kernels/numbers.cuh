// SPDX-License-Identifier: Apache-2.0
// Numbers of 16 bits, two to a word, and of e4m3, of which 128 features share a scale, so that the largest becomes 448.
// HALF: the 16 bits are fp16, else bf16.

constexpr float LARGEST = 448.0f;

__device__ inline u32 pack_bf16(float low, float high) {
    u32 out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

__device__ inline u32 pack(float low, float high) {
#if HALF
    u32 out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
#else
    return pack_bf16(low, high);
#endif
}

__device__ inline float2 unpack(u32 two) {
#if HALF
    float2 out;
    asm("{ .reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b; }"
        : "=f"(out.x), "=f"(out.y) : "r"(two));
    return out;
#else
    return make_float2(__uint_as_float(two << 16), __uint_as_float(two & 0xffff0000u));
#endif
}

__device__ inline unsigned short to_e4m3(float low, float high) {
    unsigned short out;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(out) : "f"(high), "f"(low));
    return out;
}

// A group's scale, and what its numbers are multiplied by, so that the largest becomes LARGEST; zeros stay zeros.
__device__ inline float scale_of(float largest) { return largest > 0.0f ? largest * (1.0f / LARGEST) : 1.0f; }

__device__ inline float inverse_of(float largest) { return largest > 0.0f ? __fdividef(LARGEST, largest) : 1.0f; }
