// SPDX-License-Identifier: Apache-2.0
// Hidden activations on their way from the blocks that compute them to all others: nobody waits for anything but the numbers.
//
// There are two copies of them in memory that outlasts the launch, and launches take them in turn. Zero bits stand for what has
// not come, so a zero is stored as -0; a launch leaves the copy of the next as zeros.

constexpr int HANDED_BEGIN = 256;         // bytes; the tickets before

// A block's number among those of this launch and the last, in whatever order they ask.
__device__ inline u32 take_ticket(char* memory) { return atomicInc((u32*)memory, 2 * BLOCKS - 1); }

__device__ inline char* handed(char* memory, u32 ticket, int pairs) {
    return memory + HANDED_BEGIN + (ticket < BLOCKS ? 0 : pairs * PAIR_BYTES);
}

// A block's share of the other copy, by one warp.
__device__ inline void clear(char* memory, u32 ticket, int pairs) {
    uint4* const other = (uint4*)handed(memory, ticket < BLOCKS ? BLOCKS : 0, pairs);
    #pragma unroll 1
    for (u32 i = blockIdx.x * 32 + (threadIdx.x & 31); i < pairs * PAIR_BYTES / 16; i += BLOCKS * 32) other[i] = make_uint4(0, 0, 0, 0);
}

__device__ inline void hand_over(char* hidden, int pair, int column, int feature, float value) {
    const unsigned short bits = (unsigned short)pack_bf16(value, value);
    post((unsigned short*)(hidden + pair * PAIR_BYTES + operands_at(column, feature)), bits ? bits : 0x8000);
}

__device__ inline bool has_come(uint4 numbers) {
    const u32 least = __vminu2(__vminu2(numbers.x, numbers.y), __vminu2(numbers.z, numbers.w)); // of 16 bits each
    return least & 0xffff && least >> 16;
}

// Those of a pair into shared memory, by a warp, once all have come.
__device__ inline void fetch(const char* hidden, int pair) {
    constexpr int CHUNKS = INTERMEDIATE / 8, ROUNDS = (CHUNKS + 31) / 32, ONCE = ROUNDS < 4 ? ROUNDS : 4; // of 16 bytes; a lane's at once
    const uint4* from = (const uint4*)(hidden + pair * PAIR_BYTES);
    uint4* to = (uint4*)(raw + HIDDEN_BEGIN + pair * PAIR_BYTES);
    u32 polls = 0;
    const auto poll = [&] { if (++polls > MOST_POLLS) __trap(); };
    // Of 16 bytes alone at first, which are computed last: reading all of them over and over would slow weights down.
    while (!has_come(peek(from + CHUNKS - 1))) {
        poll();
        if (!look(&shared().ended)) __nanosleep(400); // as long as the block's own are not done
    }
    for (int begin = threadIdx.x & 31; begin < ROUNDS * 32; begin += ONCE * 32) {
        uint4 words[ONCE];
        bool lacks[ONCE], some;
        #pragma unroll
        for (int i = 0; i < ONCE; i++) lacks[i] = begin + i * 32 < CHUNKS;
        do {
            poll();
            #pragma unroll
            for (int i = 0; i < ONCE; i++)
                if (lacks[i]) words[i] = peek(from + begin + i * 32);
            some = false;
            #pragma unroll
            for (int i = 0; i < ONCE; i++) some |= lacks[i] = lacks[i] && !has_come(words[i]);
        } while (__any_sync(ALL, some));
        #pragma unroll
        for (int i = 0; i < ONCE; i++)
            if (begin + i * 32 < CHUNKS) to[begin + i * 32] = words[i];
    }
}

// All of them, expert after expert, by the fetching warps.
__device__ inline void fetch_all(const char* hidden, const char* w2, int experts) {
    Shared& s = shared();
    const int lane = threadIdx.x & 31;
    for (int nth = (threadIdx.x - FETCH_BEGIN) / 32; nth < experts; nth += FETCHERS) {
        const float factor = W2::factor(w2, s.experts[nth]);
        if (lane < COLUMNS) s.scales[nth][lane] = s.weights[nth][lane] * factor;
        for (int column = 0; column < COLUMNS; column++) {
            const int pair = s.slots[nth][column];
            if (pair >= 0) fetch(hidden, pair);
        }
        __syncwarp();
        if (lane == 0) arrive(s.come + nth);
    }
}
