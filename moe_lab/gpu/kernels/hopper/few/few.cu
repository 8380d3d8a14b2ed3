// SPDX-License-Identifier: Apache-2.0
// An experts layer of a few pairs in one launch: w13, activation, w2 and the weighted sum over a token's experts. Weights
// have four bits, so few that launches, waits and instructions decide the time, not products.
//
// All tokens are the eight columns of an mma, for every expert, whether it has them or not; who needs no column does not read
// its sums. So nothing is sorted or gathered, and what differs from expert to expert are weights alone.
//
// A slab is 16 weight rows: 8 gates and their ups, or 16 features of y. Blocks share slabs evenly, TOGETHER or TOGETHER2 of
// them at a time, first those of w13, expert after expert, then those of w2; a slab of w2 has the rows of all experts, so that its
// sums are those of y. An item is a slab's 128 columns of one expert: a warp's work, whose weights lie together. A stage has
// eight items, of as many neighbouring slabs as go together. COPIERS warps copy stages in turn, from w13 into w2; TEAMS of
// eight warps multiply, a stage each in turn, and leave their sums to warps that add them up. Blocks never meet:
// other warps fetch hidden activations as they come (handed.cuh), and an item of w2 waits for those of its expert.
//
// Compile-time: COLUMNS (1, 2, 4 or 8: tokens at most), STAGES, TEAMS, COPIERS, TOGETHER, TOGETHER2, BLOCKS (of the launch),
// HIDDEN (K), INTERMEDIATE (N), TOPK, E, WIDEN, GROUP, BIASES, SWIGLUOAI, ALPHA, LIMIT, ID, SHARED (bytes that the launch asks
// for), FP8, HALF and KEEP_Y (0).

#include "../stored.cuh"
#include "../ptx.cuh"
#include "../registers.cuh"
#include "../../numbers.cuh"
#include "../gate.cuh"
#include "../widen.cuh"
#include "ring.cuh"
#include "slabs.cuh"
#include "handed.cuh"
#include "copy.cuh"
#include "products.cuh"
#include "sums.cuh"
#include "pairs.cuh"

// Has the compiler keep a number in a register, instead of computing it anew for every use.
__device__ inline void keep(u32& number) { asm volatile("" : "+r"(number)); }

// A multiplying warp's items, of both GEMMs in one loop: the instructions of w2 are there when its first weights are.
__device__ inline void multiply_all(const W13& g13, const W2& g2, u32 experts) {
    Shared& s = shared();
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, in_team = warp % ITEMS, team = warp / ITEMS;
    const int column = lane >> 2;
    u32 flip = (column & 1) * 64, odd = 64 - 2 * flip; // from an even chunk to the odd one behind it, see operands_at()
    const int of_w13 = g13.mine(), all = of_w13 + g2.mine();
    u32 base = shared_address(raw), empty = base + EMPTY_BEGIN;
    // A thread's tokens or hidden activations begin here; columns without a token read zeros.
    u32 mine = base + (lane & 3) * 16 + flip, words_of_lane = 32 * SCALE_WORDS + lane * 16, scales_of_lane = (lane >> 2) * SCALE_WORDS * 4;
    const bool reads = column < COLUMNS;
    u32 tokens = mine + (reads ? TOKENS_BEGIN + column * 256 : NOTHING), token_step = reads ? COLUMNS * 256 : 0;
    keep(base); keep(empty); keep(mine); keep(words_of_lane); keep(scales_of_lane); keep(tokens); keep(token_step); keep(odd);
    Place at{team, 0};
    int stage = team, end = 0;            // number of the team's next stage
    for (int nth = 0; nth < all; nth++) {
        const int begin = end;
        bool second = nth >= of_w13;
        end += second ? g2.stages() : g13.stages();
        const int together = second ? TOGETHER2 : TOGETHER;
        u32 items = base + STAGES_BEGIN + in_team * SLAB_BYTES;
        u32 step = (stage - begin) * (ITEMS / together) + in_team / together, more = TEAMS * ITEMS / together; // of the slab's
        keep(items); keep(more);
        float total[4] = {}, sums[2][4] = {};
        for (; stage < end; stage += TEAMS, step += more) {
            const u32 weights = items + at.stage * STAGE;
            wait(base + FULL_BEGIN + at.stage * 8, at.parity);
            Item item;
            item.load(weights + words_of_lane, weights + scales_of_lane);
            __syncwarp();
            if (lane == 0) arrive(empty + at.stage * 8); // weights are in registers
            at.move(TEAMS);
            u32 operands = tokens + step * token_step, expert = 0;
            bool whole = true;
            if (!second) {
                if (W13::STEPS % W13::ONCE && step >= W13::STEPS) continue;
                if (W13::PANELS & 1) whole = 2 * step + 1 < W13::PANELS;
            } else {
                const u32 of_expert = step % W2::STEPS;
                expert = step / W2::STEPS;
                if (expert >= experts) continue;
                if (W2::PANELS & 1) whole = 2 * of_expert + 1 < W2::PANELS;
                wait(base + COME_BEGIN + expert * 8, 0);
                operands = mine + s.places[expert][column] + of_expert * 256;
            }
            u32 words[4][4];
            #pragma unroll
            for (int c = 0; c < 4; c++) load_words(words[c], (c & 1 ? operands + odd : operands) + c / 2 * 128);
            multiply_item(sums, item, whole, words);
            if (second) {
                const float2 by = *(const float2*)&s.scales[expert][2 * (lane & 3)];
                #pragma unroll
                for (int j = 0; j < 4; j++) {
                    total[j] += (sums[0][j] + sums[1][j]) * (j & 1 ? by.y : by.x);
                    sums[0][j] = sums[1][j] = 0.0f;
                }
            }
        }
        #pragma unroll
        for (int j = 0; j < 4; j++) total[j] += sums[0][j] + sums[1][j];
        if (nth >= BUFFERS) meet_at<READ>(nth % BUFFERS);
        leave_sums(s.sums[nth % BUFFERS][warp], total);
        announce_at<WRITTEN>(nth % BUFFERS);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) hopper_few(
    const char* x, const char* w13, const char* w2, char* memory, char* y, const float* topk_weights, const ID* topk_ids, int numel) {
    Shared& s = shared();
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, M = numel / TOPK;
    const bool copies = threadIdx.x >= CONSUMERS && threadIdx.x < FETCH_BEGIN;

    // All wait for the memory, so they are asked for together.
    const u32 asked = threadIdx.x == ADD_BEGIN ? take_ticket(memory) : 0;
    u32 id = E;
    float weight = 0.0f;
    if ((warp == 0 || copies) && lane < numel) {
        id = topk_ids[lane];
        if (warp == 0) weight = topk_weights[lane];
    }
    if (copies) {
        // Lanes initialise one after another, so several warps do.
        const int nth = warp - WARPS;
        if (nth == 0 && lane < STAGES) barrier_init(s.full + lane, 1);
        if (nth == COPIERS - 1 && lane < STAGES) barrier_init(s.empty + lane, ITEMS);
        publish_barriers();
        const int experts = find_experts(id, weight); // an id below 0 is that of another rank
        meet<3, 32 * COPIERS>();
        announce<2, THREADS>();
        return copy_all(W13(w13, experts), W2(w2, experts));
    }
    if (threadIdx.x < CONSUMERS) {
        write_tokens(x, M);
        if (warp == 0) find_experts(id, weight);
    } else if (threadIdx.x < ADD_BEGIN) {
        const int expert = lane * FETCHERS + warp - FETCH_BEGIN / 32;
        if (expert < PAIRS) barrier_init(s.come + expert, 1);
    } else if (warp == ADD_BEGIN / 32) {
        for (int i = lane; i < PAIR_BYTES / 16; i += 32) *(uint4*)(raw + NOTHING + i * 16) = make_uint4(0, 0, 0, 0);
        const u32 ticket = __shfl_sync(ALL, asked, 0);
        clear(memory, ticket, numel);
        if (lane == 0) { s.ticket = ticket; s.ended = 0; }
    }
    meet<2, THREADS>();
    const int experts = s.count;
    if (!experts) {                       // no pair has its expert here
        for (int i = blockIdx.x * CONSUMERS + threadIdx.x; i < M * K / 8 && threadIdx.x < CONSUMERS; i += BLOCKS * CONSUMERS)
            ((uint4*)y)[i] = make_uint4(0, 0, 0, 0);
        return;
    }
    const W13 g13(w13, experts);
    const W2 g2(w2, experts);
    char* const hidden = handed(memory, s.ticket, numel);
    if (threadIdx.x < CONSUMERS) multiply_all(g13, g2, experts);
    else if (threadIdx.x < ADD_BEGIN) fetch_all(hidden, w2, experts);
    else add_all(g13, g2, hidden, y, M);
}
