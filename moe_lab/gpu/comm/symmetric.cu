// SPDX-License-Identifier: Apache-2.0
// Dispatch and combine between the GPUs of a host: each rank writes straight into the others' memory over NVLink. One
// launch a direction, and no barrier of all ranks.
//
// Row t of rank s has a place of its own, [s][t], on every rank, so nobody counts, and where it is combined follows from
// where it lay. Block b of each rank does tokens b, b + BLOCKS, ... and meets block b of the others alone: when all
// blocks of a rank have ended, all of its rows are there.
//
// Dispatch raises flags behind its rows. Combine needs none: results come to places that are EMPTY, whoever adds them up
// waits until they are not, and empties them again. That saves the time until a flag may follow the last byte, and a
// rank adds up early tokens while late ones still travel.
//
// What may be overwritten: every launch of a rank has a number, which its blocks tell the others when they begin. A
// dispatch writes when the others have begun the same launch, so that their experts and combine have read what was there.
// A combine writes when they have begun the launch before it: launches take turns with two sets of places for results, so
// that those of a set were read and emptied a launch ago. Numbers lie on the device, so that a CUDA graph may be replayed.
//
// Compile-time: THREADS, BLOCKS, RANKS, RANK, TOKENS (most of a rank), EACH (most of a block), K, TOPK, E, COPIES, ROW
// (bytes from a received row to the next), FP8 (rows travel in e4m3, with a scale for each 128 numbers behind them), HALF
// (tokens are fp16, else bf16), WAIT_NS, and where in each rank's memory things begin: STARTED, ARRIVED (flags), IDS,
// WEIGHTS, ROWS, BACK.

typedef unsigned int u32;
typedef unsigned long long u64;

#include "../kernels/numbers.cuh"
#include "link.cuh"

constexpr u32 ALL = 0xffffffffu;          // lanes of a warp
constexpr u32 EMPTY = 0x80008000u;        // two numbers of -0, which no rank sends
constexpr int WARPS = THREADS / 32;
constexpr int POLLS = 256;                // between two looks at the clock

__device__ inline int lane_of() { return threadIdx.x & 31; }

__device__ inline int token_of(int which) { return blockIdx.x + which * BLOCKS; }

__device__ inline u64 place_of(int rank, int token) { return (u64)rank * TOKENS + token; }

// Each lane holds where the memory of the rank of its number begins.
__device__ inline char* memory_of(char* own, int rank) { return (char*)__shfl_sync(ALL, (u64)own, rank); }

__device__ inline u32* flag_of(char* memory, u64 flags, int rank) {
    return (u32*)(memory + flags) + rank * BLOCKS + blockIdx.x;
}

// Whether to wait no longer. The first rank that does not come in time is noted, and from then on nobody waits.
struct Patience {
    u32 polls;
    u64 began;

    __device__ inline bool ends(u32* missing, int rank) {
        if (++polls % POLLS) return false;
        if (*(volatile u32*)missing) return true;
        if (polls == POLLS) began = now_ns();
        if (now_ns() - began < WAIT_NS) return false;
        atomicCAS(missing, 0u, (u32)rank + 1);
        return true;
    }
};

// Lanes wait until this block of every other rank has raised its flag to a number.
__device__ inline void meet(char* memory, u64 flags, u32 number, u32* missing) {
    const int rank = lane_of();
    if (rank < RANKS && rank != RANK) {
        Patience patience = {0, 0};
        while ((int)(seen(flag_of(memory, flags, rank)) - number) < 0 && !patience.ends(missing, rank)) {}
    }
    __syncwarp();
}

// N consecutive pieces of 16 bytes for each lane, 32 apart; zeros behind the end of a row.
template <int N, int PIECES>
__device__ inline void read_pieces(uint4 (&out)[N], const char* row, int first) {
    #pragma unroll
    for (int i = 0; i < N; i++) {
        const int piece = first + i * 32 + lane_of();
        out[i] = piece < PIECES ? ((const uint4*)row)[piece] : make_uint4(0, 0, 0, 0);
    }
}

template <int N, int PIECES>
__device__ inline void write_pieces(const uint4 (&in)[N], char* row, int first) {
    #pragma unroll
    for (int i = 0; i < N; i++) {
        const int piece = first + i * 32 + lane_of();
        if (piece < PIECES) ((uint4*)row)[piece] = in[i];
    }
}

// Dispatch.

#if FP8

constexpr int SENT = K / 16, STEPS = 2;   // pieces of a row, and of a lane: a warp sends 1024 numbers, so 8 scales

// What a lane reads of a row, from the piece `first` of its warp on, and what it sends.
struct Read {
    uint4 in[STEPS][2];
};

struct Part {
    uint4 out[STEPS];
    float scale[STEPS];
};

// A lane's sixteen numbers; eight lanes share a scale.
__device__ inline uint4 quantise(const uint4* two, float& scale) {
    const u32 in[8] = {two[0].x, two[0].y, two[0].z, two[0].w, two[1].x, two[1].y, two[1].z, two[1].w};
    float largest = 0.0f;
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        const float2 v = unpack(in[i]);
        largest = fmaxf(largest, fmaxf(fabsf(v.x), fabsf(v.y)));
    }
    #pragma unroll
    for (int distance = 4; distance; distance /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, distance));
    scale = scale_of(largest);
    const float inverse = inverse_of(largest);
    u32 out[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 a = unpack(in[2 * i]), b = unpack(in[2 * i + 1]);
        out[i] = to_e4m3(a.x * inverse, a.y * inverse) | (u32)to_e4m3(b.x * inverse, b.y * inverse) << 16;
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

__device__ inline void read_part(Read& read, const char* row, int first) {
    #pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const int piece = first + i * 32 + lane_of();
        #pragma unroll
        for (int j = 0; j < 2; j++)
            read.in[i][j] = piece < SENT ? ((const uint4*)row)[2 * piece + j] : make_uint4(0, 0, 0, 0);
    }
}

__device__ inline Part part_of(const Read& read) {
    Part part;
    #pragma unroll
    for (int i = 0; i < STEPS; i++) part.out[i] = quantise(read.in[i], part.scale[i]);
    return part;
}

__device__ inline void write_part(const Part& part, char* row, int first) {
    write_pieces<STEPS, SENT>(part.out, row, first);
    // Eight lanes take the scales from those that have them, so that they travel together.
    const int lane = lane_of(), group = first / 8 + lane;
    const float low = __shfl_sync(ALL, part.scale[0], (lane & 3) * 8);
    const float high = __shfl_sync(ALL, part.scale[1], (lane & 3) * 8);
    if (lane < 8 && group < K / 128) ((float*)(row + K))[group] = lane < 4 ? low : high;
}

#else

constexpr int SENT = K / 8, STEPS = 4;

struct Part {
    uint4 out[STEPS];
};

using Read = Part;

__device__ inline void read_part(Read& read, const char* row, int first) {
    read_pieces<STEPS, SENT>(read.out, row, first);
}

__device__ inline Part part_of(const Read& read) { return read; }

__device__ inline void write_part(const Part& part, char* row, int first) {
    write_pieces<STEPS, SENT>(part.out, row, first);
}

#endif

constexpr int SLOTS = (TOPK + 31) / 32;   // pairs of a token that a lane looks at

struct Router {
    const int* ids;                       // [M, TOPK] of `words` words each, -1 = dropped
    const float* weights;                 // [M, TOPK]
    const int* routes;                    // [2, COPIES, E]: rank and local number, see Parallel.routes
    int words, M;
};

// Where a token's pairs go, of which a lane has every 32nd.
struct Pairs {
    int rank[SLOTS], number[SLOTS];       // -1: dropped
    float weight[SLOTS];
    u32 ranks;                            // a bit for each that has experts of the token
};

__device__ inline Pairs pairs_of(const Router& router, int token) {
    Pairs pairs;
    u32 ranks = 0;
    #pragma unroll
    for (int i = 0; i < SLOTS; i++) {
        const int slot = i * 32 + lane_of(), pair = token * TOPK + slot;
        const int id = slot < TOPK && token < router.M ? router.ids[(u64)pair * router.words] : -1;
        const bool real = (u32)id < (u32)E;
        const int at = token % COPIES * E + id;
        pairs.rank[i] = real ? router.routes[at] : -1;
        pairs.number[i] = real ? router.routes[COPIES * E + at] : -1;
        pairs.weight[i] = real ? router.weights[pair] : 0.0f;
        ranks |= real ? 1u << pairs.rank[i] : 0;
    }
    pairs.ranks = __reduce_or_sync(ALL, ranks);
    return pairs;
}

// Tells every rank which of its experts work at a token, from a lane a pair.
__device__ inline void tell(const Pairs& pairs, int token, char* memory) {
    for (int r = 0; r < RANKS; r++) {
        char* to = memory_of(memory, r);
        #pragma unroll
        for (int i = 0; i < SLOTS; i++) {
            const int slot = i * 32 + lane_of();
            if (slot >= TOPK) continue;
            const u64 place = place_of(RANK, token) * TOPK + slot;
            ((int*)(to + IDS))[place] = pairs.rank[i] == r ? pairs.number[i] : -1;
            ((float*)(to + WEIGHTS))[place] = pairs.rank[i] == r ? pairs.weight[i] : 0.0f;
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) dispatch(
    const char* x,                        // [M, K] of 16 bits
    const int* topk_ids, const float* topk_weights, const int* routes,  // see Router
    char* own, char* const* peers,        // memory of this rank; [RANKS], of each
    u32* needed,                          // [TOKENS], out: bit r = rank r has experts of the token
    u32* launches,                        // [BLOCKS], of this room before
    u32* missing,                         // rank that did not come, plus 1
    int words, int M) {
    constexpr int AT_ONCE = STEPS * 32, UNITS = (SENT + AT_ONCE - 1) / AT_ONCE;
    const Router router = {topk_ids, topk_weights, routes, words, M};
    const int lane = lane_of(), warp = threadIdx.x / 32;
    const u32 launch = launches[blockIdx.x] + 1;
    char* memory = lane < RANKS ? peers[lane] : nullptr;
    if (warp == WARPS - 1 && lane < RANKS && lane != RANK) begin(flag_of(memory, STARTED, RANK), launch);
    const auto read_unit = [&](Read& read, int unit) {
        const int token = token_of(unit / UNITS);
        if (unit < EACH * UNITS && token < M) read_part(read, x + (u64)token * K * 2, unit % UNITS * AT_ONCE);
    };
    Read read;
    read_unit(read, warp);
    for (int unit = warp; unit < EACH * UNITS; unit += WARPS) {
        const int token = token_of(unit / UNITS), first = unit % UNITS * AT_ONCE;
        if (token >= TOKENS) break;
        const Pairs pairs = pairs_of(router, token);  // while x is read
        const Part part = part_of(read);
        read_unit(read, unit + WARPS);                // while this unit travels
        if (unit == warp) meet(own, STARTED, launch, missing);
        if (first == 0) {
            tell(pairs, token, memory);
            if (lane == 0) needed[token] = pairs.ranks;
        }
        for (int i = 1; i <= RANKS; i++) {            // to itself last: that is nearest
            const int r = (RANK + i) % RANKS;
            if (pairs.ranks >> r & 1) write_part(part, memory_of(memory, r) + ROWS + place_of(RANK, token) * ROW, first);
        }
    }
    __syncthreads();
    if (warp == 0) {
        if (lane < RANKS && lane != RANK) raise(flag_of(memory, ARRIVED, RANK), launch);
        meet(own, ARRIVED, launch, missing);
        if (lane == 0) launches[blockIdx.x] = launch;
    }
}

// Combine.

constexpr int PIECES = K / 8, TAKEN = 2, UNIT = TAKEN * 32;  // pieces of a row, and of a lane and a warp at once
constexpr int ROW_UNITS = (PIECES + UNIT - 1) / UNIT;

__device__ inline bool is_there(uint4 v) { return v.x != EMPTY && v.y != EMPTY && v.z != EMPTY && v.w != EMPTY; }

__device__ inline u32 not_empty(u32 two) { return two == EMPTY ? 0u : two; }

__device__ inline uint4 not_empty(uint4 v) {
    return make_uint4(not_empty(v.x), not_empty(v.y), not_empty(v.z), not_empty(v.w));
}

// What the warps of a block know.
struct Combine {
    const char* rows;                     // [RANKS * TOKENS, K] of 16 bits, the sums of this rank's experts
    char* y;                              // [M, K], out
    const u32* needed;                    // [TOKENS], of dispatch
    u32* missing;
    char *memory, *own;                   // of the rank of the lane's number; of this rank
    u32 launch;
    int M;

    // Where the results of this launch come to.
    __device__ inline u64 back(int rank, int token) const {
        return BACK + ((launch & 1) * (u64)RANKS * TOKENS + place_of(rank, token)) * K * 2;
    }
};

// Whether this rank has experts of a token of another one.
__device__ inline bool has_experts(const Combine& c, u64 place) {
    const int* ids = (const int*)(c.own + IDS) + place * TOPK;
    bool some = false;
    for (int slot = lane_of(); slot < TOPK; slot += 32) some |= __ldcg(ids + slot) >= 0;
    return __any_sync(ALL, some);
}

// Sends a part of the results of a token of each other rank back to it.
__device__ inline void send_back(const Combine& c, int unit) {
    const int token = token_of(unit / ROW_UNITS), first = unit % ROW_UNITS * UNIT;
    if (unit >= EACH * ROW_UNITS || token >= TOKENS) return;
    for (int i = 1; i < RANKS; i++) {
        const int r = (RANK + i) % RANKS;
        const u64 place = place_of(r, token);
        uint4 part[TAKEN];
        read_pieces<TAKEN, PIECES>(part, c.rows + place * K * 2, first);
        const bool wanted = has_experts(c, place);
        if (unit < WARPS && i == 1) meet(c.own, STARTED, c.launch - 1, c.missing);  // while rows are read
        if (!wanted) continue;
        uint4* to = (uint4*)(memory_of(c.memory, r) + c.back(RANK, token));
        #pragma unroll
        for (int j = 0; j < TAKEN; j++) {
            const int piece = first + j * 32 + lane_of();
            if (piece < PIECES) post(to + piece, not_empty(part[j]));
        }
    }
}

// Waits for a part of a rank's result and empties its place.
__device__ inline void take(uint4 (&out)[TAKEN], uint4* from, int first, u32* missing, int rank) {
    Patience patience = {0, 0};
    const uint4* last = from + min(first + UNIT, PIECES) - 1;
    // All lanes look at one piece first: who waits long would read as much as what arrives, many times over.
    while (EACH > 1 && !is_there(peek(last)) && !patience.ends(missing, rank)) {}
    bool all;
    do {
        all = true;
        #pragma unroll
        for (int j = 0; j < TAKEN; j++) {
            const int piece = first + j * 32 + lane_of();
            out[j] = piece < PIECES ? peek(from + piece) : make_uint4(0, 0, 0, 0);
            all &= is_there(out[j]);
        }
    } while (!all && !patience.ends(missing, rank));
    #pragma unroll
    for (int j = 0; j < TAKEN; j++) {
        const int piece = first + j * 32 + lane_of();
        if (piece < PIECES) post(from + piece, make_uint4(EMPTY, EMPTY, EMPTY, EMPTY));
    }
    __syncwarp();
}

__device__ inline void add(float (&sum)[TAKEN][8], const uint4 (&part)[TAKEN]) {
    #pragma unroll
    for (int i = 0; i < TAKEN; i++) {
        const u32 in[4] = {part[i].x, part[i].y, part[i].z, part[i].w};
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            const float2 v = unpack(in[j]);
            sum[i][2 * j] += v.x;
            sum[i][2 * j + 1] += v.y;
        }
    }
}

// Adds up a part of a token's results.
__device__ inline void add_up(const Combine& c, int unit) {
    const int token = token_of(unit / ROW_UNITS), first = unit % ROW_UNITS * UNIT;
    if (unit < 0 || token >= c.M) return;
    const u32 ranks = c.needed[token];
    uint4 part[TAKEN], own[TAKEN];
    read_pieces<TAKEN, PIECES>(own, c.rows + place_of(RANK, token) * K * 2, first);
    float sum[TAKEN][8] = {};
    for (int i = 1; i < RANKS; i++) {
        const int r = (RANK + i) % RANKS;
        if (!(ranks >> r & 1)) continue;
        take(part, (uint4*)(c.own + c.back(r, token)), first, c.missing, r);
        add(sum, part);
    }
    if (ranks >> RANK & 1) add(sum, own);
    #pragma unroll
    for (int i = 0; i < TAKEN; i++)
        part[i] = make_uint4(pack(sum[i][0], sum[i][1]), pack(sum[i][2], sum[i][3]),
                             pack(sum[i][4], sum[i][5]), pack(sum[i][6], sum[i][7]));
    write_pieces<TAKEN, PIECES>(part, c.y + (u64)token * K * 2, first);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) combine(
    const char* rows, char* y, char* own, char* const* peers, const u32* needed, u32* launches, u32* missing, int M) {
    const int lane = lane_of(), warp = threadIdx.x / 32;
    const u32 launch = launches[blockIdx.x] + 1;
    char* memory = lane < RANKS ? peers[lane] : nullptr;
    const Combine c = {rows, y, needed, missing, memory, own, launch, M};
    if (warp == WARPS - 1 && lane < RANKS && lane != RANK) begin(flag_of(memory, STARTED, RANK), launch);
    // A warp sends a part before it waits for one, so that something is always on its way.
    for (int unit = warp - WARPS; unit < EACH * ROW_UNITS; unit += WARPS) {
        send_back(c, unit + WARPS);
        add_up(c, unit);
    }
    __syncthreads();
    if (threadIdx.x == 0) launches[blockIdx.x] = launch;
}
