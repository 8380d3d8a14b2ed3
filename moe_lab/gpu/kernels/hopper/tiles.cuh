// SPDX-License-Identifier: Apache-2.0
// Which tiles there are, and which of them a block works at. A tile is MBLK * 128 weight rows by up to MAX_N tokens of one
// expert; an expert with more tokens is cut into equal parts.

extern __shared__ __align__(1024) char raw[]; // see layout.cuh

__device__ inline u32 weights_at(int stage) { return shared_address(raw) + WEIGHTS_BEGIN + stage * WEIGHTS_APART; }

__device__ inline u32 tokens_at(int stage) { return shared_address(raw) + TOKENS_BEGIN + stage * TOKENS_APART; }

// A function, not an argument: so the compiler knows everywhere that it is shared memory, and where.
__device__ inline Shared& shared() {
    return *(Shared*)(raw + STAGES * STAGE_BYTES);
}

// Sizes of which there is a wgmma<N>().
__device__ inline int padded(int tokens) {
    return (tokens + STEP - 1) / STEP * STEP;
}

// Which tiles a block works at, as its warps see them: those of w13 follow from its number, those of w2 are told by the
// fetching warp, which takes them from the counter. With ROWS that warp tells all of them, decoded: where everything else
// keeps pace, to decode a tile would take each warp 500 cycles between two.
struct Order {
    int tiles13, end;                     // end: behind the last index of w2

    __device__ int static_index(int i) const { return blockIdx.x + i * gridDim.x; }

#if !ROWS
    // Index of the block's tile number i; not below `end` if there is none.
    __device__ int tile(int i) const {
        if (static_index(i) < tiles13) return static_index(i);
        u64 taken;
        do {
            asm volatile("ld.volatile.shared.u64 %0, [%1];"
                         : "=l"(taken) : "r"(shared_address(shared().taken + i % RING)) : "memory");
        } while (taken >> 32 != i);
        return (int)taken;
    }
#endif
};

// Of activations: in FP8 a row ends with its scales, in sectors of its own; tokens that are integers with one.
__device__ inline u32 row_bytes(int panels, int groups = 1) {
    return panels * 128 + (FP8 ? (panels * groups + 7) / 8 * 32 : INTEGERS ? 16 : 0);
}

// Of hidden activations; of integers still in 16 bits, with the largest of the features of each warp behind them.
__device__ inline u32 hidden_row_bytes(int panels) {
    return INTEGERS ? panels * (128 + 16 * HIDDEN_GROUPS) : row_bytes(panels, HIDDEN_GROUPS);
}

struct Arguments {
    const char* x;                        // [M, x_bytes]
    const char* w13;                      // units of [E, 2 * N, k13]
    const char* w2;                       // units of [E, K, k2]
    char* hidden;                         // [numel, hidden_row_bytes(panels2)]; ROWS: [token tiles, panels2, HIDDEN_BYTES],
                                          // a step's rows as the stages hold them, then their scales
    char* y;                              // [numel, K]
    const Pair* sorted;                   // pairs by expert
    u32* done;                            // [E + 3], zero: w13 tiles done, of each expert; blocks that wait no more;
                                          // w2 tiles taken; warps that quantised their share of x
    int numel, units13, units2, panels13, panels2, columns;
    bool fused;                           // both phases in this launch
    bool given;                           // x was quantised before this launch
    u32 x_bytes;                          // from a row to the next
    u32 quantisers;                       // warps of all blocks that quantise x in this launch

    __device__ int panels(int phase) const { return phase ? panels2 : panels13; }
    __device__ int steps(int phase) const { return (panels(phase) + PANELS - 1) / PANELS; }
};

__device__ inline Tile decode(int index, int units13, int units2) {
    const Shared& s = shared();
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
    const int each = ROWS ? MAX_N : padded((rows + t.tiles - 1) / t.tiles), begin = (token_tile - before) * each;
    t.row = s.row_begin[low] + begin;
    t.valid = min(each, rows - begin);
    t.n = ROWS ? t.valid : padded(t.valid);
    t.token_tile = token_tile;
    return t;
}

// What every warp of a block knows about the launch.
struct Block {
    Arguments a;
    int units13, units2;                  // of MBLK * 128 weight rows
    int skipped;                          // tiles of w13, where this launch does w2 alone
    Order order;

    __device__ Tile decode(int index) const { return ::decode(skipped + index, units13, units2); }

    // The block's tile number i, if there is one. Where tokens are rows, the fetching warp tells it.
    __device__ bool next(int i, Tile& t) const {
#if ROWS
        const Shared& s = shared();
        u32 number;
        do {
            asm volatile("ld.acquire.cta.shared::cta.u32 %0, [%1];"
                         : "=r"(number) : "r"(shared_address(s.numbers + i % RING)) : "memory");
        } while (number != i);
        t = s.tiles[i % RING];
        return t.phase < 2;
#else
        const int index = order.tile(i);
        if (index >= order.end) return false;
        t = decode(index);
        return true;
#endif
    }
};
