// Seven warps copy the rows of a tile's tokens (w13) or hidden activations (w2) into the stages, swizzled as the weights
// are. They wait for hidden activations, so that nobody else has to.

// Until a counter in device memory has come so far: all w13 tiles of an expert are done, or all of x is quantised.
__device__ inline void wait_for(const u32* done, u32 expected) {
    u32 seen, polls = 0;
    while (true) {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(done) : "memory");
        if (seen >= expected) break;
        __nanosleep(40);
        if (++polls > MOST_POLLS) __trap();
    }
}

__device__ inline void gather_rows(const Block& block) {
    Shared& s = shared();
    const Arguments& a = block.a;
    const int g = threadIdx.x - CONSUMERS - 32, lane = threadIdx.x & 31, chunk = g & 7, first = g >> 3;
    int stage = 0, slot = 0;
    u32 parity = 0;
#if FP8
    bool quantised = false;
#endif
    for (int i = 0, index; (index = block.order.tile(i)) < block.order.end; i++) {
        const Tile t = block.decode(index);
        const int steps = t.phase ? a.steps2 : a.steps13;
        const int count = max(0, (t.n - first + ROWS_APART - 1) / ROWS_APART);
        const u32 bytes = row_bytes(steps, t.phase ? HIDDEN_GROUPS : 1);
        const char* from[ROWS_EACH];
        #pragma unroll
        for (int i = 0; i < ROWS_EACH; i++) {
            // Rows of padding read the first row: what they give is not stored.
            const int row = first + i * ROWS_APART;
            int pair = a.sorted[t.row + (row < t.valid ? row : 0)];
            if (pair >= a.numel) pair = a.sorted[t.row];
            from[i] = (t.phase ? a.hidden : a.x) + (u64)(u32)(t.phase ? pair : pair / TOPK) * bytes + chunk * 16;
        }
#if FP8
        const char* scales;                // of the row that this thread has: MAX_N <= GATHERERS
        {
            int pair = a.sorted[t.row + (g < t.valid ? g : 0)];
            if (pair >= a.numel) pair = a.sorted[t.row];
            scales = (t.phase ? a.hidden : a.x) + (u64)(u32)(t.phase ? pair : pair / TOPK) * bytes + steps * 128;
        }
        if (!t.phase && !quantised) {
            if (a.quantisers) {
                if (lane == 0) wait_for(a.done + E + 2, a.quantisers);
                __syncwarp();
            } else {
                asm volatile("bar.sync 2, %0;" ::"n"(CONSUMERS + GATHERERS) : "memory");
            }
            quantised = true;
        }
#endif
        if (t.phase && a.fused) {
            if (lane == 0) wait_for(a.done + t.expert, t.tiles * block.units13);
            __syncwarp();
        }
        for (int k = 0; k < steps; k++) {
            wait(&s.empty[stage], parity ^ 1);
#if !MOST_PAIRS
            // Whose the columns are comes with the first rows: the multiplying warps need it last.
            for (int i = g; k == 0 && i < t.valid; i += GATHERERS)
                asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                             ::"r"(shared_address(&s.pairs[slot][i])), "l"(a.sorted + t.row + i) : "memory");
#endif
            // ROWS_APART = 28 rows further on the swizzle has the other value of two.
            const u32 to = stages_begin() + stage * STAGE_BYTES + W_BYTES + first * 128;
            const u32 even = to + ((chunk ^ (first & 7)) << 4), odd = to + ((chunk ^ (first & 7) ^ 4) << 4);
            #pragma unroll
            for (int i = 0; i < ROWS_EACH; i++) {
                if (i < count)
                    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                                 ::"r"((i & 1 ? odd : even) + i * ROWS_APART * 128), "l"(from[i]) : "memory");
                from[i] += 128;
            }
#if FP8
            if (g < t.n) {
                const int place = ROWS ? g : scale_place(g), each = t.phase ? HIDDEN_GROUPS : 1;
                for (int i = 0; i < each; i++)
                    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                                 ::"r"(shared_address(&s.row_scales[stage][i][place])), "l"(scales + (k * each + i) * 4)
                                 : "memory");
            }
#endif
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
        if (lane == 0) ticket = atomicAdd(a.done + E, 1);
        if (__shfl_sync(ALL, ticket, 0) == gridDim.x - 1) {
            if (lane == 0) wait_for(a.done + E + 2, a.quantisers);
            __syncwarp();
            for (int e = lane; e <= E + 2; e += 32) a.done[e] = 0;
        }
    }
}
