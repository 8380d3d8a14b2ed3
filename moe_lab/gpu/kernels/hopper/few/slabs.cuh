// SPDX-License-Identifier: Apache-2.0
// Which slabs are a block's, where their weights lie, and in which order tokens and hidden activations lie for them.

constexpr int K = HIDDEN, N = INTERMEDIATE;

// One of the GEMMs, as a block sees it: groups of TOGETHER neighbouring slabs, and stages of each.
template <int WEIGHT_ROWS, int WEIGHT_COLUMNS, int AT_ONCE, bool APART>
struct Gemm {
    static constexpr int UNITS = (WEIGHT_ROWS + 127) / 128, PANELS = WEIGHT_COLUMNS / 64, STEPS = (PANELS + 1) / 2;
    static constexpr int SLABS = UNITS * 8, WIDTH = AT_ONCE; // of an expert; of a stage
    static constexpr int EACH = ITEMS / AT_ONCE; // items of a slab in a stage
    const char* weights;                  // units of [E, rows, columns]
    int parts;                            // experts that a slab has rows of: 1, or all unless the experts are APART
    int first, last;                      // the block's groups

    __device__ Gemm(const char* weights, int experts) : weights(weights), parts(APART ? 1 : experts) {
        const u32 groups = SLABS / AT_ONCE * (APART ? experts : 1);
        first = groups * blockIdx.x / BLOCKS;
        last = groups * (blockIdx.x + 1) / BLOCKS;
    }

    __device__ int items() const { return parts * STEPS; }
    __device__ int stages() const { return (items() + EACH - 1) / EACH; }
    static __device__ u64 apart() { return expert_bytes(UNITS, STEPS); }
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

// x [M, K] into shared memory: [steps, 4 chunks of 32 columns, COLUMNS, 4 lanes of a column] of 16 bytes, which are a thread's
// second factors of two products.
__device__ inline void write_tokens(char* to, const char* x, int M) {
    #pragma unroll 2
    for (int i = threadIdx.x; i < W13::STEPS * 16 * COLUMNS; i += CONSUMERS) {
        const int lane = i & 3, token = (i >> 2) % COLUMNS, chunk = (i >> 2) / COLUMNS, k = chunk * 32 + 2 * lane;
        u32 words[4];
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            words[j] = 0;
            if (token < M && k + 8 * j < K) words[j] = __ldg((const u32*)(x + ((u64)token * K + k + 8 * j) * 2));
        }
        *(uint4*)(to + i * 16) = make_uint4(words[0], words[1], words[2], words[3]);
    }
}

// Bytes from the first hidden activation to one of the nth expert, a token and a feature; see write_tokens.
__device__ inline u32 hidden_at(int nth, int token, int feature) {
    const int chunk = feature >> 5, within = feature & 31;
    return (((nth * W2::STEPS * 4 + chunk) * COLUMNS + token) * 4 + (within >> 1 & 3)) * 16 + (within >> 3) * 4 + (within & 1) * 2;
}
