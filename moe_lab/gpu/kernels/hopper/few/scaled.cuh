// SPDX-License-Identifier: Apache-2.0
// Tokens and hidden activations as products take them: multiplied by a power of two for every 128, so that the largest is near 2^60.
//
// Then weights need not be: the bits of a number of four, in bf16 a tiny number, are multiplied as they are, and the product is
// none that fp32 rounds to zero. Sums of a group are multiplied by its scale, and those of 128 columns by the power of two that
// undoes the first. What int4 subtracts from every code, 8 or a zero point, is subtracted as often as the sum of a group's columns.

constexpr int SUMS = WIDEN == E2M1 ? 0 : GROUPS, FACTORS = 1 + SUMS; // numbers of 128: what undoes the power of two, sums of groups
constexpr int WIDTH = COLUMNS < 2 ? 2 : COLUMNS; // columns in a table of factors: [128, FACTORS, WIDTH]

__device__ inline float power_of_two(int exponent) { return __uint_as_float((u32)(127 + exponent) << 23); }

// Eight of 128 numbers, whose others other lanes of the same sixteen have. `factors`: of the 128 in the column; `by`: what multiplies
// the factor that undoes; `flipped`: whether every two chunks of 32 lie the other way round.
// Not inlined: the launch has to fetch its instructions too.
__device__ __noinline__ uint4 scale_numbers(uint4 numbers, float* factors, float by, bool flipped) {
    constexpr int EACH = GROUP / 8;       // lanes of a group
    const int of_lane = threadIdx.x & 15;
    float2 v[4] = {unpack(numbers.x), unpack(numbers.y), unpack(numbers.z), unpack(numbers.w)};
    float largest = 0.0f;
    #pragma unroll
    for (int i = 0; i < 4; i++) largest = fmaxf(largest, fmaxf(fabsf(v[i].x), fabsf(v[i].y)));
    #pragma unroll
    for (int distance = 8; distance; distance /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, distance));
    const int up = 187 - (int)(__float_as_uint(largest) >> 23), half = up / 2; // in two steps: neither is beyond fp32
    const float first = power_of_two(half), then = power_of_two(up - half);
    float sum = 0.0f;
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] = make_float2(v[i].x * first * then, v[i].y * first * then);
        sum += v[i].x + v[i].y;
    }
    if (SUMS) {
        #pragma unroll
        for (int distance = EACH / 2; distance; distance /= 2) sum += __shfl_xor_sync(ALL, sum, distance);
        const int group = (GROUP == 32 && flipped ? of_lane ^ 4 : of_lane) / EACH;
        // INT4 is to subtract 8 times it, of products that are 2^-130 of what they mean; INT4_ZEROS multiplies by 8 * zero.
        if (of_lane % EACH == 0) factors[(1 + group) * WIDTH] = sum * power_of_two(-100) * power_of_two(WIDEN == INT4 ? -27 : -33);
    }
    if (of_lane == 0) factors[0] = by * power_of_two(WIDEN == INT4_ZEROS ? 33 : 0) * power_of_two(-half) * power_of_two(half - up);
    return make_uint4(pack_bf16(v[0].x, v[0].y), pack_bf16(v[1].x, v[1].y), pack_bf16(v[2].x, v[2].y), pack_bf16(v[3].x, v[3].y));
}
