// SPDX-License-Identifier: Apache-2.0
// Which experts are hit, by which tokens.

// Who has which expert; warp 0 alone, the others need no more than the experts' list, which they write as well.
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
        for (int column = 0; column < COLUMNS; column++) s.weights[lane][column] = 0.0f;
        s.columns[lane] = 0;
        __syncwarp();
        if (has) {
            atomicOr(&s.columns[nth], 1u << lane / TOPK);
            atomicAdd(&s.weights[nth][lane / TOPK], weight);
        }
    }
    __syncwarp();
    return __popc(leaders);
}
