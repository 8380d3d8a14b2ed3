// SPDX-License-Identifier: Apache-2.0
// Three warps take the sums of a tile of 128 rows out while the next one is multiplied: rows of y as they are, by the copy
// engine; gates and ups as hidden activations in e4m3.

#if ROWS

// w13: eight lanes have a row. A word of a row is a gate and its up, neighbouring words are neighbouring features.
__device__ inline void drain_hidden(const Arguments& a, const Tile& t, int thread) {
    const int eighth = thread & 7, first = thread >> 3;
    char* to = a.hidden + ((u64)t.token_tile * a.panels2 + t.unit) * HIDDEN_BYTES;
    u32 from = shared_address(shared().out) + first * OUT_BYTES + eighth * 16;
    for (int row = first; row - (first & 3) < t.valid; row += DRAINERS / 8, from += DRAINERS / 8 * OUT_BYTES) {
        float v[16], largest = 0.0f;
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 words[4];
            asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(from + i * 128));
            #pragma unroll
            for (int j = 0; j < 4; j++)
                v[4 * i + j] = gated(__uint_as_float(words[j] << 16), __uint_as_float(words[j] & 0xffff0000u));
        }
        #pragma unroll
        for (int i = 0; i < 16; i++) largest = fmaxf(largest, fabsf(v[i]));
        #pragma unroll
        for (int distance = 1; distance < 8; distance *= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, distance));
        const float inverse = inverse_of(largest);
        if (eighth == 0) *(float*)(to + MAX_N * 128 + row * 4) = scale_of(largest);
        // Chunk c of sixteen features lies where the swizzle of a stage has it.
        const u32 at = row * 128 + (eighth & 3) * 4;
        #pragma unroll
        for (int i = 0; i < 4; i++)
            *(u32*)(to + at + ((2 * i + (eighth >> 2) ^ row & 7) << 4)) =
                to_e4m3(v[4 * i] * inverse, v[4 * i + 1] * inverse)
                | (u32)to_e4m3(v[4 * i + 2] * inverse, v[4 * i + 3] * inverse) << 16;
    }
}

// w2: a thread has one row or two.
__device__ inline void drain_y(const Arguments& a, const Tile& t, int thread) {
    const int bytes = min(512, a.columns * 2 - t.unit * 512);
    for (int row = thread; row < t.valid; row += DRAINERS) {
        const u32 pair = a.sorted[t.row + row];
        if (pair >= a.numel) continue;
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;"
                     ::"l"(row_of(a.y + t.unit * 512, pair, a.columns * 2)), "r"(shared_address(shared().out) + row * OUT_BYTES),
                       "r"(bytes) : "memory");
    }
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
}

__device__ inline void drain_tiles(const Block& block) {
    Shared& s = shared();
    const int thread = threadIdx.x - (THREADS - DRAINERS), lane = thread & 31;
    u32 parity = 0;
    Tile t;
    for (int i = 0; block.next(i, t); i++) {
        wait(&s.handed, parity);
        parity ^= 1;
        if (t.phase) drain_y(block.a, t, thread);
        else drain_hidden(block.a, t, thread);
        __syncwarp();
        if (lane == 0) arrive(&s.drained);
        if (t.phase || !block.a.fused) continue;
        asm volatile("fence.proxy.async.global;" ::: "memory"); // the copy engine will read what was written
        __syncwarp();
        if (lane == 0) count_one(block.a.done + t.expert);
    }
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

#endif
