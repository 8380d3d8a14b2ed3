// SPDX-License-Identifier: Apache-2.0
// Hidden activations on their way from the blocks that compute them to all others: nobody waits for anything but the numbers.
//
// There are two copies of them in memory that outlasts the launch, and launches take them in turn. Zero bits stand for what has
// not come, so a zero is stored as -0; a launch leaves the copy of the next as zeros.

constexpr int HANDED_BEGIN = 256;         // bytes; the tickets before

__device__ inline u32 handed_bytes(int pairs) { return pairs * W2::STEPS * 256; }

// A block's number among those of this launch and the last, in whatever order they ask.
__device__ inline u32 take_ticket(char* memory) { return atomicInc((u32*)memory, 2 * BLOCKS - 1); }

__device__ inline char* handed(char* memory, u32 ticket, int pairs) {
    return memory + HANDED_BEGIN + (ticket < BLOCKS ? 0 : handed_bytes(pairs));
}

// A block's share of the other copy, by one warp.
__device__ inline void clear(char* memory, u32 ticket, int pairs) {
    uint4* const other = (uint4*)handed(memory, ticket < BLOCKS ? BLOCKS : 0, pairs);
    #pragma unroll 1
    for (u32 i = blockIdx.x * 32 + (threadIdx.x & 31); i < handed_bytes(pairs) / 16; i += BLOCKS * 32) other[i] = make_uint4(0, 0, 0, 0);
}

__device__ inline void hand_over(char* hidden, int slot, int feature, float value) {
    const unsigned short bits = (unsigned short)pack_bf16(value, value);
    post((unsigned short*)(hidden + hidden_at(slot, feature)), bits ? bits : 0x8000);
}

// A thread's second factors of an item: 128 hidden activations of a pair, or 64.
struct Factors {
    const char* from;                     // null: of a token without the expert, zeros
    bool whole;
    uint4 words[4];

    __device__ void read() {
        #pragma unroll
        for (int c = 0; c < 4; c++) words[c] = from && (c < 2 || whole) ? peek((const uint4*)(from + c * 64)) : make_uint4(0, 0, 0, 0);
    }

    __device__ bool lack() const {
        u32 least = ALL;
        #pragma unroll
        for (int c = 0; c < 4; c++)
            if (c < 2 || whole) least = __vminu2(least, __vminu2(__vminu2(words[c].x, words[c].y), __vminu2(words[c].z, words[c].w)));
        return from && !((least & 0xffff) && least >> 16);
    }

    // Reads them again until all lanes of the warp have theirs.
    __device__ void await() {
        for (u32 polls = 0; __any_sync(ALL, lack()); polls++) {
            if (polls > MOST_POLLS) __trap();
            read();
        }
    }
};
