// SPDX-License-Identifier: Apache-2.0
// The activation between w13 and w2.

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

__device__ inline float gated(float gate, float up) {
#if SWIGLUOAI
    gate = fminf(gate, LIMIT);
    up = fminf(fmaxf(up, -LIMIT), LIMIT);
    return (up + 1.0f) * gate * sigmoid(gate * ALPHA);
#else
    return gate * up * sigmoid(gate);
#endif
}
