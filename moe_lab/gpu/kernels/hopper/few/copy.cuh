// SPDX-License-Identifier: Apache-2.0
// The warps that copy weights.

// The block's first weights, from the L2 cache's memory, before it is known which experts are hit: those of the nth pair's, which is
// the nth expert where no two pairs have the same, and some block's in any case. `id`: of the pair that is the lane's.
__device__ inline void prefetch_first(const char* w13, u32 id) {
    const Rows<W13> rows(blockIdx.x * TOGETHER);
    const int step = threadIdx.x & 31;
    const u32 expert = rows.nth < 32 ? __shfl_sync(ALL, id, rows.nth) : E;
    if (expert < E && step < W13::STEPS)
        prefetch(w13 + expert * W13::apart() + (rows.unit * W13::STEPS + step) * UNIT + rows.place * SLAB_BYTES, TOGETHER * SLAB_BYTES);
}

// Groups of w13 that a block does: the first two by its number, the others as blocks come to ask, so that a block whose copies take
// longer gets fewer. While one is copied the next is known and the next but one asked for. Each group asks once, so the last to
// ask leaves the count as it was.
__device__ inline u32 ask(char* memory, int groups) { return atomicInc((u32*)(memory + 128), groups - 1); }

// The block's nth group, from the warp that asks to all others.
__device__ inline void tell(int nth, u32 group) { *(volatile u32*)&shared().told[nth % TOLD] = nth << 24 | group; }

__device__ inline int hear(int nth) {
    for (u32 polls = 0; polls <= MOST_POLLS; polls++) {
        const u32 told = look(&shared().told[nth % TOLD]);
        if (told >> 24 == (nth & 255)) return told & 0xffffff;
    }
    __trap();
}

// A copying warp's stages of a group, the next of which is number `stage`; the group's first is number `begin`. Lane i copies the
// weights of the ith step of a stage, of all slabs that go together.
template <class G>
__device__ inline void copy(const G& g, int group, Place& at, int& stage, int begin) {
    Shared& s = shared();
    constexpr int BYTES = G::WIDTH * SLAB_BYTES;
    const int lane = threadIdx.x & 31, items = g.items(), stages = g.stages();
    const u64 policy = evict_first();
    const Rows<G> rows(group * G::WIDTH);
    const char* from = g.weights + rows.unit * G::STEPS * UNIT + rows.place * SLAB_BYTES;
    int part = rows.nth, step = (stage - begin) * G::EACH + lane;
    for (; stage < begin + stages; stage += COPIERS, step += COPIERS * G::EACH) {
        while (step >= G::STEPS && g.parts > 1) { step -= G::STEPS; part++; }
        const int here = min(G::EACH, items - (stage - begin) * G::EACH);
        wait(s.empty + at.stage, at.parity ^ 1);
        if (lane == 0) arrive_expecting(s.full + at.stage, here * BYTES);
        __syncwarp();
        if (lane < here) {
            const char* weights = from + s.experts[part] * G::apart() + step * UNIT;
            const u32 to = stages_begin() + at.stage * STAGE + lane * BYTES;
            bulk_copy<BYTES>(to, weights, s.full + at.stage, true, policy); // not read again
        }
        at.move(COPIERS);
    }
}

// All of a copying warp's stages; the first such warp asks for groups of w13.
__device__ inline void copy_all(const W13& g13, const W2& g2, char* memory) {
    const int nth_warp = (threadIdx.x >> 5) - WARPS;
    Place at{nth_warp, 0};
    int stage = nth_warp, begin = 0, group = blockIdx.x;
    u32 answer = 0;
    for (int nth = 0; group < g13.groups; nth++) {
        const u32 last = answer;          // touched no sooner than needed: it takes as long as a copy
        if (threadIdx.x == CONSUMERS) answer = ask(memory, g13.groups);
        copy(g13, group, at, stage, begin);
        begin += g13.stages();
        if (!nth) {
            group += BLOCKS;
        } else if (nth_warp == 0) {
            group = 2 * BLOCKS + __shfl_sync(ALL, last, 0);
            if (threadIdx.x == CONSUMERS) tell(nth + 1, group);
        } else {
            group = hear(nth + 1);
        }
    }
    for (group = BLOCKS - 1 - blockIdx.x; group < g2.groups; group += BLOCKS, begin += g2.stages()) copy(g2, group, at, stage, begin);
}
