// SPDX-License-Identifier: Apache-2.0
// The activation between w13 and w2.

__device__ inline float gated(float gate, float up) {
#if SWIGLUOAI
    gate = fminf(gate, LIMIT);
    up = fminf(fmaxf(up, -LIMIT), LIMIT);
    return (up + 1.0f) * gate * sigmoid(gate * ALPHA);
#else
    return gate * up * sigmoid(gate);
#endif
}
