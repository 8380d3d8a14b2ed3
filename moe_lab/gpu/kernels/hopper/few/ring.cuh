// SPDX-License-Identifier: Apache-2.0
// Sizes, what a block keeps in shared memory, and its ring of stages.

constexpr int ITEMS = 8, WARPS = TEAMS * ITEMS, FETCHERS = 4, BUFFERS = 4; // of a stage, a warp of a team for each
constexpr int ADDERS = (8 * COLUMNS * TOGETHER + 31) / 32; // warps; a thread for each hidden activation of a group
constexpr int CONSUMERS = 32 * WARPS;     // threads that multiply; then come those that copy, those that fetch, and those that add up
constexpr int FETCH_BEGIN = CONSUMERS + 32 * COPIERS, ADD_BEGIN = FETCH_BEGIN + 32 * FETCHERS, THREADS = ADD_BEGIN + 32 * ADDERS;
static_assert(BUFFERS == 4 && ITEMS % TOGETHER == 0 && ITEMS % TOGETHER2 == 0); // a warp's items are of one slab
static_assert(STAGES % TEAMS == 0 && STAGES % COPIERS == 0); // who waits for a stage is never two phases away from it
constexpr int MOST_EXPERTS = 32;          // a lane for each pair
constexpr int PAIRS = COLUMNS * TOPK < 32 ? COLUMNS * TOPK : 32;
constexpr int STAGE = ITEMS * SLAB_BYTES;

struct Shared {
    u64 come[MOST_EXPERTS];               // all hidden activations of an expert
    u64 full[STAGES], empty[STAGES];
    float2 sums[BUFFERS][WARPS][COLUMNS][8]; // of rows r and r + 8
    float weights[MOST_EXPERTS][COLUMNS]; // the router's
    float scales[MOST_EXPERTS][8];        // the router's, times the factor of all weights of an expert in w2
    u32 places[MOST_EXPERTS][8];          // of a token's hidden activations of the expert, or of zeros
    int slots[MOST_EXPERTS][COLUMNS];     // a token's pair that has the expert, below 0: none
    int experts[MOST_EXPERTS];
    int count;                            // of experts
    u32 ticket;                           // see handed.cuh
    u32 ended;                            // whether the block's hidden activations are all handed over
};

constexpr int COME_BEGIN = 0, FULL_BEGIN = 8 * MOST_EXPERTS, EMPTY_BEGIN = FULL_BEGIN + 8 * STAGES; // of barriers in Shared
constexpr int PAIR_BYTES = (INTERMEDIATE + 127) / 128 * 256; // of a pair's hidden activations
constexpr int NOTHING = (sizeof(Shared) + 127) / 128 * 128; // zeros, for columns without a token
constexpr int STAGES_BEGIN = NOTHING + PAIR_BYTES;
constexpr int TOKENS_BEGIN = STAGES_BEGIN + STAGES * STAGE;
constexpr int HIDDEN_BEGIN = TOKENS_BEGIN + (HIDDEN + 127) / 128 * COLUMNS * 256;
static_assert(SHARED == HIDDEN_BEGIN + PAIRS * PAIR_BYTES, "shared_bytes() in Python is for another layout");
extern __shared__ __align__(128) char raw[]; // Shared; zeros; stages; tokens and hidden activations as operands_at() says

__device__ inline Shared& shared() { return *(Shared*)raw; }

// Where a warp that copies, or a team, is in the ring of stages.
struct Place {
    int stage;
    u32 parity;

    __device__ void move(int by) {
        stage += by;
        if (stage >= STAGES) { stage -= STAGES; parity ^= 1; }
    }
};
