// SPDX-License-Identifier: Apache-2.0
// The warps that copy weights.

// A copying warp's stages of a GEMM, the next of which is number `stage`; the GEMM's first is number `begin`. Lane i copies the
// weights of the ith step of a stage, of all slabs that go together.
template <class G>
__device__ inline void copy(const G& g, Place& at, int& stage, int begin) {
    Shared& s = shared();
    constexpr int BYTES = G::WIDTH * SLAB_BYTES;
    const int lane = threadIdx.x & 31, items = g.items(), stages = g.stages();
    const u64 policy = evict_first();
    for (int group = g.first; group < g.last; group++, begin += stages) {
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
}
