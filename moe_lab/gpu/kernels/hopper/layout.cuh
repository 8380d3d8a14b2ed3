// Sizes, and what a block keeps in shared memory. Standard C++, so that a test can hold Python's sizes to it without nvcc.
//
// From the next multiple of 1024 bytes on (the swizzle of 128 bytes repeats after so many) lie STAGES stages: W_BYTES of
// weights, then MAX_N rows of 64 columns of tokens. `Shared` follows. Python asks the launch for SHARED bytes in all.

typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int CONSUMERS = 256, THREADS = 512, GATHERERS = 224;
constexpr int UNIT = 16384;               // bytes of 128 weight rows by 64 columns
constexpr int W_BYTES = MBLK * UNIT;
constexpr int STAGE_BYTES = W_BYTES + MAX_N * 128;
constexpr int ROWS_APART = GATHERERS / 8; // eight threads gather a row of 128 bytes, so many rows at a time
constexpr int ROWS_EACH = (MAX_N + ROWS_APART - 1) / ROWS_APART; // rows that a gathering thread takes, at most
constexpr int RING = STAGES + 1;          // tiles that are fetched or multiplied at the same time, at most
constexpr u32 EARLY_BYTES = 65536;        // of weights that a block asks the L2 cache for before it knows its tiles

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

static_assert(SHARED == 1024 + STAGES * STAGE_BYTES + sizeof(Shared), "shared_bytes() in Python is for another layout");
