// SPDX-License-Identifier: Apache-2.0
// Instructions that CUDA C++ has no words for: barriers in shared memory, copies, hints to the L2 cache, stores.

constexpr u32 MOST_POLLS = 1u << 24;      // seconds: the launch is broken
constexpr u32 ALL = 0xffffffffu;          // lanes of a warp

__device__ inline u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ inline void barrier_init(u64* b, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count));
}

__device__ inline void arrive(u32 b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory"); }
__device__ inline void arrive(u64* b) { arrive(shared_address(b)); }

// Arrives, and has the barrier wait for so many bytes of copies too.
__device__ inline void arrive_expecting(u64* b, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}

// So that copies find the barriers as they were initialised.
__device__ inline void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline bool is_past(u32 b, u32 parity) {
    u32 done;
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(done) : "r"(b), "r"(parity) : "memory");
    return done;
}
__device__ inline bool is_past(u64* b, u32 parity) { return is_past(shared_address(b), parity); }

// Does not suspend the thread, as is_past does for up to microseconds.
__device__ inline bool is_past_now(u64* b, u32 parity) {
    u32 done;
    asm volatile(
        "{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(done) : "r"(shared_address(b)), "r"(parity) : "memory");
    return done;
}

__device__ inline void wait(u32 b, u32 parity) {
    for (u32 polls = 0; !is_past(b, parity);)
        if (++polls > MOST_POLLS) __trap();
}
__device__ inline void wait(u64* b, u32 parity) { wait(shared_address(b), parity); }

// `once`: what is copied is not read again, so the L2 cache may forget it first. An explicit evict_normal is slower
// than no policy.
template <int BYTES = UNIT>
__device__ inline void bulk_copy(u32 to, const char* from, u64* barrier, bool once, u64 policy) {
    if (once)
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;"
            ::"r"(to), "l"(from), "n"(BYTES), "r"(shared_address(barrier)), "l"(policy) : "memory");
    else
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
            ::"r"(to), "l"(from), "n"(BYTES), "r"(shared_address(barrier)) : "memory");
}

__device__ inline void bulk_copy(u32 to, const char* from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

__device__ inline u64 evict_first() {
    u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

__device__ inline u64 evict_last() {
    u64 policy;
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

__device__ inline u64 row_of(const char* base, u32 row, u32 row_bytes) {
    u64 at;
    asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(at) : "r"(row), "r"(row_bytes), "l"(base));
    return at;
}

// Said to be global, so that reads of shared memory may move across.
__device__ inline void store(u64 to, unsigned short value) {
    asm volatile("st.global.u16 [%0], %1;" ::"l"(to), "h"(value));
}

__device__ inline void store(u64 to, u32 value) { asm volatile("st.global.u32 [%0], %1;" ::"l"(to), "r"(value)); }

__device__ inline void store(u64 to, uint4 value) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
                 ::"l"(to), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w));
}

__device__ inline void store_y(u64 to, u32 value, u64 policy) {
    if (KEEP_Y) asm volatile("st.global.L2::cache_hint.b32 [%0], %1, %2;" ::"l"(to), "r"(value), "l"(policy));
    else store(to, value);
}

__device__ inline void store_y(u64 to, uint2 value, u64 policy) {
    if (KEEP_Y)
        asm volatile("st.global.L2::cache_hint.v2.b32 [%0], {%1, %2}, %3;"
                     ::"l"(to), "r"(value.x), "r"(value.y), "l"(policy));
    else
        asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(value.x), "r"(value.y));
}

// The lower half of a descriptor. The upper one, in every wgmma, says: K-major, 128-byte swizzle, groups of 8 rows lie 1024
// bytes apart.
__device__ inline u32 descriptor(u32 address) { return (address & 0x3ffff) >> 4 | 1 << 16; }

// Keeps the compiler from moving reads and writes of the sums across: wgmma works at them until it is waited for.
template <int N, int B>
__device__ inline void pin(float (&acc)[B][N / 2]) {
    #pragma unroll
    for (int b = 0; b < B; b++)
        #pragma unroll
        for (int i = 0; i < N / 2; i++) asm volatile("" : "+f"(acc[b][i])::"memory");
}

// A barrier of some of the block's threads, by its number: all come and wait, or come and go on.
template <int NUMBER, int COUNT>
__device__ inline void meet() { asm volatile("bar.sync %0, %1;" ::"n"(NUMBER), "n"(COUNT) : "memory"); }

template <int NUMBER, int COUNT>
__device__ inline void announce() { asm volatile("bar.arrive %0, %1;" ::"n"(NUMBER), "n"(COUNT) : "memory"); }

// What threads stored to shared memory may be read by a wgmma or a copy, once the barrier that they come to next is past.
__device__ inline void publish_stores() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ inline void store_shared(u32 to, uint4 v) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// What another block has written in this launch.
__device__ inline uint4 load_written(u64 from) {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
    return v;
}

// A count in global memory, of what other blocks may read once they have seen it.
__device__ inline void count_one(u32* count) { asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory"); }

__device__ inline u32 counted(const u32* count) {
    u32 seen;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(count) : "memory");
    return seen;
}

// A number that other blocks may be waiting for, and what they may be writing.
__device__ inline void post(unsigned short* to, unsigned short value) {
    asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" ::"l"(to), "h"(value) : "memory");
}

__device__ inline uint4 peek(const uint4* from) {
    uint4 seen;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(seen.x), "=r"(seen.y), "=r"(seen.z), "=r"(seen.w) : "l"(from) : "memory");
    return seen;
}

// A word of shared memory that another warp may be writing.
__device__ inline u32 look(const u32* at) { return *(const volatile u32*)at; }
