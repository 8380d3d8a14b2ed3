// SPDX-License-Identifier: Apache-2.0
// Which experts are hit, by which tokens.

// Who has which expert: warp 0. Warps that copy need no more than the list of experts, which they write as well.
// `id` and `weight`: of the pair that is the lane's, E where there is none.
__device__ inline int find_experts(u32 id, float weight) {
    Shared& s = shared();
    const int lane = threadIdx.x & 31;
    const bool has = id < E;
    const u32 same = __match_any_sync(ALL, has ? id : E);
    const int leader = __ffs(same) - 1;
    const u32 leaders = __ballot_sync(ALL, has && leader == lane);
    const int nth = __popc(leaders & ((1u << leader) - 1));
    if (has && leader == lane) s.experts[nth] = id;
    if (threadIdx.x < 32) {
        #pragma unroll
        for (int column = 0; column < 8; column++) {
            s.places[lane][column] = NOTHING;
            if (column >= COLUMNS) continue;
            s.weights[lane][column] = 0.0f;
            s.slots[lane][column] = -1;
        }
        __syncwarp();
        if (has) {
            const int token = lane / TOPK;
            const int pair = __ffs(same & ALL >> (32 - TOPK) << token * TOPK) - 1; // one, should it have it twice
            s.slots[nth][token] = pair;
            s.places[nth][token] = HIDDEN_BEGIN + pair * PAIR_BYTES;
            atomicAdd(&s.weights[nth][token], weight);
        }
    }
    if (threadIdx.x == 0) s.count = __popc(leaders);
    __syncwarp();
    return __popc(leaders);
}
