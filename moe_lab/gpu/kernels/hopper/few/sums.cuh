// SPDX-License-Identifier: Apache-2.0
// Sums of a slab: warps leave theirs in shared memory, and threads add them up, row by row.

// Leaves a warp's sums of a slab for add_up().
__device__ inline void leave_sums(float* to, const float (&sums)[4]) {
    const int lane = threadIdx.x & 31, row = lane >> 2, column = 2 * (lane & 3);
    #pragma unroll
    for (int i = 0; i < 4; i++)
        if (column + (i & 1) < COLUMNS) to[(column + (i & 1)) * SLAB + row + (i >> 1) * 8] = sums[i];
}

// The sums of rows r and r + 8 over all warps that had items of the slab.
template <int AT_ONCE>
__device__ inline float2 add_up(const float (*sums)[COLUMNS][SLAB], int slab, int column, int row) {
    float2 sum = make_float2(0.0f, 0.0f);
    #pragma unroll
    for (int warp = 0; warp < WARPS; warp += AT_ONCE) {
        sum.x += sums[warp + slab][column][row];
        sum.y += sums[warp + slab][column][row + 8];
    }
    return sum;
}

// Who adds up what in a round.
template <int AT_ONCE>
struct Adds {
    int group, slab, column, row;

    __device__ Adds() {
        const int i = threadIdx.x;
        row = i & 7;
        column = i / 8 % COLUMNS;
        slab = i / (8 * COLUMNS) % AT_ONCE;
        group = i / (8 * COLUMNS * AT_ONCE);
    }
};

template <class G>
__device__ inline float2 biases_of(const char* weights, const Rows<G>& rows, int row) {
    const char* end = weights + (shared().experts[rows.nth] + 1) * G::apart();
    return __ldg((const float2*)(end - 16 - G::UNITS * 512 + ((rows.unit * 8 + rows.place) * 8 + row) * 8));
}
