// SPDX-License-Identifier: Apache-2.0
// Where the pairs of each expert begin: from groups that align made, or after sorting all pairs here. Every block does so
// for itself, which is quicker than waiting for one that does, up to MOST_PAIRS.

// What an expert's row_begin and tile_end follow from: its counts (in tile_end) if the pairs are sorted here.
__device__ inline void scan_experts(bool counted) {
    Shared& s = shared();
    constexpr int EACH = (E + 31) / 32;
    const int lane = threadIdx.x & 31, first = lane * EACH, last = min(first + EACH, E);
    int rows = 0, tiles = 0, most = 0;
    for (int e = first; e < last; e++) {
        const int count = counted ? s.tile_end[e] : s.row_begin[e + 1] - s.row_begin[e];
        rows += count;
        most = max(most, count);
        tiles += (count + MAX_N - 1) / MAX_N;
    }
    int rows_up = rows, tiles_up = tiles;
    #pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const int r = __shfl_up_sync(ALL, rows_up, distance), t = __shfl_up_sync(ALL, tiles_up, distance);
        if (lane >= distance) { rows_up += r; tiles_up += t; }
    }
    int row = rows_up - rows, tile = tiles_up - tiles;
    for (int e = first; e < last; e++) {
        const int count = counted ? s.tile_end[e] : s.row_begin[e + 1] - s.row_begin[e];
        tile += (count + MAX_N - 1) / MAX_N;
        if (counted) { s.row_begin[e] = row; row += count; }
        s.tile_end[e] = tile;
    }
#if MOST_PAIRS
    const bool several = __any_sync(ALL, most > MAX_N);
    if (lane == 0) s.overflow = several;
#endif
    if (lane == 31) {
        s.total = tiles_up;
        if (counted) s.row_begin[E] = rows_up;
    }
}

#if MOST_PAIRS

// Counts and ranks by atomics, in an order of its own in each block: where all pairs of an expert are one tile's, nobody
// minds. Threads take pairs THREADS apart, so that loads of ids are coalesced.
__device__ inline void sort_pairs(const ID* topk_ids, int numel) {
    Shared& s = shared();
    const int thread = threadIdx.x, lane = thread & 31;
    constexpr int EACH = (MOST_PAIRS + THREADS - 1) / THREADS;
    for (int e = thread; e < E; e += THREADS) s.tile_end[e] = 0;
    int expert[EACH], rank[EACH];
    #pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int pair = i * THREADS + thread;
        expert[i] = pair < numel ? (int)topk_ids[pair] : -1;
    }
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < EACH; i++) {
        if ((u32)expert[i] >= (u32)E) expert[i] = -1;
        rank[i] = expert[i] >= 0 ? atomicAdd(&s.tile_end[expert[i]], 1) : 0;
    }
    __syncthreads();
    if (thread < 32) scan_experts(true);
    __syncthreads();
    if (s.overflow) {
        // Blocks must agree on which pairs are whose tile: ranks in the order of the pairs. The stages, still empty, lend
        // the memory.
        int (*before)[E] = (int (*)[E])raw;
        const int warp = thread >> 5;
        for (int e = thread; e < THREADS / 32 * E; e += THREADS) before[0][e] = 0;
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int pair = (warp * EACH + i) * 32 + lane;
            expert[i] = pair < numel ? (int)topk_ids[pair] : -1;
            if ((u32)expert[i] >= (u32)E) expert[i] = -1;
            const u32 same = __match_any_sync(ALL, expert[i]);
            const int earlier = __popc(same & ((1u << lane) - 1));
            if (expert[i] >= 0) rank[i] = before[warp][expert[i]] + earlier;
            __syncwarp();
            if (expert[i] >= 0 && earlier == 0) before[warp][expert[i]] += __popc(same);
            __syncwarp();
        }
        __syncthreads();
        for (int e = thread; e < E; e += THREADS) {
            int sum = 0;
            for (int w = 0; w < THREADS / 32; w++) {
                const int count = before[w][e];
                before[w][e] = sum;
                sum += count;
            }
        }
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < EACH; i++)
            if (expert[i] >= 0)
                s.sorted[s.row_begin[expert[i]] + before[warp][expert[i]] + rank[i]] = (warp * EACH + i) * 32 + lane;
    } else {
        #pragma unroll
        for (int i = 0; i < EACH; i++)
            if (expert[i] >= 0) s.sorted[s.row_begin[expert[i]] + rank[i]] = i * THREADS + thread;
    }
}

#else

// From groups of 8 rows, in the order of their experts.
__device__ inline void find_groups(const int* expert_ids, int groups) {
    Shared& s = shared();
    const int thread = threadIdx.x;
    for (int g = thread; g <= groups; g += THREADS) {
        const int before = g ? expert_ids[g - 1] : -1, here = g < groups ? expert_ids[g] : E;
        for (int e = before + 1; e <= here; e++) s.row_begin[e] = g * 8;
    }
    __syncthreads();
    if (thread < 32) scan_experts(false);
}

#endif
