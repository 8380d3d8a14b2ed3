// What cuda.h lacks of ptx.cuh and registers.cuh of the kernels for Hopper: shared memory is an array, addresses in it are counted from its begin.

constexpr u32 MOST_POLLS = ~0u, ALL = ~0u;
#define raw (the_block->shared_memory)
static u32 shared_address(const void* p) { return (const char*)p - raw; }

struct Barrier { short expected, pending; u32 bytes : 30, unused : 1, phase : 1; };
static Barrier& barrier(u64* b) { return *(Barrier*)b; }
static void settle(Barrier& b) { if (!b.pending && !b.bytes) b.pending = b.expected, b.phase ^= 1; }
static void barrier_init(u64* b, u32 count) { barrier(b) = {(short)count, (short)count, 0, 0, 0}; }
static void publish_barriers() {}
static void arrive(u64* b) { barrier(b).pending--, settle(barrier(b)); }
static void arrive(u32 b) { arrive((u64*)(raw + b)); }
static void arrive_expecting(u64* b, u32 bytes) { barrier(b).bytes += bytes, arrive(b); }
static void wait(u64* b, u32 parity) { while (barrier(b).phase == parity) others(); }
static u64 row_of(const char* base, u32 row, u32 row_bytes) { return (u64)base + (u64)row * row_bytes; }
template <class V> void store(u64 to, V value) { memcpy((void*)to, &value, sizeof(V)); }
static uint4 load_written(u64 from) { return *(const uint4*)from; }
static void store_shared(u32 to, uint4 v) { memcpy(raw + to, &v, sizeof(v)); }
static void publish_stores() {}
static void wait(u32 b, u32 parity) { wait((u64*)(raw + b), parity); }
static u64 evict_first() { return 0; }
template <int BYTES> void bulk_copy(u32 to, const char* from, u64* b, bool, u64) {
    memcpy(raw + to, from, BYTES);
    barrier(b).bytes -= BYTES, settle(barrier(b));
}
static void post(unsigned short* to, unsigned short value) { *to = value; }
static void count_one(u32* count) { ++*count; }
static u32 counted(const u32* count) { return others(), *count; }
template <int WORDS> void load_words(u32 (&to)[WORDS], u32 from) { memcpy(to, raw + from, 4 * WORDS); }
static u32 fma_bf16(u32 a, u32 b, u32 c) {
    const float2 x = unpack(a), y = unpack(b), z = unpack(c);
    return pack((double)x.x * y.x + z.x, (double)x.y * y.y + z.y);
}
static float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }
static void multiply(float (&sums)[4], const u32 (&weights)[4], u32 low, u32 high) {
    const u32 mine[6] = {weights[0], weights[1], weights[2], weights[3], low, high};
    u32 of[32][6];
    for (int i = 0; i < 6; i++) {
        const u64* given = exchange(mine[i]);
        for (int lane = 0; lane < 32; lane++) of[lane][i] = given[lane];
    }
    const int row = (the_thread->x & 31) / 4, column = the_thread->x % 4 * 2;
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 16; k += 2) {
            const float2 w = unpack(of[row * 4 + k % 8 / 2][i / 2 + k / 8 * 2]), x = unpack(of[(column + i % 2) * 4 + k % 8 / 2][4 + k / 8]);
            sums[i] += w.x * x.x + w.y * x.y;
        }
}
static u32 look(const u32* at) { return others(), *at; }
