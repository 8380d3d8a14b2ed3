// SPDX-License-Identifier: Apache-2.0
// Which slabs are a block's, where their weights lie, and in which order tokens and hidden activations lie for them.

constexpr int K = HIDDEN, N = INTERMEDIATE;

// One of the GEMMs: groups of TOGETHER neighbouring slabs, and stages of each.
template <int WEIGHT_ROWS, int WEIGHT_COLUMNS, int AT_ONCE, bool APART>
struct Gemm {
    static constexpr int UNITS = (WEIGHT_ROWS + 127) / 128, PANELS = WEIGHT_COLUMNS / 64, STEPS = (PANELS + 1) / 2;
    static constexpr int SLABS = UNITS * 8, WIDTH = AT_ONCE; // of an expert; of a stage
    static constexpr int ONCE = ITEMS / AT_ONCE; // items of a slab in a stage
    const char* weights;                  // units of [E, rows, columns]
    int parts;                            // experts that a slab has rows of: 1, or all unless the experts are APART
    int groups, first;                    // of all; of the block's, which are BLOCKS apart: those with more of w13 have less of w2

    __device__ Gemm(const char* weights, int experts)
        : weights(weights), parts(APART ? 1 : experts), groups(SLABS / AT_ONCE * (APART ? experts : 1)),
          first(APART ? blockIdx.x : BLOCKS - 1 - blockIdx.x) {}

    __device__ int mine() const { return first < groups ? (groups - first + BLOCKS - 1) / BLOCKS : 0; }

    __device__ int items() const { return parts * STEPS; }
    __device__ int stages() const { return (items() + ONCE - 1) / ONCE; }
    static __device__ u64 apart() { return expert_bytes(UNITS, STEPS); }
    // Of all weights of an expert.
    static __device__ float factor(const char* weights, int expert) {
        return __ldg((const float*)(weights + (expert + 1) * apart() - FACTOR_BYTES));
    }
};

using W13 = Gemm<2 * N, K, TOGETHER, true>;
using W2 = Gemm<K, N, TOGETHER2, false>;

// The 16 rows that an expert, the nth of those that are hit, has in a slab.
template <class G>
struct Rows {
    int nth, unit, place;                 // place: which 16 rows of the unit

    __device__ Rows(int slab, int part = 0) {
        nth = part + slab / G::SLABS;     // slabs of w2 are as many as an expert has
        const int within = slab % G::SLABS;
        unit = within >> 3;
        place = within & 7;
    }
};

// Bytes to a column's number, in rows of tokens or hidden activations. Of 128, in 256 bytes, a chunk of 32 lies as a thread needs
// it for two products: [4 lanes] of 16 bytes. Odd columns have every two chunks the other way round, so that the bytes of two
// columns that a warp reads at once are in different banks.
__device__ inline u32 operands_at(int column, int number) {
    const int chunk = number >> 5 ^ column & 1, within = number & 31;
    return (chunk * 4 + (within >> 1 & 3)) * 16 + (within >> 3) * 4 + (within & 1) * 2;
}

// x [M, K] into shared memory: [steps, COLUMNS] of 128 numbers.
__device__ inline void write_tokens(const char* x, int M) {
    #pragma unroll 2
    for (int i = threadIdx.x; i < W13::STEPS * 16 * COLUMNS; i += CONSUMERS) {
        const int of_lane = i & 15, token = (i >> 4) % COLUMNS, step = (i >> 4) / COLUMNS;
        const int within = (of_lane >> 2) * 32 + 2 * (of_lane & 3), k = step * 128 + within;
        u32 words[4];
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            words[j] = 0;
            if (token < M && k + 8 * j < K) words[j] = __ldg((const u32*)(x + ((u64)token * K + k + 8 * j) * 2));
        }
        *(uint4*)(raw + TOKENS_BEGIN + (step * COLUMNS + token) * 256 + operands_at(token, within)) =
            make_uint4(words[0], words[1], words[2], words[3]);
    }
}
