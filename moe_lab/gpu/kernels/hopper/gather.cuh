// SPDX-License-Identifier: Apache-2.0
// Up to seven warps, see GATHERERS, copy the rows of a tile's tokens (w13) or hidden activations (w2) into the stages,
// swizzled as the weights are. They wait for hidden activations, so that nobody else has to.

// Until a counter in device memory has come so far: all w13 tiles of an expert are done, or all of x is quantised.
__device__ inline void wait_for(const u32* done, u32 expected) {
    u32 polls = 0;
    while (counted(done) < expected) {
        __nanosleep(40);
        if (++polls > MOST_POLLS) __trap();
    }
}

#if ROWS

// w2: one thread copies what a step needs, from the block's tile number i on.
__device__ inline void copy_hidden(const Block& block, int i, int stage, u32 parity) {
    Shared& s = shared();
    const Arguments& a = block.a;
    Tile t;
    for (; block.next(i, t); i++) {
        if (a.fused) wait_for(a.done + t.expert, t.tiles * block.units13 * (DRAINERS / 32));
        const char* from = a.hidden + (u64)t.token_tile * a.panels2 * HIDDEN_BYTES;
        for (int k = 0; k < a.panels2; k++, from += HIDDEN_BYTES) {
            wait(&s.empty[stage], parity ^ 1);
            const u32 full = shared_address(&s.full[stage]);
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n"
                         "mbarrier.arrive.shared::cta.b64 _, [%0], %2;"
                         ::"r"(full), "r"(t.valid * 128 + MAX_N * 4), "n"(GATHERERS - 1) : "memory");
            bulk_copy(tokens_at(stage), from, t.valid * 128, full);
            bulk_copy(shared_address(s.row_scales[stage]), from + MAX_N * 128, MAX_N * 4, full);
            if (++stage == STAGES) { stage = 0; parity ^= 1; }
        }
    }
}

#endif

__device__ inline void gather_rows(const Block& block) {
    Shared& s = shared();
    const Arguments& a = block.a;
    const int g = threadIdx.x - CONSUMERS - 32, lane = threadIdx.x & 31, chunk = g & 7, first = g >> 3;
    if (GATHERERS < THREADS - CONSUMERS - 32 - DRAINERS && g >= GATHERERS) return;
    int stage = 0, slot = 0;
    u32 parity = 0;
#if FP8 || INTEGERS
    bool quantised = a.given;
#endif
    Tile t;
    for (int i = 0; block.next(i, t); i++) {
#if ROWS
        if (t.phase) {
            if (g == 0) copy_hidden(block, i, stage, parity);
            break;
        }
#endif
        const int steps = a.steps(t.phase), panels = a.panels(t.phase);
        const int count = max(0, (t.n - first + ROWS_APART - 1) / ROWS_APART);
        const int each = t.phase ? HIDDEN_GROUPS : 1; // scales of a row and step
        const u32 bytes = t.phase ? hidden_row_bytes(panels) : a.x_bytes;
        // In 16 bytes. Rows of padding read the first row: what they give is not stored.
        const auto begin_of = [&](int row) {
            int pair = a.sorted[t.row + (row < t.valid ? row : 0)];
            if (pair >= a.numel) pair = a.sorted[t.row];
            return (u32)(t.phase ? pair : pair / TOPK) * (bytes / 16);
        };
        const char *base = t.phase ? a.hidden : a.x, *scale_base = base;
        u32 from[ROWS_EACH];
        #pragma unroll
        for (int i = 0; i < ROWS_EACH; i++) from[i] = begin_of(first + i * ROWS_APART) + chunk;
#if FP8
        u32 scales[SCALES_EACH];
        #pragma unroll
        for (int i = 0; i < SCALES_EACH; i++) scales[i] = begin_of(g + i * GATHERERS) + panels * 8;
#endif
#if FP8 || INTEGERS
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
#if INTEGERS
        if (t.phase) {
            gather_integers(a, t, begin_of, slot, stage, parity);
            slot = slot == RING - 1 ? 0 : slot + 1;
            continue;
        }
#endif
        for (int k = 0; k < steps; k++) {
            wait(&s.empty[stage], parity ^ 1);
#if !MOST_PAIRS && !ROWS
            // Whose the columns are comes with the first rows: the multiplying warps need it last.
            for (int i = g; k == 0 && i < t.valid; i += GATHERERS)
                asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                             ::"r"(shared_address(&s.pairs[slot][i])), "l"(a.sorted + t.row + i) : "memory");
#endif
#if INTEGERS
            for (int i = g; k == 0 && i < t.n; i += GATHERERS)
                asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                             ::"r"(shared_address(&s.column_scales[slot][i])), "l"(row_of(a.x + panels * 128, begin_of(i), 16))
                             : "memory");
#endif
            // ROWS_APART = 28 rows further on the swizzle has the other value of two, 8 or 16 further the same.
            const u32 to = tokens_at(stage) + first * 128;
            const u32 even = to + ((chunk ^ (first & 7)) << 4), odd = to + ((chunk ^ (first & 7) ^ (ROWS_APART & 4)) << 4);
            #pragma unroll
            for (int panel = 0; panel < PANELS; panel++) {
                if (panel && k * PANELS + panel >= panels) break;
                #pragma unroll
                for (int i = 0; i < ROWS_EACH; i++) {
                    if (i < count)
                        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                                     ::"r"((i & 1 ? odd : even) + panel * PANEL_BYTES + i * ROWS_APART * 128),
                                       "l"(row_of(base + panel * 128, from[i], 16))
                                     : "memory");
                }
            }
#if FP8
            #pragma unroll
            for (int j = 0; j < SCALES_EACH; j++) {
                const int row = g + j * GATHERERS;
                if (row >= t.n) continue;
                const int place = ROWS ? row : scale_place(row);
                for (int i = 0; i < each; i++)
                    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                                 ::"r"(shared_address(&s.row_scales[stage][i][place])),
                                   "l"(row_of(scale_base, scales[j], 16) + i * 4)
                                 : "memory");
            }
#endif
            asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];"
                         ::"r"(shared_address(&s.full[stage])) : "memory");
            base += PANELS * 128;
            scale_base += each * 4;
            if (++stage == STAGES) { stage = 0; parity ^= 1; }
        }
        slot = slot == RING - 1 ? 0 : slot + 1;
    }
    // No block waits any more once all have come here: the last one leaves zeros for the next launch.
    asm volatile("bar.sync 3, %0;" ::"n"(GATHERERS) : "memory");
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
