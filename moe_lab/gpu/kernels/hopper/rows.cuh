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

__device__ inline float most_of_quad(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL, value, 2));
}

// w13: a thread has 32 features of each of two tokens, four neighbouring ones of each sixteen.
__device__ inline void store_hidden_rows(const Arguments& a, const Tile& t, const Pair* pairs, float (&acc)[2][64], int group) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5 & 3, q = lane & 3;
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = group * 64 + warp * 16 + h * 8 + (lane >> 2);
        float largest = 0.0f;
        #pragma unroll
        for (int u = 0; u < 2; u++)
            #pragma unroll
            for (int j = 0; j < 16; j += 2)
                #pragma unroll
                for (int c = 0; c < 2; c++) {
                    float& gate = acc[u][4 * j + 2 * h + c];
                    gate = gated(gate, acc[u][4 * j + 4 + 2 * h + c]);
                    largest = fmaxf(largest, fabsf(gate));
                }
        largest = most_of_quad(largest);
        const u32 pair = row < t.valid ? pairs[row] : a.numel;
        if (pair >= a.numel) continue;
        char* to = a.hidden + (u64)pair * row_bytes(a.steps2);
        const float inverse = inverse_of(largest);
        if (q == 0) *(float*)(to + a.steps2 * 128 + t.unit * 4) = scale_of(largest);
        to += t.unit * 128 + q * 4;
        #pragma unroll
        for (int u = 0; u < 2; u++)
            #pragma unroll
            for (int w = 0; w < 4; w++) {
                const int j = 2 * w, at = 4 * j + 2 * h;
                const u32 low = to_e4m3(acc[u][at] * inverse, acc[u][at + 32] * inverse);
                const u32 high = to_e4m3(acc[u][at + 1] * inverse, acc[u][at + 33] * inverse);
                *(u32*)(to + u * 64 + w * 16) = low | high << 16;
            }
    }
}

// w2: eight neighbouring features of each 32 of a unit.
__device__ inline void store_y_rows(const Arguments& a, const Tile& t, const Pair* pairs, const float (&acc)[64], int u) {
    const int lane = threadIdx.x & 31, q = lane & 3;
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = (threadIdx.x >> 5) * 16 + h * 8 + (lane >> 2);
        const u32 pair = row < t.valid ? pairs[row] : a.numel;
        if (pair >= a.numel || 2 * t.unit + u >= a.units2) continue;
        const u64 to = row_of(a.y + (2 * t.unit + u) * 256 + q * 16, pair, a.columns * 2);
        #pragma unroll
        for (int w = 0; w < 4; w++) {
            const int at = 8 * w + 2 * h;
            if ((2 * t.unit + u) * 128 + w * 32 + q * 8 >= a.columns) continue;
            u32 out[4];
            #pragma unroll
            for (int c = 0; c < 2; c++) {
                out[2 * c] = pack(acc[at + c], acc[at + 4 + c]);
                out[2 * c + 1] = pack(acc[at + 32 + c], acc[at + 36 + c]);
            }
            store(to + w * 64, make_uint4(out[0], out[1], out[2], out[3]));
        }
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

__device__ inline void multiply_rows(const Block& block, const Tile& t, const Pair* pairs, int& stage, u32& parity) {
    Shared& s = shared();
    const Arguments& a = block.a;
    int thread = threadIdx.x;
    asm volatile("" : "+r"(thread));      // else it is read anew every step
    const int group = __shfl_sync(ALL, thread >> 7, 0), lane = thread & 31;
    const int steps = t.phase ? a.steps2 : a.steps13, row = (thread >> 5) * 16 + (lane >> 2);
    const u32 begin = __shfl_sync(ALL, stages_begin(), 0), rows_at = shared_address(s.row_scales[0][0]) + row * 4;
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
    const bool any = group * 64 < t.valid;
    const auto step = [&](int now) {
        if (!any) {
            if (now == STAGES - 1) parity ^= 1;
            if (lane == 0) arrive(&s.empty[now]);
            if (++k < steps) wait(&s.full[now == STAGES - 1 ? 0 : now + 1], parity);
            return;
        }
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
    static_assert(STAGES == 3 || STAGES == 4, "stages that the loop knows");
    wait(&s.full[stage], parity);
    switch (stage) {
        while (true) {
            case 0: step(0); stage = 1; if (k == steps) break; [[fallthrough]];
            case 1: step(1); stage = 2; if (k == steps) break; [[fallthrough]];
            case 2: step(2); stage = STAGES == 3 ? 0 : 3; if (k == steps) break;
#if STAGES == 4
            [[fallthrough]];
            case 3: step(3); stage = 0; if (k == steps) break;
#endif
        }
    }
    if (t.phase) {
        store_y_rows(a, t, pairs, acc[0], 0);
        store_y_rows(a, t, pairs, acc[1], 1);
        return;
    }
    store_hidden_rows(a, t, pairs, acc, group);
    if (!a.fused) return;
    __syncwarp();
    if (lane == 0)
        asm volatile("red.release.cta.shared::cta.add.u32 [%0], 1;" ::"r"(shared_address(s.ended + group)) : "memory");
}

#endif
