// SPDX-License-Identifier: Apache-2.0
// The product of a tile the usual way round, for experts of many tokens in e4m3: 64 tokens of a warpgroup are the rows of a wgmma,
// 128 weights its columns. Then a thread has two tokens, so two scales a step, and a quad all features of a token.

#if ROWS

// Adds the products of a step by 128 weights: rows lane / 4 and lane / 4 + 8 of the warp's 16, columns 8 j + 2 (lane % 4) + c,
// where blocks of eight columns have the scales of a unit's upper and lower rows in turn.
__device__ inline void add_rows(float (&acc)[64], const float (&product)[64], float2 rows, float2 unit) {
    const float by[2][2] = {{rows.x * unit.x, rows.y * unit.x}, {rows.x * unit.y, rows.y * unit.y}};
    #pragma unroll
    for (int i = 0; i < 64; i++) acc[i] += product[i] * by[i / 4 & 1][i / 2 & 1];
}

// What the draining warps are handed: two sums a word, a gate and its up or neighbouring features of y. A thread has 16 bytes
// of each 64 of two rows. Gates are bf16 even for fp16 since they need its range; what it rounds away is far below what e4m3 does.
__device__ inline void hand_over(const Tile& t, const float (&acc)[2][64], u32 to) {
    const bool gates = HALF && !t.phase;
    const auto two = [&](float low, float high) { return gates ? pack_bf16(low, high) : pack(low, high); };
    #pragma unroll
    for (int h = 0; h < 2; h++)
        #pragma unroll
        for (int u = 0; u < 2; u++)
            #pragma unroll
            for (int w = 0; w < 4; w++) {
                const float* v = acc[u] + 8 * w + 2 * h;
                store_shared(to + h * 8 * OUT_BYTES + u * 256 + w * 64,
                             make_uint4(two(v[0], v[4]), two(v[32], v[36]), two(v[1], v[5]), two(v[33], v[37])));
            }
}

__device__ inline float load_shared(u32 from) {
    float out;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(out) : "r"(from) : "memory");
    return out;
}

__device__ inline float4 load_shared_4(u32 from) {
    float4 out;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(out.x), "=f"(out.y), "=f"(out.z), "=f"(out.w) : "r"(from) : "memory");
    return out;
}

__device__ inline void multiply_rows(const Block& block, const Tile& t, int& stage, u32& parity, u32& drained) {
    Shared& s = shared();
    const Arguments& a = block.a;
    int thread = threadIdx.x;
    asm volatile("" : "+r"(thread));      // else it is read anew every step
    const int group = __shfl_sync(ALL, thread >> 7, 0), lane = thread & 31;
    const int steps = a.steps(t.phase), row = (thread >> 5) * 16 + (lane >> 2);
    const u32 begin = __shfl_sync(ALL, weights_at(0), 0), rows_at = shared_address(s.row_scales[0][0]) + row * 4;
    if (group * 64 >= t.valid) {          // no rows for this group
        for (int k = 0; k < steps; k++) {
            wait(&s.full[stage], parity);
            if (lane == 0) arrive(&s.empty[stage]);
            if (++stage == STAGES) { stage = 0; parity ^= 1; }
        }
        wait(&s.drained, drained ^ 1);
        if (lane == 0) arrive(&s.handed);
        drained ^= 1;
        return;
    }
    float acc[2][64], product[1][64];
    #pragma unroll
    for (int i = 0; i < 64; i++) acc[0][i] = acc[1][i] = 0.0f;
    const u32 weights = descriptor(begin), tokens = __shfl_sync(ALL, descriptor(begin + W_BYTES) + group * 512, 0);
    const auto start = [&](int stage, int u) {
        const u32 x = tokens + stage * (STAGE_BYTES >> 4), w = weights + stage * (STAGE_BYTES >> 4) + u * (UNIT >> 4);
        pin<128>(product);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        wgmma_first<128>(product[0], x, w);
        #pragma unroll
        for (int part = 1; part < 4; part++) wgmma<128>(product[0], x + part * 2, w + part * 2);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        pin<128>(product);
    };
    // One step; its stage is known to the compiler, so that descriptors are sums of constants.
    int k = 0;
    const auto step = [&](int now) {
        start(now, 0);
        const float2 rows = make_float2(load_shared(rows_at + now * (SCALES * 4)), load_shared(rows_at + now * (SCALES * 4) + 32));
        const float4 units = load_shared_4(shared_address(s.unit_scales[now]));
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        pin<128>(product);
        add_rows(acc[0], product[0], rows, make_float2(units.x, units.y));
        start(now, 1);
        if (now == STAGES - 1) parity ^= 1;
        if (++k < steps) wait(&s.full[now == STAGES - 1 ? 0 : now + 1], parity);
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        pin<128>(product);
        if (lane == 0) arrive(&s.empty[now]);
        add_rows(acc[1], product[0], rows, make_float2(units.z, units.w));
    };
    static_assert(STAGES == 3, "stages that the loop knows");
    wait(&s.full[stage], parity);
    switch (stage) {
        while (true) {
            case 0: step(0); stage = 1; if (k == steps) break; [[fallthrough]];
            case 1: step(1); stage = 2; if (k == steps) break; [[fallthrough]];
            case 2: step(2); stage = 0; if (k == steps) break;
        }
    }
    wait(&s.drained, drained ^ 1);
    hand_over(t, acc, shared_address(s.out) + row * OUT_BYTES + (lane & 3) * 16);
    publish_stores();
    __syncwarp();
    if (lane == 0) arrive(&s.handed);
    drained ^= 1;
}

#endif
