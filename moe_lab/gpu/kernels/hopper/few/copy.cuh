// SPDX-License-Identifier: Apache-2.0
// The warps that copy weights.

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
    int part = rows.nth, step = (stage - begin) * G::ONCE + lane;
    for (; stage < begin + stages; stage += COPIERS, step += COPIERS * G::ONCE) {
        while (step >= G::STEPS && g.parts > 1) { step -= G::STEPS; part++; }
        const int here = min(G::ONCE, items - (stage - begin) * G::ONCE);
        wait(s.empty + at.stage, at.parity ^ 1);
        if (lane == 0) arrive_expecting(s.full + at.stage, here * BYTES);
        __syncwarp();
        if (lane < here) {
            const char* weights = from + s.experts[part] * G::apart() + step * UNIT;
            const u32 to = shared_address(raw) + STAGES_BEGIN + at.stage * STAGE + lane * BYTES;
            bulk_copy<BYTES>(to, weights, s.full + at.stage, true, policy); // not read again
        }
        at.move(COPIERS);
    }
}

// All of a copying warp's stages.
__device__ inline void copy_all(const W13& g13, const W2& g2) {
    const int nth = (threadIdx.x >> 5) - WARPS;
    Place at{nth, 0};
    int stage = nth, begin = 0;
    for (int group = g13.first; group < g13.groups; group += BLOCKS, begin += g13.stages()) copy(g13, group, at, stage, begin);
    for (int group = g2.first; group < g2.groups; group += BLOCKS, begin += g2.stages()) copy(g2, group, at, stage, begin);
}
