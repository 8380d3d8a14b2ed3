// Enough of CUDA C++ to run a kernel on the CPU: blocks one after another, or in turn if they wait for each other, the
// threads of a block in turn, each until it waits for others. Ranks are threads of the process.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __device__
#define __global__ static
#define __launch_bounds__(...)
#define __shared__
#define __align__(n) __attribute__((aligned(n)))
#define blockIdx (*the_block)
#define threadIdx (*the_thread)

typedef unsigned int u32;
typedef unsigned long long u64;
using std::max;
using std::min;

struct uint4 { u32 x, y, z, w; };
struct float2 { float x, y; };
static uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
static float2 make_float2(float x, float y) { return {x, y}; }

struct Meeting {
    int expected, arrived = 0;
    u32 round = 0;
    u64 given[2][32];
};

struct Thread {
    int x;
    bool done;
    ucontext_t context;
    std::unique_ptr<char[]> stack;
};

struct Block {
    int x;
    ucontext_t scheduler;
    Meeting all, named[16] = {};
    std::vector<Meeting> warps;
    std::vector<Thread> threads;
    alignas(128) char shared_memory[1 << 18];
};

static thread_local Block* the_block;
static thread_local Thread* the_thread;
static thread_local int the_rank;
static thread_local void (*the_call)(const u64*);
static thread_local const u64* the_arguments;

static void others() { swapcontext(&the_thread->context, &the_block->scheduler); }

static void wait_in(Meeting& meeting) {
    const u32 round = meeting.round;
    if (++meeting.arrived == meeting.expected) {
        meeting.arrived = 0;
        meeting.round++;
    }
    while (meeting.round == round) others();
}

static const u64* exchange(u64 value) {
    Meeting& warp = the_block->warps[the_thread->x / 32];
    u64* given = warp.given[warp.round & 1];
    given[the_thread->x & 31] = value;
    wait_in(warp);
    return given;
}

template <int NUMBER, int COUNT> void meet() {
    the_block->named[NUMBER].expected = COUNT;
    wait_in(the_block->named[NUMBER]);
}
template <int NUMBER, int COUNT> void announce() {
    Meeting& meeting = the_block->named[NUMBER];
    if (++meeting.arrived == COUNT) meeting.arrived = 0, meeting.round++;
}

static void __syncthreads() { wait_in(the_block->all); }
static void __syncwarp() { exchange(0); }

template <class T> T __shfl_sync(u32, T value, int lane) {
    u64 bits = 0;
    memcpy(&bits, &value, sizeof(T));
    memcpy(&value, exchange(bits) + (lane & 31), sizeof(T));
    return value;
}
template <class T> T __shfl_xor_sync(u32 all, T value, int mask) { return __shfl_sync(all, value, (the_thread->x & 31) ^ mask); }

static u32 __reduce_or_sync(u32, u32 value) {
    const u64* given = exchange(value);
    for (int lane = 0; lane < 32; lane++) value |= given[lane];
    return value;
}
static bool __any_sync(u32 all, bool value) { return __reduce_or_sync(all, value); }
static u32 __ballot_sync(u32 all, bool value) { return __reduce_or_sync(all, value ? 1u << (the_thread->x & 31) : 0); }
static u32 __match_any_sync(u32, u32 value) {
    const u64* given = exchange(value);
    u32 same = 0;
    for (int lane = 0; lane < 32; lane++) same |= (given[lane] == value) << lane;
    return same;
}
static int __popc(u32 bits) { return __builtin_popcount(bits); }
static int __ffs(u32 bits) { return __builtin_ffs(bits); }
static u32 __funnelshift_l(u32 low, u32 high, int by) { return (((u64)high << 32 | low) << (by & 31)) >> 32; }
static u32 __funnelshift_r(u32 low, u32 high, int by) { return ((u64)high << 32 | low) >> (by & 31); }
static u32 __byte_perm(u32 low, u32 high, u32 which) {
    u32 out = 0;
    for (int i = 0; i < 4; i++) out |= (u32)(((u64)high << 32 | low) >> 8 * (which >> 4 * i & 7) & 0xff) << 8 * i;
    return out;
}
static u32 __vminu2(u32 a, u32 b) { return min(a >> 16, b >> 16) << 16 | min(a & 0xffff, b & 0xffff); }
[[noreturn]] static void __trap() { abort(); }
static void __nanosleep(u32) { others(); }

template <class T> T __ldcg(const T* from) { return *from; }
template <class T> T __ldg(const T* from) { return *from; }
template <class T, class V> T atomicAdd(T* at, V value) { const T was = *at; return *at += value, was; }
template <class T, class V> T atomicOr(T* at, V value) { const T was = *at; return *at |= value, was; }
static u32 atomicInc(u32* at, u32 most) { const u32 was = *at; return *at = was < most ? was + 1 : 0, was; }
static u32 atomicCAS(u32* at, u32 expected, u32 value) {
    __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}

// numbers.cuh

constexpr float LARGEST = 448.0f;
static float __uint_as_float(u32 bits) { float out; memcpy(&out, &bits, 4); return out; }
static float2 unpack(u32 two) { return {__uint_as_float(two << 16), __uint_as_float(two & 0xffff0000u)}; }
static u32 bf16(float v) {
    u32 bits;
    memcpy(&bits, &v, 4);
    return v != v ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static u32 pack(float low, float high) { return bf16(low) | bf16(high) << 16; }
static u32 e4m3(float v) {
    const float size = std::fmin(std::fabs(v), LARGEST);
    int power;
    std::frexp(size, &power);
    power = std::max(power - 1, -6);
    int units = (int)std::nearbyint(std::ldexp(size, 3 - power));  // of 1/8
    if (units == 16) units = 8, power++;
    return (std::signbit(v) ? 0x80 : 0) | (units < 8 ? units : (power + 7) << 3 | (units - 8));
}
static unsigned short to_e4m3(float low, float high) { return e4m3(low) | e4m3(high) << 8; }
static float scale_of(float largest) { return largest > 0 ? largest / LARGEST : 1; }
static float inverse_of(float largest) { return largest > 0 ? LARGEST / largest : 1; }

static u32 pack_bf16(float low, float high) { return pack(low, high); }

// link.cuh

static u64 now_ns() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }
static void raise(u32* flag, u32 count) { __atomic_store_n(flag, count, __ATOMIC_RELEASE); }
// Begins of launches need no order on a GPU, where what came before has ended.
static void begin(u32* flag, u32 count) { raise(flag, count); }
static u32 seen(const u32* flag) {
    others();
    return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}
static void post(uint4* to, uint4 v) {
    const u32 words[4] = {v.x, v.y, v.z, v.w};
    for (int i = 0; i < 4; i++) __atomic_store_n((u32*)to + i, words[i], __ATOMIC_RELAXED);
}
static uint4 peek(const uint4* from) {
    others();
    u32 words[4];
    for (int i = 0; i < 4; i++) words[i] = __atomic_load_n((const u32*)from + i, __ATOMIC_RELAXED);
    return {words[0], words[1], words[2], words[3]};
}

// Launches.

template <class... A, size_t... I> void apply(void (*kernel)(A...), const u64* given, std::index_sequence<I...>) {
    kernel((A)given[I]...);
}
template <class... A> void apply(void (*kernel)(A...), const u64* given) {
    apply(kernel, given, std::make_index_sequence<sizeof...(A)>());
}

static void begin() {
    the_call(the_arguments);
    the_thread->done = true;
    others();
}

static std::unique_ptr<Block> block_of(int number, int threads) {
    auto block = std::make_unique<Block>();
    block->x = number, block->all.expected = threads;
    block->warps.resize(threads / 32);
    for (Meeting& warp : block->warps) warp.expected = 32;
    block->threads.resize(threads);
    for (int t = 0; t < threads; t++) {
        Thread& thread = block->threads[t];
        thread.x = t, thread.done = false, thread.stack.reset(new char[1 << 16]);
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.get(), thread.context.uc_stack.ss_size = 1 << 16;
        makecontext(&thread.context, begin, 0);
    }
    return block;
}

// Whether any thread of the block is left.
static bool go_on(Block& block) {
    bool alive = false;
    the_block = &block;
    for (Thread& thread : block.threads) {
        if (thread.done) continue;
        alive = true, the_thread = &thread;
        swapcontext(&block.scheduler, &thread.context);
    }
    return alive;
}

static void run(void (*call)(const u64*), int rank, int blocks, int threads, bool together, const u64* arguments) {
    the_rank = rank, the_call = call, the_arguments = arguments;
    std::vector<std::unique_ptr<Block>> present;
    for (int b = 0; b < blocks; b++) {
        present.push_back(block_of(b, threads));
        if (together && b + 1 < blocks) continue;
        for (bool alive = true; alive;) {
            alive = false;
            for (auto& block : present) alive |= go_on(*block);
        }
        present.clear();
    }
}

#define KERNEL(name) \
    extern "C" void run_##name(int rank, int blocks, int threads, bool together, const u64* arguments) { \
        run([](const u64* given) { apply(name, given); }, rank, blocks, threads, together, arguments); \
    }
