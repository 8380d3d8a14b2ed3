// Both GEMMs of an experts layer in one launch of persistent, warp-specialised blocks (Hopper: wgmma, bulk copies).
//
// The product is taken the other way round, y^T = w x^T: weights are the 64 rows of a wgmma and tokens its columns,
// which go in steps of eight. So an expert's tokens are padded to 8 or 16, not to 64 or 128, and all M take one path.
//
// A tile is MBLK * 128 weight rows by up to MAX_N tokens of one expert. A block first does every gridDim-th w13 tile,
// then takes w2 tiles from a counter as it gets to them, so that all end together whatever a tile costs. Weights depend
// on nothing that is computed here, so the warp that fetches them runs ahead by as many stages as fit, across tiles and
// from w13 into w2; only the warps that gather rows of the hidden activations wait until the tiles of that expert are
// done. All blocks run at the same time.
// Weights are stored as they are used: 128 rows by 64 columns after one another, swizzled (see hopper_moe.py), so a copy
// is one piece.
//
// Threads: two warpgroups multiply, two fetch (one warp the weights, seven the rows).
//
// Compile-time: MBLK (1 or 2), MAX_N, STEP, STAGES, TOPK, E, MOST_PAIRS (0: sorted pairs are given; else as many as it
// sorts itself at most), KEEP_Y (the L2 cache is told to keep rows of y), HALF (fp16, else bf16), SWIGLUOAI, ALPHA,
// LIMIT, ID (type of topk_ids). wgmma<N>() and FOR_EACH_N(X) precede this text.

typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int CONSUMERS = 256, THREADS = 512, GATHERERS = 224;
constexpr int UNIT = 16384;               // bytes of 128 weight rows by 64 columns
constexpr int W_BYTES = MBLK * UNIT;
constexpr int STAGE_BYTES = W_BYTES + MAX_N * 128;
constexpr int ROWS_EACH = (MAX_N + GATHERERS / 8 - 1) / (GATHERERS / 8); // rows that a gathering thread takes, at most
constexpr int RING = STAGES + 1;          // tiles that are fetched or multiplied at the same time, at most
constexpr u32 EARLY_BYTES = 65536;        // of weights that a block asks the L2 cache for before it knows its tiles
constexpr u32 MOST_POLLS = 1u << 24;      // seconds: the launch is broken
constexpr u32 ALL = 0xffffffffu;

#if MOST_PAIRS
typedef unsigned short Pair;
#else
typedef int Pair;
#endif

struct Shared {
    u64 full[STAGES];
    u64 empty[STAGES];
    u64 taken[RING];                      // the last w2 tiles: number among the block's tiles, then index
    u32 ended[2];                         // warps of a group that wrote all of a w13 tile, over all tiles so far
    int row_begin[E + 1];                 // where an expert's pairs begin
    int tile_end[E];                      // token tiles of experts up to this one
    int total;                            // token tiles
#if !MOST_PAIRS
    alignas(8) Pair pairs[RING][MAX_N];   // of the last tiles' tokens
#else
    Pair sorted[MOST_PAIRS + MAX_N];      // pairs by expert; a tile looks past its last
    int overflow;                         // an expert has several token tiles
#endif
};

struct Tile {
    int phase;                            // 0: w13, 1: w2
    int expert;
    int unit;                             // of MBLK * 128 weight rows
    int row;                              // first sorted pair
    int valid;                            // pairs
    int n;                                // columns of the wgmma
    int tiles;                            // token tiles of the expert
};

__device__ inline u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ inline void barrier_init(u64* b, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count));
}

__device__ inline void arrive(u64* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

__device__ inline bool is_past(u64* b, u32 parity) {
    u32 done;
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(done) : "r"(shared_address(b)), "r"(parity) : "memory");
    return done;
}

// Does not suspend the thread, as is_past does for up to microseconds.
__device__ inline bool is_past_now(u64* b, u32 parity) {
    u32 done;
    asm volatile(
        "{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(done) : "r"(shared_address(b)), "r"(parity) : "memory");
    return done;
}

__device__ inline void wait(u64* b, u32 parity) {
    for (u32 polls = 0; !is_past(b, parity);)
        if (++polls > MOST_POLLS) __trap();
}

// `once`: what is copied is not read again, so the L2 cache may forget it first. An explicit evict_normal is slower
// than no policy.
__device__ inline void bulk_copy(u32 to, const char* from, u64* barrier, bool once, u64 policy) {
    if (once)
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;"
            ::"r"(to), "l"(from), "n"(UNIT), "r"(shared_address(barrier)), "l"(policy) : "memory");
    else
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
            ::"r"(to), "l"(from), "n"(UNIT), "r"(shared_address(barrier)) : "memory");
}

__device__ inline u64 evict_first() {
    u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

__device__ inline u64 evict_last() {
    u64 policy;
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

__device__ inline u64 row_of(const char* base, u32 row, u32 row_bytes) {
    u64 at;
    asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(at) : "r"(row), "r"(row_bytes), "l"(base));
    return at;
}

// Said to be global, so that reads of shared memory may move across.
__device__ inline void store(u64 to, unsigned short value) {
    asm volatile("st.global.u16 [%0], %1;" ::"l"(to), "h"(value));
}

__device__ inline void store(u64 to, u32 value) { asm volatile("st.global.u32 [%0], %1;" ::"l"(to), "r"(value)); }

__device__ inline void store_y(u64 to, u32 value, u64 policy) {
    if (KEEP_Y) asm volatile("st.global.L2::cache_hint.b32 [%0], %1, %2;" ::"l"(to), "r"(value), "l"(policy));
    else store(to, value);
}

__device__ inline void store_y(u64 to, uint2 value, u64 policy) {
    if (KEEP_Y)
        asm volatile("st.global.L2::cache_hint.v2.b32 [%0], {%1, %2}, %3;"
                     ::"l"(to), "r"(value.x), "r"(value.y), "l"(policy));
    else
        asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(value.x), "r"(value.y));
}

__device__ inline u64 descriptor(u32 address) {
    // K-major, 128-byte swizzle: groups of 8 rows lie 1024 bytes apart.
    return (u64)((address & 0x3ffff) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}

__device__ inline u32 pack(float low, float high) {
    u32 out;
#if HALF
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
#endif
    return out;
}

// Without denormal numbers: with them the instructions around exp are as many as all others of a gate.
__device__ inline float sigmoid(float x) {
    float power, inverse;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + power));
    return inverse;
}

__device__ inline float gated(float gate, float up) {
#if SWIGLUOAI
    gate = fminf(gate, LIMIT);
    up = fminf(fmaxf(up, -LIMIT), LIMIT);
    return (up + 1.0f) * gate * sigmoid(gate * ALPHA);
#else
    return gate * up * sigmoid(gate);
#endif
}

// Sizes of which there is a wgmma<N>().
__device__ inline int padded(int tokens) {
    return (tokens + STEP - 1) / STEP * STEP;
}

__device__ inline uint2 two_pairs(const Pair* p) {
#if MOST_PAIRS
    return make_uint2(p[0], p[1]);
#else
    return *(const uint2*)p;
#endif
}

// Which tiles a block works at, as its warps see them: those of w13 follow from its number, those of w2 are told by the
// fetching warp, which takes them from the counter.
struct Order {
    Shared& s;
    int tiles13, end;                     // end: behind the last index of w2

    __device__ int static_index(int i) const { return blockIdx.x + i * gridDim.x; }

    // Index of the block's tile number i; not below `end` if there is none.
    __device__ int tile(int i) const {
        if (static_index(i) < tiles13) return static_index(i);
        u64 taken;
        do {
            asm volatile("ld.volatile.shared.u64 %0, [%1];"
                         : "=l"(taken) : "r"(shared_address(s.taken + i % RING)) : "memory");
        } while (taken >> 32 != i);
        return (int)taken;
    }
};

__device__ inline Tile decode(const Shared& s, int index, int units13, int units2) {
    Tile t;
    const int tiles13 = s.total * units13;
    t.phase = index >= tiles13;
    const int units = t.phase ? units2 : units13, within = t.phase ? index - tiles13 : index;
    const int token_tile = within / units;
    t.unit = within - token_tile * units;
    int low = 0, high = E - 1;            // the first expert whose tile_end is above token_tile
    while (low < high) {
        const int middle = (low + high) / 2;
        if (s.tile_end[middle] > token_tile) high = middle; else low = middle + 1;
    }
    t.expert = low;
    const int before = low ? s.tile_end[low - 1] : 0, rows = s.row_begin[low + 1] - s.row_begin[low];
    t.tiles = s.tile_end[low] - before;
    const int each = padded((rows + t.tiles - 1) / t.tiles), begin = (token_tile - before) * each;
    t.row = s.row_begin[low] + begin;
    t.valid = min(each, rows - begin);
    t.n = padded(t.valid);
    return t;
}

// What an expert's row_begin and tile_end follow from: its counts (in tile_end) if the pairs are sorted here.
__device__ inline void scan_experts(Shared& s, bool counted) {
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

struct Arguments {
    const char* x;                        // [M, k13]
    const char* w13;                      // units of [E, 2 * N, k13]
    const char* w2;                       // units of [E, K, k2]
    char* hidden;                         // [numel, k2]
    char* y;                              // [numel, K]
    const Pair* sorted;                   // pairs by expert
    u32* done;                            // [E + 2], zero: w13 tiles done, of each expert; blocks that wait no more;
                                          // w2 tiles taken
    int numel, units13, units2, steps13, steps2, columns;
    bool fused;                           // both phases in this launch
};

// The first weights of a tile of w13 that some block will do: until tiles are known the memory would have nothing to do.
__device__ inline void prefetch_early(const char* w13, const ID* topk_ids, int numel, int units13, int steps13) {
    const int tiles = (units13 + MBLK - 1) / MBLK, nth = blockIdx.x / tiles, unit = blockIdx.x % tiles * MBLK;
#if MOST_PAIRS
    const u32 expert = nth < numel ? (u32)topk_ids[nth] : E;
#else
    const u32 expert = nth;
#endif
    const u32 unit_bytes = steps13 * UNIT;
    for (int u = unit; expert < E && u < min(unit + MBLK, units13); u++)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;"
                     ::"l"(w13 + ((u64)expert * units13 + u) * unit_bytes), "r"(min(unit_bytes, EARLY_BYTES / MBLK))
                     : "memory");
}

// Calls each(i, pair, stored) for the columns of a thread: i is where its accumulators of the column begin.
template <int N, class Each>
__device__ inline void for_columns(const Pair* pairs, int inside, u32 numel, Each each) {
    #pragma unroll
    for (int j = 0; j < N / 8; j++) {
        const uint2 two = two_pairs(pairs + 8 * j);
        #pragma unroll
        for (int c = 0; c < 2; c++) {
            const u32 pair = c ? two.y : two.x;
            each(4 * j + c, pair, 8 * j + c < inside && pair < numel);
        }
    }
}

template <int N>
__device__ inline void multiply(
    Shared& s, u32 stages, const Tile& t, const Arguments& a, const Pair* pairs, int& stage, u32& parity) {
    const int group = threadIdx.x >> 7, thread = threadIdx.x & 127, lane = threadIdx.x & 31, warp = thread >> 5;
    const int steps = t.phase ? a.steps2 : a.steps13;
    float acc[MBLK][N / 2];
    #pragma unroll
    for (int b = 0; b < MBLK; b++)
        #pragma unroll
        for (int i = 0; i < N / 2; i++) acc[b][i] = 0.0f; // undefined, those of every N would stay alive
    int previous = -1;
    for (int k = 0; k < steps; k++) {
        wait(&s.full[stage], parity);
        const u32 base = stages + stage * STAGE_BYTES;
        const u64 w = descriptor(base + group * MBLK * 8192), x = descriptor(base + W_BYTES);
        #pragma unroll
        for (int b = 0; b < MBLK; b++)
            #pragma unroll
            for (int i = 0; i < N / 2; i++) asm volatile("" : "+f"(acc[b][i])::"memory");
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        #pragma unroll
        for (int part = 0; part < 4; part++)
            #pragma unroll
            for (int b = 0; b < MBLK; b++)
                wgmma<N>(acc[b], w + b * 512 + part * 2, x + part * 2);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        #pragma unroll
        for (int b = 0; b < MBLK; b++)
            #pragma unroll
            for (int i = 0; i < N / 2; i++) asm volatile("" : "+f"(acc[b][i])::"memory");
        if (previous >= 0) {
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            if (lane == 0) arrive(&s.empty[previous]);
        }
        previous = stage;
        if (++stage == STAGES) { stage = 0; parity ^= 1; }
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    #pragma unroll
    for (int b = 0; b < MBLK; b++)
        #pragma unroll
        for (int i = 0; i < N / 2; i++) asm volatile("" : "+f"(acc[b][i])::"memory");
    if (lane == 0) arrive(&s.empty[previous]);

    // A thread holds rows lane / 4 and lane / 4 + 8 of its warp's 16 in each block, and columns 8 j + 2 (lane % 4) + c.
    // hopper_moe.py orders weight rows so that those are neighbouring features (w2), or gates above ups (w13).
    const int unit = MBLK == 2 ? 2 * t.unit + group : t.unit;
    const int block = MBLK == 2 ? 0 : group;
    const int column = 2 * (lane & 3), columns = t.valid - column;
    if (t.phase == 0) {
        const u32 row_bytes = a.steps2 * 128;
        char* to = a.hidden + (unit * 64 + warp * 16 + (lane >> 2) * 2 + block) * 2;
        const int inside = unit < a.units13 ? columns : 0;
        asm volatile("" : "+l"(to)); // else ptxas adds the base to every address anew
        for_columns<N>(pairs + column, inside, a.numel, [&](int i, u32 pair, bool stored) {
            const float first = gated(acc[0][i], acc[0][i + 2]);
            if (MBLK == 2) {
                const float second = gated(acc[MBLK - 1][i], acc[MBLK - 1][i + 2]);
                if (stored) store(row_of(to, pair, row_bytes), pack(first, second));
            } else if (stored) {
                store(row_of(to, pair, row_bytes), (unsigned short)pack(first, first));
            }
        });
        if (!a.fused) return;
        __syncwarp();
        if (lane == 0)
            asm volatile("red.release.cta.shared::cta.add.u32 [%0], 1;"
                         ::"r"(shared_address(s.ended + group)) : "memory");
    } else {
        const u32 row_bytes = a.columns * 2;
        const u64 keep = evict_last();
        const int feature = unit * 128 + warp * 32 + (lane >> 2) * 4 + block * 2;
        char* to = a.y + feature * 2;
        const int inside = feature < a.columns ? columns : 0;
        asm volatile("" : "+l"(to));
        for_columns<N>(pairs + column, inside, a.numel, [&](int i, u32 pair, bool stored) {
            const u32 first = pack(acc[0][i], acc[0][i + 2]);
            if (MBLK == 2) {
                const u32 second = pack(acc[MBLK - 1][i], acc[MBLK - 1][i + 2]);
                if (stored) store_y(row_of(to, pair, row_bytes), make_uint2(first, second), keep);
            } else if (stored) {
                store_y(row_of(to, pair, row_bytes), first, keep);
            }
        });
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) hopper_moe(
    const char* x, const char* w13, const char* w2, char* hidden, char* y, const float* topk_weights,
    const ID* topk_ids, const int* sorted_token_ids, const int* expert_ids, const int* num_tokens_post_padded,
    u32* done,
    int numel, int rows13, int columns, int k13, int k2, int first_phase, int last_phase) {
    extern __shared__ char raw[];
    const u32 stages = (shared_address(raw) + 1023) / 1024 * 1024;
    Shared& s = *(Shared*)(raw + (stages - shared_address(raw)) + STAGES * STAGE_BYTES);
    const int thread = threadIdx.x, lane = thread & 31;

    if (thread == THREADS - 1 && first_phase == 0) prefetch_early(w13, topk_ids, numel, rows13 / 128, k13 / 64);
    // The launch that sums up the rows will want them.
    for (int i = (blockIdx.x * THREADS + thread) * 32; i < numel; i += gridDim.x * THREADS * 32)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(topk_weights + i));
    if (thread == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&s.full[i], 1 + GATHERERS);
            barrier_init(&s.empty[i], CONSUMERS / 32);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        s.ended[0] = s.ended[1] = 0;
        for (int i = 0; i < RING; i++) s.taken[i] = ~0ull;
    }
#if MOST_PAIRS
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
    if (thread < 32) scan_experts(s, true);
    __syncthreads();
    if (s.overflow) {
        // Blocks must agree on which pairs are whose tile: ranks in the order of the pairs. The stages lend the memory.
        int (*before)[E] = (int (*)[E])(raw + (stages - shared_address(raw)));
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
    const Pair* sorted = s.sorted;
#else
    // Groups of 8 rows, in the order of their experts.
    const int groups = *num_tokens_post_padded / 8;
    for (int g = thread; g <= groups; g += THREADS) {
        const int before = g ? expert_ids[g - 1] : -1, here = g < groups ? expert_ids[g] : E;
        for (int e = before + 1; e <= here; e++) s.row_begin[e] = g * 8;
    }
    __syncthreads();
    if (thread < 32) scan_experts(s, false);
    const Pair* sorted = sorted_token_ids;
#endif
    __syncthreads();

    const Arguments a = {x, w13, w2, hidden, y, sorted, done,
                         numel, rows13 / 128, (columns + 127) / 128, k13 / 64, k2 / 64, columns,
                         first_phase < last_phase};
    const int units13 = (a.units13 + MBLK - 1) / MBLK, units2 = (a.units2 + MBLK - 1) / MBLK;
    const int tiles13 = first_phase ? 0 : s.total * units13, skipped = first_phase ? s.total * units13 : 0;
    const Order order{s, tiles13, tiles13 + (last_phase ? s.total * units2 : 0)};
    int stage = 0;
    u32 parity = 0;

    if (thread < CONSUMERS) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 208;");
        int slot = 0;
        for (int i = 0, index; (index = order.tile(i)) < order.end; i++) {
            const Tile t = decode(s, skipped + index, units13, units2);
#if MOST_PAIRS
            const Pair* pairs = s.sorted + t.row;
#else
            const Pair* pairs = s.pairs[slot];
#endif
            slot = slot == RING - 1 ? 0 : slot + 1;
            switch (t.n) {
#define CASE(N) case N: multiply<N>(s, stages, t, a, pairs, stage, parity); break;
                FOR_EACH_N(CASE)
            }
        }
    } else {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 48;");
        const int warp = (thread - CONSUMERS) >> 5;
        if (warp == 0) {
            if (lane == 0) {
                const u64 policy = evict_first();
                // Tiles of w13 that the block ended are told from here: the fence before it waits until all that was
                // written is in the L2 cache, and would hold up the multiplying warps.
                int told = a.fused ? blockIdx.x : tiles13;
                u32 ended = 0;
                const auto tell = [&](bool wait_for_it) {
                    while (told < tiles13) {
                        u32 first, second;
                        do {
                            asm volatile("ld.acquire.cta.shared::cta.v2.u32 {%0, %1}, [%2];"
                                         : "=r"(first), "=r"(second) : "r"(shared_address(s.ended)) : "memory");
                        } while (wait_for_it && (first < ended + 4 || second < ended + 4));
                        if (first < ended + 4 || second < ended + 4) return;
                        ended += 4;
                        const Tile t = decode(s, told, units13, units2);
                        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(done + t.expert) : "memory");
                        told += gridDim.x;
                    }
                };
                // A w2 tile is taken when two steps of the one before are left: late enough that blocks with more of
                // w13 get less of w2, early enough that the counter is read when the tile begins.
                int taken = 0;
                const auto take = [&](int i) {
                    if (order.static_index(i) >= tiles13) taken = tiles13 + atomicAdd(done + E + 1, 1);
                };
                take(0);
                for (int i = 0;; i++) {
                    int index = order.static_index(i);
                    if (index >= tiles13) {
                        index = taken;
                        asm volatile("st.volatile.shared.u64 [%0], %1;"
                                     ::"r"(shared_address(s.taken + i % RING)), "l"((u64)i << 32 | index) : "memory");
                    }
                    if (index >= order.end) break;
                    const Tile t = decode(s, skipped + index, units13, units2);
                    const int units = t.phase ? a.units2 : a.units13, steps = t.phase ? a.steps2 : a.steps13;
                    const char* from = (t.phase ? w2 : w13) + ((u64)t.expert * units + t.unit * MBLK) * steps * UNIT;
                    // Past the last unit: any weights, never stored.
                    const u64 next = MBLK == 2 && t.unit * 2 + 1 < units ? (u64)steps * UNIT : 0;
                    const bool once = t.tiles == 1;
                    for (int k = 0; k < steps; k++, from += UNIT) {
                        if (k == max(0, steps - 2)) take(i + 1);
                        // What the stage waits for may itself wait for a tile that is still to be told.
                        while (told < tiles13 && !is_past_now(&s.empty[stage], parity ^ 1)) tell(false);
                        wait(&s.empty[stage], parity ^ 1);
                        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                                     ::"r"(shared_address(&s.full[stage])), "r"(W_BYTES) : "memory");
                        const u32 to = stages + stage * STAGE_BYTES;
                        bulk_copy(to, from, &s.full[stage], once, policy);
                        if (MBLK == 2) bulk_copy(to + UNIT, from + next, &s.full[stage], once, policy);
                        if (++stage == STAGES) { stage = 0; parity ^= 1; }
                        tell(false);
                    }
                }
                tell(true);
            }
        } else {
            const int g = thread - CONSUMERS - 32, chunk = g & 7, first = g >> 3;
            int slot = 0;
            for (int i = 0, index; (index = order.tile(i)) < order.end; i++) {
                const Tile t = decode(s, skipped + index, units13, units2);
                const int steps = t.phase ? a.steps2 : a.steps13;
                const int count = max(0, (t.n - first + GATHERERS / 8 - 1) / (GATHERERS / 8));
                const char* from[ROWS_EACH];
                #pragma unroll
                for (int i = 0; i < ROWS_EACH; i++) {
                    // Rows of padding read the first row: what they give is not stored.
                    const int row = first + i * (GATHERERS / 8);
                    int pair = a.sorted[t.row + (row < t.valid ? row : 0)];
                    if (pair >= numel) pair = a.sorted[t.row];
                    from[i] = (t.phase ? hidden : x) + (u64)(u32)(t.phase ? pair : pair / TOPK) * (steps * 128)
                        + chunk * 16;
                }
                if (t.phase && a.fused) {
                    if (lane == 0) {
                        const u32 expected = t.tiles * units13;
                        u32 seen, polls = 0;
                        while (true) {
                            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                                         : "=r"(seen) : "l"(done + t.expert) : "memory");
                            if (seen >= expected) break;
                            __nanosleep(40);
                            if (++polls > MOST_POLLS) __trap();
                        }
                    }
                    __syncwarp();
                }
                for (int k = 0; k < steps; k++) {
                    wait(&s.empty[stage], parity ^ 1);
#if !MOST_PAIRS
                    for (int i = g; k == 0 && i < t.valid; i += GATHERERS)
                        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                                     ::"r"(shared_address(&s.pairs[slot][i])), "l"(a.sorted + t.row + i) : "memory");
#endif
                    // GATHERERS / 8 = 28 rows further on the swizzle has the other value of two.
                    const u32 to = stages + stage * STAGE_BYTES + W_BYTES + first * 128;
                    const u32 even = to + ((chunk ^ (first & 7)) << 4), odd = to + ((chunk ^ (first & 7) ^ 4) << 4);
                    #pragma unroll
                    for (int i = 0; i < ROWS_EACH; i++) {
                        if (i < count)
                            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                                         ::"r"((i & 1 ? odd : even) + i * (GATHERERS / 8) * 128), "l"(from[i])
                                         : "memory");
                        from[i] += 128;
                    }
                    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];"
                                 ::"r"(shared_address(&s.full[stage])) : "memory");
                    if (++stage == STAGES) { stage = 0; parity ^= 1; }
                }
                slot = slot == RING - 1 ? 0 : slot + 1;
            }
            // No block waits any more once all have come here: the last one leaves zeros for the next launch.
            asm volatile("bar.sync 3, 224;" ::: "memory");
            if (g < 32) {
                u32 ticket = 0;
                if (lane == 0) ticket = atomicAdd(done + E, 1);
                if (__shfl_sync(ALL, ticket, 0) == gridDim.x - 1)
                    for (int e = lane; e <= E + 1; e += 32) done[e] = 0;
            }
        }
    }
}
