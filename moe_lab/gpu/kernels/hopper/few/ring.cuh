// SPDX-License-Identifier: Apache-2.0
// Sizes, what a block keeps in shared memory, and its ring of stages.

constexpr int ITEMS = 8, WARPS = TEAMS * ITEMS, CONSUMERS = 32 * WARPS, THREADS = CONSUMERS + 32 * COPIERS, SLAB = 16;
constexpr int MOST_EXPERTS = 32;          // a lane for each pair
constexpr int STAGE = ITEMS * SLAB_BYTES;
constexpr int ROUND = COLUMNS == 1 ? 4 : COLUMNS == 8 ? 1 : 2; // groups of slabs whose sums are added up together

struct Shared {
    float sums[2][ROUND][WARPS][COLUMNS][SLAB];
    float weights[MOST_EXPERTS][COLUMNS]; // the router's
    float factors[2][MOST_EXPERTS];       // of all weights of an expert in w13 and w2
    u32 columns[MOST_EXPERTS];            // bits of the tokens of an expert
    int experts[MOST_EXPERTS];
    u64 full[STAGES], empty[STAGES];
};

constexpr int STAGES_BEGIN = (sizeof(Shared) + 127) / 128 * 128, TOKENS_BEGIN = STAGES_BEGIN + STAGES * STAGE;
constexpr int TOKEN_BYTES = (HIDDEN + 127) / 128 * COLUMNS * 256;
static_assert(SHARED == TOKENS_BEGIN + TOKEN_BYTES, "shared_bytes() in Python is for another layout");
extern __shared__ __align__(128) char raw[]; // Shared; stages; tokens as write_tokens() lays them out

__device__ inline Shared& shared() { return *(Shared*)raw; }

__device__ inline u32 stages_begin() { return shared_address(raw) + STAGES_BEGIN; }

// Where a warp that copies, or a team, is in the ring of stages.
struct Place {
    int stage;
    u32 parity;

    __device__ void move(int by) {
        stage += by;
        if (stage >= STAGES) { stage -= STAGES; parity ^= 1; }
    }
};
