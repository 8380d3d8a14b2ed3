// SPDX-License-Identifier: Apache-2.0
// Sizes, what a block keeps in shared memory, and its ring of stages.

constexpr u32 MOST_POLLS = 1u << 24;      // seconds: the launch is broken
constexpr u32 ALL = 0xffffffffu;          // lanes of a warp
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

static_assert(SHARED >= sizeof(Shared) + STAGES * STAGE, "shared_bytes() in Python is for another layout");
extern __shared__ __align__(128) char raw[]; // Shared; stages; tokens as write_tokens() lays them out

__device__ inline Shared& shared() { return *(Shared*)raw; }

__device__ inline u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ inline u32 stages_begin() { return shared_address(raw) + (sizeof(Shared) + 127) / 128 * 128; }

__device__ inline void barrier_init(u64* b, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count));
}

__device__ inline bool is_past(u32 barrier, u32 parity) {
    u32 done;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    return done;
}

__device__ inline void wait(u64* b, u32 parity) {
    for (u32 polls = 0; !is_past(shared_address(b), parity);)
        if (++polls > MOST_POLLS) __trap();
}

__device__ inline void meet() { asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS) : "memory"); }

// Where the copying warp and those that multiply are in the ring of stages.
struct Place {
    int stage;
    u32 parity;

    __device__ void move(int by) {
        stage += by;
        if (stage >= STAGES) { stage -= STAGES; parity ^= 1; }
    }
};
