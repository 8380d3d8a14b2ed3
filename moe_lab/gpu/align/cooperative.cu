// SPDX-License-Identifier: Apache-2.0
// Align & sort in one cooperative launch: count, exchange the counts, sort in shared memory, place.
//
// A block takes CHUNK = THREADS * ITEMS consecutive pairs and keeps them in registers and shared memory throughout, so
// ids are read once. The blocks meet once: each publishes its counts, and reads those of all others. A published word
// holds the counts of four experts, 15 bits each, and a tag of four bits that changes with every launch; 64 bits are
// written and read as one, so a reader knows from the word itself that it is new, and no fence, counter or barrier
// between blocks is needed. All blocks have to run at the same time, which a cooperative launch guarantees.
//
// Compile-time: THREADS (256, 512 or 1024), ITEMS (at most 16), BINS (experts rounded up to a power of two, 64 <= BINS
// <= THREADS), BLOCK_M, MOST_BLOCKS, ID (int or long long), DROP, RELABEL, SHARED (bytes of shared
// memory); PHASES also writes the clock at the end of each phase.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int WARPS = THREADS / 32;
constexpr int CHUNK = THREADS * ITEMS;    // below 2^15, so that counts have 15 bits
constexpr bool SORT = ITEMS > 1;          // whether scattered stores would cost more than sorting the pairs first
constexpr int ROW = BINS / 2 + 1;         // words of a warp's counts; odd, so that 8 rows by 4 columns meet no bank twice
constexpr int ROWS = WARPS / 8;           // warps that a thread adds up
constexpr int PASSES = (BINS / 2 + THREADS / 8 - 1) / (THREADS / 8);
constexpr int WORDS = BINS / 4;           // published words of a block
constexpr int GROUPS = THREADS / WORDS;   // threads that read the same word of different blocks
constexpr int UNROLL = ITEMS < 4 ? 4 : 8; // words that a thread waits for at a time
constexpr u32 MOST_POLLS = 1u << 22;      // seconds: the launch is broken
constexpr u32 ALL = 0xffffffffu;

struct Shared {
    u32 order[CHUNK];              // ids (their low 32 bits); then, if SORT, pairs in expert order: expert << 16 | index
    union {
        u32 pairs[WARPS][ROW];     // 16 bits an expert: pairs of each warp, then where they begin in `order`
        uint2 part[GROUPS][4][WORDS + 8]; // (pairs of earlier blocks, of all), not yet summed over GROUPS; experts 4 * word + k
    };
    u32 block[BINS / 2];           // 16 bits an expert: pairs of the block
    u32 begin[BINS / 2];           // 16 bits an expert: where they begin in `order`, if SORT
    int shift[BINS];               // row of a pair - its place in `order`, or in its block's pairs of that expert
    int used[BINS];                // first row of the padding of each group
    int end[BINS];                 // one past its last
    int sorted;                    // entries of `order`
    u32 epoch;                     // of the launch before this one
    int warp_sum[32];
};

static_assert(SHARED == sizeof(Shared), "shared_bytes() in Python is for another layout");

#ifdef PHASES
#define PHASE(n) if (threadIdx.x == 0) clocks[blockIdx.x * 8 + n] = clock64();
#else
#define PHASE(n)
#endif

// Exclusive sum over the first BINS threads; every thread of the block calls it.
__device__ inline int exclusive_sum(int value, int* warp_sum) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int sum = value;
    #pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const int other = __shfl_up_sync(ALL, sum, distance);
        if (lane >= distance) sum += other;
    }
    if (lane == 31) warp_sum[warp] = sum;
    __syncthreads();
    const int before = __reduce_add_sync(ALL, lane < warp ? warp_sum[lane] : 0);
    return before + sum - value;
}

// Lanes whose expert is that of this lane. (match.any takes several times as long: one at a time per multiprocessor.)
__device__ inline u32 same_expert(int expert) {
    u32 same = __ballot_sync(ALL, expert >= 0);
    #pragma unroll
    for (int bit = 1; bit < BINS; bit *= 2)
        asm volatile(
            "{ .reg .pred set; .reg .b32 part, votes, other;\n"
            "and.b32 part, %1, %2; setp.ne.u32 set, part, 0; vote.sync.ballot.b32 votes, set, -1;\n"
            "selp.b32 other, 0, -1, set; lop3.b32 %0, %0, votes, other, 0x60; }"
            : "+r"(same) : "r"(expert), "r"(bit));
    return same;
}

// Copy an id into shared memory without waiting; 0 past the end.
__device__ inline void copy_async(u32* to, const int* from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 : : "r"(u32(__cvta_generic_to_shared(to))), "l"(from), "r"(valid ? 4 : 0) : "memory");
}

__device__ inline u64 load_relaxed(const u64* at) {
    u64 value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
    return value;
}

__device__ inline void store_relaxed(u64* at, u64 value) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" : : "l"(at), "l"(value) : "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) cooperative_align(
    const ID* __restrict__ ids,            // [numel] expert of each pair
    const int* __restrict__ expert_map,    // [E], read if DROP or RELABEL
    int* __restrict__ sorted_token_ids,    // [capacity], out
    int* __restrict__ expert_ids,          // [tiles], out
    int* __restrict__ num_tokens_post_padded,  // [1], out
    u64* state,  // [MOST_BLOCKS / 2] epochs, two a word, then [blocks][WORDS] published words; zero before the first launch
    int numel,
    u32 E
#ifdef PHASES
    , long long* clocks  // [blocks][8], out
#endif
) {
    extern __shared__ __align__(16) unsigned char memory[];
    Shared& s = *reinterpret_cast<Shared*>(memory);
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const int block = blockIdx.x, blocks = gridDim.x;
    const int first = block * CHUNK;
    PHASE(0)

    // Count: a warp has 32 * ITEMS consecutive pairs and ranks them 32 at a time, in order.
    // Through shared memory: of loads into registers the compiler leaves only a few in flight.
    #pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        const int index = (warp * ITEMS + i) * 32 + lane, pair = first + index;
        copy_async(&s.order[index], reinterpret_cast<const int*>(ids + (pair < numel ? pair : 0)), pair < numel);
    }
    int* const epochs = reinterpret_cast<int*>(state);
    u64* const words = state + MOST_BLOCKS / 2;
    if (blocks > 1 && thread == 0) copy_async(&s.epoch, epochs + block, true);
    #pragma unroll
    for (int i = 0; i < BINS / 64; i++) s.pairs[warp][lane + 32 * i] = 0;
    asm volatile("cp.async.wait_all;" : : : "memory");
    int expert[ITEMS], rank[ITEMS];
    #pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        const int index = (warp * ITEMS + i) * 32 + lane;
        expert[i] = first + index < numel && s.order[index] < E ? int(s.order[index]) : -1;
    }
#if DROP
    #pragma unroll
    for (int i = 0; i < ITEMS; i++) expert[i] = expert[i] < 0 ? -1 : expert_map[expert[i]];
#endif
    __syncwarp();
    u16* const count = reinterpret_cast<u16*>(s.pairs[warp]);
    #pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        const u32 same = same_expert(expert[i]);
        rank[i] = (expert[i] < 0 ? 0 : count[expert[i]]) + __popc(same & ((1u << lane) - 1));
        __syncwarp();
        if (expert[i] >= 0 && same >> lane == 1) count[expert[i]] = u16(rank[i] + 1);
        __syncwarp();
    }
    __syncthreads();
    const u32 epoch = blocks > 1 ? s.epoch + 1 : 0;
    PHASE(1)

    // Sum over the warps, 8 lanes a column of two experts, and publish.
    const int row = (lane >> 2) * ROWS;
    u32 here[PASSES][ROWS], before[PASSES];
    #pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
        const int column = pass * (THREADS / 8) + warp * 4 + (lane & 3);
        if (column < BINS / 2) {
            u32 sum = 0;
            #pragma unroll
            for (int w = 0; w < ROWS; w++) sum += here[pass][w] = s.pairs[row + w][column];
            u32 total = sum;
            #pragma unroll
            for (int distance = 4; distance < 32; distance *= 2) {
                const u32 other = __shfl_up_sync(ALL, total, distance);
                if (lane >= distance) total += other;
            }
            before[pass] = total - sum;
            const u32 two = (total & 0x7fff) | total >> 16 << 15, next_two = __shfl_down_sync(ALL, two, 1);
            if (lane >= 28) {
                s.block[column] = total;
                if (blocks > 1 && lane % 2 == 0)
                    store_relaxed(words + block * WORDS + column / 2, u64(epoch) << 60 | u64(next_two) << 30 | two);
            }
        }
    }
    __syncthreads();
    PHASE(2)

    // Sort the block's pairs while the counts travel.
    const u32 mine = thread < BINS ? reinterpret_cast<u16*>(s.block)[thread] : 0;
    int begin = 0;
    if (SORT) {
        begin = exclusive_sum(mine, s.warp_sum);
        if (thread < BINS) reinterpret_cast<u16*>(s.begin)[thread] = u16(begin);
        if (thread == BINS - 1) s.sorted = begin + int(mine);
        __syncthreads();
    }
    #pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
        const int column = pass * (THREADS / 8) + warp * 4 + (lane & 3);
        if (column < BINS / 2) {
            u32 sum = before[pass] + (SORT ? s.begin[column] : 0);
            #pragma unroll
            for (int w = 0; w < ROWS; w++) {
                s.pairs[row + w][column] = sum;
                sum += here[pass][w];
            }
        }
    }
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        if (expert[i] >= 0) {
            rank[i] += count[expert[i]];
            if (SORT) s.order[rank[i]] = u32(expert[i]) << 16 | u32((warp * ITEMS + i) * 32 + lane);
        }
    }
    if (blocks > 1) __syncthreads();
    PHASE(3)

    // Collect the counts of all blocks.
    u32 earlier = 0, total = mine;
    if (blocks > 1) {
        const int group = thread / WORDS, word = thread % WORDS;
        uint2 sum[4] = {};
        #pragma unroll 1
        for (int base = group; base < blocks; base += GROUPS * UNROLL) {
            u64 value[UNROLL];
            bool late;
            u32 polls = 0;
            do {
                late = false;
                #pragma unroll
                for (int u = 0; u < UNROLL; u++) {
                    const int other = base + u * GROUPS;
                    value[u] = other < blocks ? load_relaxed(words + other * WORDS + word) : u64(epoch) << 60;
                }
                #pragma unroll
                for (int u = 0; u < UNROLL; u++) late |= value[u] >> 60 != (epoch & 15);
                if (++polls == MOST_POLLS) __trap();
                if (late) __nanosleep(20);  // leaves the L2 cache to those who still write
            } while (late);
            #pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                const bool is_before = base + u * GROUPS < block;
                #pragma unroll
                for (int k = 0; k < 4; k++) {
                    const u32 pairs = u32(value[u] >> 15 * k) & 0x7fff;
                    sum[k].y += pairs;
                    sum[k].x += is_before ? pairs : 0;
                }
            }
        }
        #pragma unroll
        for (int k = 0; k < 4; k++) s.part[group][k][word] = sum[k];
        __syncthreads();
        total = 0;
        if (thread < BINS) {
            #pragma unroll
            for (int g = 0; g < GROUPS; g++) {
                const uint2 sum = s.part[g][thread & 3][thread >> 2];
                earlier += sum.x;
                total += sum.y;
            }
        }
    }
    PHASE(4)

    // Lay the groups out.
    const int tiles = (int(total) + BLOCK_M - 1) / BLOCK_M;
    const int tile = exclusive_sum(tiles, s.warp_sum);
    if (thread < BINS) {
        s.shift[thread] = tile * BLOCK_M + int(earlier) - begin;
        s.used[thread] = tile * BLOCK_M + int(total);
        s.end[thread] = (tile + tiles) * BLOCK_M;
    }
    __syncthreads();
    PHASE(5)

    // Place: after sorting, neighbouring threads write neighbouring rows.
    if (SORT) {
        #pragma unroll 4
        for (int place = thread; place < s.sorted; place += THREADS) {
            const u32 entry = s.order[place];
            sorted_token_ids[s.shift[entry >> 16] + place] = first + int(entry & 0xffff);
        }
    } else {
        #pragma unroll
        for (int i = 0; i < ITEMS; i++)
            if (expert[i] >= 0) sorted_token_ids[s.shift[expert[i]] + rank[i]] = first + (warp * ITEMS + i) * 32 + lane;
    }
    #pragma unroll 4
    for (int p = block * THREADS + thread; p < E * BLOCK_M; p += blocks * THREADS) {
        const int e = p / BLOCK_M, row = s.used[e] + p % BLOCK_M;
        if (row < s.end[e]) sorted_token_ids[row] = numel;
    }
    if (thread < E) {
        const int label = RELABEL && tiles ? expert_map[thread] : thread;
        #pragma unroll 1
        for (int i = block; i < tiles; i += blocks) expert_ids[tile + i] = label;
        if (thread == E - 1 && block == 0) *num_tokens_post_padded = (tile + tiles) * BLOCK_M;
    }
    const int other = thread * blocks + block;  // all epochs stay equal, also those of blocks that this launch lacks
    if (blocks > 1 && other < MOST_BLOCKS) epochs[other] = int(epoch);
    PHASE(6)
}
