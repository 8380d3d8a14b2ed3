// SPDX-License-Identifier: Apache-2.0
// Sizes, and what a block keeps in shared memory. Standard C++, so that a test can hold Python's sizes to it without nvcc.
//
// First lie STAGES stages, at a multiple of 1024 bytes since the swizzle of 128 bytes repeats after so many: W_BYTES of
// weights, then MAX_N rows of 128 bytes of tokens. With WIDEN the tokens of all stages come first, each two panels of such
// rows, then the weights of all. `Shared` follows. Python asks the launch for SHARED bytes in all.

constexpr int CONSUMERS = 256, THREADS = 512;
constexpr int DRAINERS = ROWS ? 96 : 0;   // threads that take a tile's sums out, see drain.cuh
// Threads that gather rows. Each tells the stage's barrier by itself, three cycles each, so few where a step takes few cycles.
constexpr int GATHERERS = (WIDEN && MAX_N <= (INTEGERS ? 16 : 64)) || MAX_N == 8 ? 64 : THREADS - CONSUMERS - 32 - DRAINERS;
constexpr bool QUANTISES = FP8 || INTEGERS; // x, unless it is given so
constexpr int PANELS = WIDEN ? 2 : 1;     // of a step, each 128 bytes of a row of tokens
constexpr int PANEL = FP8 ? 128 : 64;     // its columns
constexpr int W_BYTES = MBLK * UNIT, PANEL_BYTES = MAX_N * 128;
constexpr int STAGE_BYTES = W_BYTES + PANELS * PANEL_BYTES;
constexpr int WEIGHTS_BEGIN = WIDEN ? STAGES * PANELS * PANEL_BYTES : 0, TOKENS_BEGIN = WIDEN ? 0 : W_BYTES;
constexpr int WEIGHTS_APART = WIDEN ? W_BYTES : STAGE_BYTES, TOKENS_APART = WIDEN ? PANELS * PANEL_BYTES : STAGE_BYTES;
constexpr int ROWS_APART = GATHERERS / 8; // eight threads gather a row of 128 bytes, so many rows at a time
constexpr int ROWS_EACH = (MAX_N + ROWS_APART - 1) / ROWS_APART; // rows that a gathering thread takes, at most
constexpr int SCALES_EACH = (MAX_N + GATHERERS - 1) / GATHERERS; // scales of rows that it takes, at most
constexpr int RING = STAGES + 1 + 2 * ROWS; // tiles that are known, fetched, multiplied or drained at the same time, at most
constexpr int HIDDEN_BYTES = MAX_N * 132;  // ROWS: of a tile's hidden activations a step, with their scales
constexpr int HIDDEN_GROUPS = 3 - MBLK;   // FP8: scales of a row of hidden activations a step: a tile of w13 makes 64 * MBLK features
constexpr int SCALES = (MAX_N + 15) / 16 * 16; // places of the scales of a tile's rows, see scale_place
constexpr int OUT_BYTES = 512 + 64;       // of a row of sums; so far apart that neighbouring rows share no bank
constexpr int CONSUMER_REGISTERS = ROWS ? 216 : INTEGERS ? 192 : 208; // of a thread that multiplies; of another: 256 less these
constexpr u32 EARLY_BYTES = 65536;        // of weights that a block asks the L2 cache for before it knows its tiles

#if MOST_PAIRS
typedef unsigned short Pair;
#else
typedef int Pair;
#endif

struct Tile {
    int phase;                            // 0: w13, 1: w2, 2: there is none
    int expert;
    int unit;                             // of MBLK * 128 weight rows
    int row;                              // first sorted pair
    int valid;                            // pairs
    int n;                                // rows that are gathered: columns of the wgmma, or, as its rows, up to 128
    int tiles;                            // token tiles of the expert
    int token_tile;                       // number among those of all experts
};

struct Shared {
#if INTEGERS
    alignas(8) float column_scales[RING][MAX_N]; // of the last tiles' tokens or hidden rows
#endif
#if FP8
    alignas(16) float row_scales[STAGES][HIDDEN_GROUPS][SCALES];
    float unit_scales[STAGES][4];         // of two units, each of the upper and lower eight rows of a warp's sixteen
#endif
#if FP8 && !ROWS
    float inverse[SCALES];                // 448 / largest hidden activation of a column
    u32 largest[SCALES];                  // bits of it
    alignas(16) char rows[MAX_N * MBLK * 64]; // a tile's hidden activations on their way out
#endif
#if ROWS
    alignas(16) char out[MAX_N * OUT_BYTES]; // a tile's sums in 16 bits
    u64 handed, drained;                  // all warps have written theirs there; all of them are read
#endif
    u64 full[STAGES];
#if ROWS
    Tile tiles[RING];                     // the last tiles, and their numbers among the block's
    u32 numbers[RING];
#else
    u64 taken[RING];                      // the last w2 tiles: number among the block's tiles, then index
#endif
    u64 empty[STAGES];
    u32 ended[2];                         // warps of a group that wrote all of a w13 tile, over all tiles so far
    int row_begin[E + 1];                 // where an expert's pairs begin
    int tile_end[E];                      // token tiles of experts up to this one
    int total;                            // token tiles
#if !MOST_PAIRS && !ROWS
    alignas(8) Pair pairs[RING][MAX_N];   // of the last tiles' tokens
#endif
#if MOST_PAIRS
    Pair sorted[MOST_PAIRS + MAX_N];      // pairs by expert; a tile looks past its last
    int overflow;                         // an expert has several token tiles
#endif
};

static_assert(SHARED == STAGES * STAGE_BYTES + sizeof(Shared), "shared_bytes() in Python is for another layout");
