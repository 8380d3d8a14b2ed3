// SPDX-License-Identifier: Apache-2.0
// Align & sort in two launches of which one is a single busy block, as vLLM's and SGLang's CUDA kernels do it: a block
// counts all pairs in shared memory, scans, and writes the tiles, while a second block fills the rows with padding; then
// every pair takes the next row of its expert from a counter in device memory.
//
// Compile-time: BINS (experts rounded up to a power of two, 32 <= BINS <= 1024), BLOCK_M, ID (int or long long), DROP,
// RELABEL. Blocks of count_scan have 1024 threads.

constexpr int THREADS = 1024;

__device__ inline int expert_of(const ID* ids, const int* expert_map, int pair, int E) {
    const ID id = ids[pair];
    const int expert = id >= 0 && id < E ? int(id) : -1;
    return DROP && expert >= 0 ? expert_map[expert] : expert;
}

extern "C" __global__ void __launch_bounds__(THREADS) count_scan(
    const ID* __restrict__ ids,            // [numel] expert of each pair
    const int* __restrict__ expert_map,    // [E], read if DROP or RELABEL
    int* __restrict__ sorted_token_ids,    // [capacity], out: padding everywhere
    int* __restrict__ expert_ids,          // [tiles], out
    int* __restrict__ num_tokens_post_padded,  // [1], out
    int* __restrict__ next_row,            // [E], out: first row of each group
    int numel,
    int E,
    int capacity
) {
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    if (blockIdx.x == 1) {
        for (int row = thread; row < capacity; row += THREADS) sorted_token_ids[row] = numel;
        return;
    }
    __shared__ int count[BINS], warp_sum[32];
    if (thread < BINS) count[thread] = 0;
    __syncthreads();
    // One load in flight a thread, as in the kernels that this stands for.
    #pragma unroll 1
    for (int pair = thread; pair < numel; pair += THREADS) {
        const int expert = expert_of(ids, expert_map, pair, E);
        if (expert >= 0) atomicAdd(&count[expert], 1);
    }
    __syncthreads();

    const int tiles = thread < E ? (count[thread] + BLOCK_M - 1) / BLOCK_M : 0;
    int sum = tiles;
    for (int distance = 1; distance < 32; distance *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, sum, distance);
        if (lane >= distance) sum += other;
    }
    if (lane == 31) warp_sum[warp] = sum;
    __syncthreads();
    const int first = __reduce_add_sync(0xffffffffu, lane < warp ? warp_sum[lane] : 0) + sum - tiles;
    if (thread < E) {
        next_row[thread] = first * BLOCK_M;
        const int label = RELABEL && tiles ? expert_map[thread] : thread;
        for (int i = 0; i < tiles; i++) expert_ids[first + i] = label;
        if (thread == E - 1) *num_tokens_post_padded = (first + tiles) * BLOCK_M;
    }
}

extern "C" __global__ void place(
    const ID* __restrict__ ids,            // [numel] expert of each pair
    const int* __restrict__ expert_map,    // [E], read if DROP
    int* __restrict__ sorted_token_ids,    // [capacity], out: pairs only
    int* __restrict__ next_row,            // [E], changed
    int numel,
    int E
) {
    for (int pair = blockIdx.x * blockDim.x + threadIdx.x; pair < numel; pair += gridDim.x * blockDim.x) {
        const int expert = expert_of(ids, expert_map, pair, E);
        if (expert >= 0) sorted_token_ids[atomicAdd(&next_row[expert], 1)] = pair;
    }
}
