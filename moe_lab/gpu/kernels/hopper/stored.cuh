// SPDX-License-Identifier: Apache-2.0
// How weights are stored. Standard C++, as layout.cuh.

typedef unsigned int u32;
typedef unsigned long long u64;

#define WHOLE 0                          // WIDEN: weights are multiplied as they are stored, or have four or eight bits, see widen.cuh
#define INT4 1
#define INT4_ZEROS 2
#define E2M1 3
#define INT8 4

constexpr int GROUPS = WIDEN && WIDEN != INT8 ? 128 / GROUP : 0; // of a row of weights a step, which have a scale each
constexpr int SCALE_WORDS = WIDEN == E2M1 ? GROUPS / 2 : GROUPS * (1 + (WIDEN == INT4_ZEROS)); // of rows r and r + 8 a step
constexpr int SLAB_BYTES = GROUPS ? 1024 + 32 * SCALE_WORDS : 2048; // bytes of 16 weight rows a step, those of four bits with their scales first
constexpr int UNIT = 8 * SLAB_BYTES; // bytes of 128 weight rows a step
constexpr int FACTOR_BYTES = GROUPS ? 16 : 0;

// Of an expert's weights: in FP8 they are followed by 16 bytes of scales for every two units and step, in INT8 by a scale for each
// row, with BIASES by one for each row, with four bits by FACTOR_BYTES that begin with a factor of all of them, fp32.
__device__ inline u64 expert_bytes(int units, int steps) {
    return (u64)units * steps * UNIT + (FP8 ? (units + 1) / 2 * steps * 16 : 0) + (BIASES ? units * 512 : 0)
        + (WIDEN == INT8 ? units * 512 : 0) + FACTOR_BYTES;
}
