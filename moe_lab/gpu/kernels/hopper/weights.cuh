// SPDX-License-Identifier: Apache-2.0
// One thread fetches weights, from the L2 cache's first look at them to the last step of w2, and keeps the books: which w2
// tile comes next, and which w13 tiles are done.

// The first weights of a tile of w13 that some block will do: until tiles are known the memory would have nothing to do.
__device__ inline void prefetch_early(const char* w13, const ID* topk_ids, int numel, int units13, int steps13) {
    const int tiles = (units13 + MBLK - 1) / MBLK, nth = blockIdx.x / tiles, unit = blockIdx.x % tiles * MBLK;
#if MOST_PAIRS
    const u32 expert = nth < numel ? (u32)topk_ids[nth] : E;
#else
    const u32 expert = nth;
#endif
    const u32 unit_bytes = steps13 * UNIT;
    for (int u = unit; expert < E && u < min(unit + MBLK, units13); u++)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;"
                     ::"l"(w13 + expert * expert_bytes(units13, steps13) + (u64)u * unit_bytes), "r"(min(unit_bytes, EARLY_BYTES / MBLK))
                     : "memory");
}

// Tiles of w13 that the block ended are told from here: the fence before it waits until all that was written is in the L2
// cache, and would hold up the multiplying warps.
struct Teller {
    const Block& block;
    int told;                             // the next of the block's w13 tiles to tell
    u32 ended = 0;                        // warps of a group that wrote the tiles told so far

    __device__ bool more() const { return !ROWS && told < block.order.tiles13; } // draining warps tell theirs themselves

    __device__ void tell(bool wait_for_it) {
        while (more()) {
            u32 first, second;
            do {
                asm volatile("ld.acquire.cta.shared::cta.v2.u32 {%0, %1}, [%2];"
                             : "=r"(first), "=r"(second) : "r"(shared_address(shared().ended)) : "memory");
            } while (wait_for_it && (first < ended + 4 || second < ended + 4));
            if (first < ended + 4 || second < ended + 4) return;
            ended += 4;
            const Tile t = decode(told, block.units13, block.units2);
            count_one(block.a.done + t.expert);
            told += gridDim.x;
        }
    }
};

__device__ inline void fetch_weights(const Block& block) {
    Shared& s = shared();
    const Arguments& a = block.a;
    const Order& order = block.order;
    const u64 policy = evict_first();
    Teller teller{block, a.fused ? (int)blockIdx.x : order.tiles13};
    int stage = 0;
    u32 parity = 0;
    // A w2 tile is taken when two steps of the one before are left: late enough that blocks with more of w13 get less of
    // w2, early enough that the counter is read when the tile begins. With ROWS four, as it is told two steps ahead.
    int taken = 0;
    const auto take = [&](int i) {
        if (order.static_index(i) >= order.tiles13) taken = order.tiles13 + atomicAdd(a.done + E + 1, 1);
    };
    // Tells the other warps which tile is the block's number i.
    const auto begin = [&](int i) {
        int index = order.static_index(i);
        if (index >= order.tiles13) index = taken;
        Tile t;
        t.phase = 2;
        if (index < order.end) t = block.decode(index);
#if ROWS
        s.tiles[i % RING] = t;
        asm volatile("st.release.cta.shared::cta.u32 [%0], %1;" ::"r"(shared_address(s.numbers + i % RING)), "r"(i) : "memory");
#else
        if (index >= order.tiles13)
            asm volatile("st.volatile.shared.u64 [%0], %1;"
                         ::"r"(shared_address(s.taken + i % RING)), "l"((u64)i << 32 | index) : "memory");
#endif
        return t;
    };
    take(0);
    Tile t = begin(0), following;
    for (int i = 0; t.phase < 2; i++) {
        const int units = t.phase ? a.units2 : a.units13, steps = a.steps(t.phase);
        const char* expert = (t.phase ? a.w2 : a.w13) + t.expert * expert_bytes(units, steps);
        const char* from = expert + (u64)(t.unit * MBLK) * steps * UNIT;
        // Past the last unit: any weights, never stored.
        const u64 next = MBLK == 2 && t.unit * 2 + 1 < units ? (u64)steps * UNIT : 0;
#if FP8
        const char* scales = expert + (u64)units * steps * UNIT + (MBLK == 2 ? t.unit : t.unit / 2) * steps * 16;
#endif
        const bool once = t.tiles == 1;
        // With few tiles a block takes no second one of w2 before it begins to multiply the first: all weights of that may be
        // here long before its rows are, and other blocks have nothing to do.
        const bool late = MBLK == 1 && t.phase && steps <= STAGES;
        const int first = stage;
        const u32 consumed = parity;
        for (int k = 0; k < steps; k++, from += UNIT) {
            if (k == max(0, steps - 2 - 2 * ROWS) && !late) take(i + 1);
            if (ROWS && k == max(0, steps - 2)) following = begin(i + 1);
            // What the stage waits for may itself wait for a tile that is still to be told.
            while (teller.more() && !is_past_now(&s.empty[stage], parity ^ 1)) teller.tell(false);
            wait(&s.empty[stage], parity ^ 1);
            arrive_expecting(&s.full[stage], W_BYTES + (FP8 ? 16 : 0));
            const u32 to = weights_at(stage);
            bulk_copy(to, from, &s.full[stage], once, policy);
            if (MBLK == 2) bulk_copy(to + UNIT, from + next, &s.full[stage], once, policy);
#if FP8
            bulk_copy<16>(shared_address(s.unit_scales[stage]), scales + k * 16, &s.full[stage], once, policy);
#endif
            if (++stage == STAGES) { stage = 0; parity ^= 1; }
            if (!WIDEN || (k & 3) == 3) teller.tell(false); // looking takes a tenth of a short step
        }
        if (late) {
            while (teller.more() && !is_past_now(&s.empty[first], consumed)) teller.tell(false);
            wait(&s.empty[first], consumed);
            take(i + 1);
        }
        t = ROWS ? following : begin(i + 1);
    }
    teller.tell(true);
}
