// SPDX-License-Identifier: Apache-2.0
// Sums of a slab: warps leave theirs in shared memory, and threads add them up, row by row.

// Leaves a warp's sums of a slab for add_up().
__device__ inline void leave_sums(float2 (&to)[COLUMNS][8], const float (&sums)[4]) {
    const int lane = threadIdx.x & 31, row = lane >> 2, column = 2 * (lane & 3);
    #pragma unroll
    for (int i = 0; i < 2; i++)
        if (column + i < COLUMNS) to[column + i][row] = make_float2(sums[i], sums[i + 2]);
}

// The sums of rows r and r + 8 over all warps that had items of the slab.
template <int AT_ONCE>
__device__ inline float2 add_up(const float2 (*sums)[COLUMNS][8], int slab, int column, int row) {
    float2 sum = make_float2(0.0f, 0.0f);
    #pragma unroll
    for (int warp = 0; warp < WARPS; warp += AT_ONCE) {
        const float2 one = sums[warp + slab][column][row];
        sum = make_float2(sum.x + one.x, sum.y + one.y);
    }
    return sum;
}

// What a thread that adds up does of a group.
template <class G>
struct Adds {
    bool mine;
    int slab, column, row;

    __device__ Adds() {
        const int i = threadIdx.x - ADD_BEGIN;
        mine = i < 8 * COLUMNS * G::WIDTH;
        row = i & 7;
        column = i / 8 % COLUMNS;
        slab = i / (8 * COLUMNS) % G::WIDTH;
    }
};

template <class G>
__device__ inline float2 biases_of(const char* weights, const Rows<G>& rows, int row) {
    const char* end = weights + (shared().experts[rows.nth] + 1) * G::apart();
    return __ldg((const float2*)(end - FACTOR_BYTES - G::UNITS * 512 + ((rows.unit * 8 + rows.place) * 8 + row) * 8));
}

// Warps that multiply hand the sums of every group over to those that add them up, in BUFFERS in turn, and go on.
template <int NUMBER, bool WAITS>
__device__ inline void pass() {
    if constexpr (WAITS) meet<NUMBER, CONSUMERS + 32 * ADDERS>();
    else announce<NUMBER, CONSUMERS + 32 * ADDERS>();
}

template <int FIRST, bool WAITS>
__device__ inline void pass_at(int buffer) {
    switch (buffer) {
        case 0: pass<FIRST, WAITS>(); break;
        case 1: pass<FIRST + 1, WAITS>(); break;
        case 2: pass<FIRST + 2, WAITS>(); break;
        default: pass<FIRST + 3, WAITS>();
    }
}

template <int FIRST>
__device__ inline void meet_at(int buffer) { pass_at<FIRST, true>(buffer); }

template <int FIRST>
__device__ inline void announce_at(int buffer) { pass_at<FIRST, false>(buffer); }

constexpr int WRITTEN = 4, READ = WRITTEN + BUFFERS; // barriers, one for each buffer

// What becomes of the sums of a group, of one or the other GEMM. Biases come while the sums are waited for.
__device__ inline void add_w13(const char* w13, char* hidden, int group, int buffer) {
    Shared& s = shared();
    const Adds<W13> adds;
    const Rows<W13> rows(group * TOGETHER + adds.slab);
    const float by = W13::factor(w13, s.experts[rows.nth]);
    const float2 bias = BIASES ? biases_of(w13, rows, adds.row) : make_float2(0.0f, 0.0f);
    const int pair = s.slots[rows.nth][adds.column], feature = rows.unit * 64 + (rows.place & 3) * 16 + adds.row * 2 + (rows.place >> 2);
    meet_at<WRITTEN>(buffer);
    if (!adds.mine || pair < 0) return;
    const float2 sum = add_up<TOGETHER>(s.sums[buffer], adds.slab, adds.column, adds.row);
    hand_over(hidden, pair, adds.column, feature, gated(sum.x * by + bias.x, sum.y * by + bias.y));
}

__device__ inline void add_w2(const char* w2, char* y, int M, int group, int buffer) {
    Shared& s = shared();
    const Adds<W2> adds;
    const Rows<W2> rows(group * TOGETHER2 + adds.slab);
    float2 bias = make_float2(0.0f, 0.0f);
    for (int nth = 0; BIASES && adds.mine && nth < s.count; nth++) {
        const float2 one = biases_of(w2, Rows<W2>(group * TOGETHER2 + adds.slab, nth), adds.row);
        const float by = s.weights[nth][adds.column];
        bias = make_float2(bias.x + by * one.x, bias.y + by * one.y);
    }
    const int feature = rows.unit * 128 + (rows.place & 3) * 32 + adds.row * 4 + (rows.place >> 2) * 2;
    meet_at<WRITTEN>(buffer);
    if (!adds.mine || adds.column >= M || feature >= K) return;
    const float2 sum = add_up<TOGETHER2>(s.sums[buffer], adds.slab, adds.column, adds.row);
    *(u32*)(y + ((u64)adds.column * K + feature) * 2) = pack_bf16(sum.x + bias.x, sum.y + bias.y);
}

__device__ inline void add_all(const W13& g13, const W2& g2, char* hidden, char* y, int M) {
    const int of_w13 = g13.mine(), all = of_w13 + g2.mine();
    for (int nth = 0; nth < all; nth++) {
        const int buffer = nth % BUFFERS;
        if (nth == of_w13 && threadIdx.x == ADD_BEGIN) shared().ended = 1;
        if (nth < of_w13) add_w13(g13.weights, hidden, g13.first + nth * BLOCKS, buffer);
        else add_w2(g2.weights, y, M, g2.first + (nth - of_w13) * BLOCKS, buffer);
        __syncwarp();
        if (nth + BUFFERS < all) announce_at<READ>(buffer);
    }
}
