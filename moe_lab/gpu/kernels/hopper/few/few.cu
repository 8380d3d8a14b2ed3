// SPDX-License-Identifier: Apache-2.0
// An experts layer of a few pairs in one launch: w13, activation, w2 and the weighted sum over a token's experts. Weights
// have four bits, so few that launches, waits and instructions decide the time, not products.
//
// All tokens are the eight columns of an mma, for every expert, whether it has them or not; who needs no column does not read
// its sums. So nothing is sorted or gathered, and what differs from expert to expert are weights alone.
//
// A slab is 16 weight rows: 8 gates and their ups, or 16 features of y. Blocks share slabs evenly, TOGETHER or TOGETHER2 of
// them at a time, first those of w13, of all experts, then those of w2; a slab of w2 has the rows of all experts, so that its
// sums are those of y. An item is a slab's 128 columns of one expert: a warp's work, whose weights lie together. A stage has
// eight items, of as many neighbouring slabs as go together. COPIERS warps copy stages in turn, from w13 into w2; TEAMS of eight
// warps multiply, a stage each in turn, and leave their sums to those who add them up. Between w13 and w2 all blocks wait for
// each other, while weights of w2 come in.
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
#include "copy.cuh"
#include "products.cuh"
#include "sums.cuh"
#include "pairs.cuh"

// All blocks come here, and then wait for each other. The last to leave sets both numbers back to zero.
__device__ inline void arrive(u32* waiting) {
    meet<1, CONSUMERS>();
    if (threadIdx.x == 0) count_one(waiting);
}

__device__ inline void await(u32* waiting) {
    if (threadIdx.x == 0) {
        for (u32 polls = 0; counted(waiting) != BLOCKS; polls++)
            if (polls > MOST_POLLS) __trap();
    }
    meet<1, CONSUMERS>();
}

__device__ inline void leave(u32* waiting) {
    if (threadIdx.x == 0 && atomicAdd(waiting + 1, 1) == BLOCKS - 1) waiting[0] = waiting[1] = 0;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) hopper_few(
    const char* x, const char* w13, const char* w2, char* hidden, char* y, const float* topk_weights, const ID* topk_ids,
    u32* waiting, int numel) {
    Shared& s = shared();
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, M = numel / TOPK;
    char* const tokens = raw + TOKENS_BEGIN;

    // Both wait for the memory, so they are read together.
    const u32 id = lane < numel ? (u32)topk_ids[lane] : E;
    const float weight = lane < numel ? topk_weights[lane] : 0.0f;
    if (warp >= WARPS) {
        if (warp == WARPS && lane < STAGES) { barrier_init(s.full + lane, 1); barrier_init(s.empty + lane, ITEMS); }
        publish_barriers();
    } else {
        write_tokens(tokens, x, M);
    }
    const int experts = find_experts(id, weight); // an id below 0 is that of another rank
    if (!experts) {                       // no pair has its expert here
        for (int i = blockIdx.x * THREADS + threadIdx.x; i < M * K / 8; i += BLOCKS * THREADS) ((uint4*)y)[i] = make_uint4(0, 0, 0, 0);
        return;
    }
    const W13 g13(w13, experts);
    const W2 g2(w2, experts);
    if (warp >= WARPS) {
        meet<3, 32 * COPIERS>();
        announce<2, THREADS>();
        Place at{warp - WARPS, 0};
        int stage = warp - WARPS;
        copy(g13, at, stage, 0);
        copy(g2, at, stage, (g13.last - g13.first) * g13.stages());
        return;
    }
    meet<2, THREADS>();
    if (threadIdx.x < 64) {
        const int phase = threadIdx.x >> 5;
        const u64 apart = phase ? W2::apart() : W13::apart();
        if (lane < experts) s.factors[phase][lane] = __ldg((const float*)((phase ? w2 : w13) + (s.experts[lane] + 1) * apart - 16));
    }

    const int item = warp % ITEMS, team = warp / ITEMS;
    const bool reads_tokens = lane >> 2 < COLUMNS;
    Place at{team, 0};
    int stage = team, buffer = 0;         // number of the team's next stage
    const auto done = [&]() {
        __syncwarp();
        if (lane == 0) arrive(s.empty + at.stage);
        at.move(TEAMS);
        stage += TEAMS;
    };

    {
        const Adds<TOGETHER> adds;
        const int stages = g13.stages(), nth_step = item / TOGETHER;
        uint4 words[4] = {};              // stay zero where there is no token
        for (int round = g13.first, end = 0; round < g13.last; round += ROUND, buffer ^= 1) {
            const bool mine = adds.group < ROUND && round + adds.group < g13.last;
            const Rows<W13> rows((mine ? round + adds.group : round) * TOGETHER + adds.slab);
            float2 bias = make_float2(0.0f, 0.0f);
            if (BIASES && mine) bias = biases_of(w13, rows, adds.row);
            for (int group = round; group < min(round + ROUND, g13.last); group++) {
                float sums[2][4] = {};
                const int begin = end;
                end += stages;
                while (stage < end) {
                    const int step = (stage - begin) * W13::EACH + nth_step;
                    wait(s.full + at.stage, at.parity);
                    if (step < W13::STEPS) {
                        if (reads_tokens) {
                            #pragma unroll
                            for (int c = 0; c < 4; c++) words[c] = *(const uint4*)(tokens + (step * 4 + c) * COLUMNS * 64 + lane * 16);
                        }
                        multiply_item(sums, stages_begin() + at.stage * STAGE + item * SLAB_BYTES, lane, 2 * step + 1 < W13::PANELS, words);
                    }
                    done();
                }
                #pragma unroll
                for (int i = 0; i < 4; i++) sums[0][i] += sums[1][i];
                leave_sums(&s.sums[buffer][group - round][warp][0][0], sums[0]);
            }
            meet<1, CONSUMERS>();
            if (mine && s.columns[rows.nth] >> adds.column & 1) {
                const float2 sum = add_up<TOGETHER>(s.sums[buffer][adds.group], adds.slab, adds.column, adds.row);
                const float by = s.factors[0][rows.nth], value = gated(sum.x * by + bias.x, sum.y * by + bias.y);
                const int feature = rows.unit * 64 + (rows.place & 3) * 16 + adds.row * 2 + (rows.place >> 2);
                *(unsigned short*)(hidden + hidden_at(rows.nth, adds.column, feature)) = (unsigned short)pack_bf16(value, value);
            }
        }
    }
    arrive(waiting);

    const Adds<TOGETHER2> adds;
    const int first_stage = (g13.last - g13.first) * g13.stages(), stages = g2.stages(), nth_step = item / TOGETHER2;
    float2 bias = make_float2(0.0f, 0.0f);
    const auto sum_biases = [&](int group) {
        bias = make_float2(0.0f, 0.0f);
        for (int nth = 0; nth < experts; nth++) {
            const float2 one = biases_of(w2, Rows<W2>(group * TOGETHER2 + adds.slab, nth), adds.row);
            const float by = s.weights[nth][adds.column];
            bias = make_float2(bias.x + by * one.x, bias.y + by * one.y);
        }
    };
    if (BIASES && adds.group < ROUND && g2.first + adds.group < g2.last) sum_biases(g2.first + adds.group);
    await(waiting);

    for (int round = g2.first, end = first_stage; round < g2.last; round += ROUND, buffer ^= 1) {
        const bool mine = adds.group < ROUND && round + adds.group < g2.last;
        if (BIASES && mine && round > g2.first) sum_biases(round + adds.group);
        for (int group = round; group < min(round + ROUND, g2.last); group++) {
            float total[4] = {};
            const int begin = end;
            end += stages;
            int step = (stage - begin) * W2::EACH + nth_step, part = 0;
            uint4 following[4];
            const auto read_hidden = [&]() {
                while (step >= W2::STEPS) { step -= W2::STEPS; part++; }
                const bool has = reads_tokens && part < experts && s.columns[part] >> (lane >> 2) & 1;
                #pragma unroll
                for (int c = 0; c < 4; c++) {
                    following[c] = make_uint4(0, 0, 0, 0);
                    if (has && (c < 2 || 2 * step + 1 < W2::PANELS))
                        following[c] = __ldcg((const uint4*)(hidden + ((part * W2::STEPS + step) * 4 + c) * COLUMNS * 64 + lane * 16));
                }
            };
            read_hidden();
            while (stage < end) {
                const int here = part;
                const bool whole = 2 * step + 1 < W2::PANELS;
                uint4 words[4];
                #pragma unroll
                for (int c = 0; c < 4; c++) words[c] = following[c];
                step += TEAMS * W2::EACH;
                read_hidden();
                wait(s.full + at.stage, at.parity);
                if (here < experts) {
                    float sums[2][4] = {};
                    multiply_item(sums, stages_begin() + at.stage * STAGE + item * SLAB_BYTES, lane, whole, words);
                    #pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const int of = 2 * (lane & 3) + (i & 1);
                        const float by = of < COLUMNS ? s.weights[here][of] * s.factors[1][here] : 0.0f;
                        total[i] += (sums[0][i] + sums[1][i]) * by;
                    }
                }
                done();
            }
            leave_sums(&s.sums[buffer][group - round][warp][0][0], total);
        }
        meet<1, CONSUMERS>();
        const Rows<W2> rows((round + adds.group) * TOGETHER2 + adds.slab);
        const int feature = rows.unit * 128 + (rows.place & 3) * 32 + adds.row * 4 + (rows.place >> 2) * 2;
        if (mine && adds.column < M && feature < K) {
            const float2 sum = add_up<TOGETHER2>(s.sums[buffer][adds.group], adds.slab, adds.column, adds.row);
            *(u32*)(y + ((u64)adds.column * K + feature) * 2) = pack_bf16(sum.x + bias.x, sum.y + bias.y);
        }
    }
    leave(waiting);
}
