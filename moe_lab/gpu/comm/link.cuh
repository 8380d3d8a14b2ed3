// SPDX-License-Identifier: Apache-2.0
// Instructions between GPUs that CUDA C++ has no words for.

__device__ inline u64 now_ns() {
    u64 out;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(out));
    return out;
}

// Whoever sees the flag sees everything that the block wrote before a barrier in front of this.
__device__ inline void raise(u32* flag, u32 count) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(count) : "memory");
}

// A launch has begun, so all that came before it on its GPU has ended: there is nothing to wait for.
__device__ inline void begin(u32* flag, u32 count) {
    asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(count) : "memory");
}

__device__ inline u32 seen(const u32* flag) {
    u32 out;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(out) : "l"(flag) : "memory");
    return out;
}

// 16 bytes for a reader on another GPU, who looks at each word by itself: nothing orders them.
__device__ inline void post(uint4* to, uint4 v) {
    asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1, %2, %3, %4};"
                 ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

__device__ inline uint4 peek(const uint4* from) {
    uint4 v;
    asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
    return v;
}
