// Thread shim: blocks of CPU threads, in place of kernels/cuda/primitives.cuh in tests.
//
// It does not model what only a GPU has: scopes of memory, banks, warps.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#define DEVICE inline
#define KERNEL static
#define BY_VALUE const
#define UNROLL
#define ROLLED
#define EXPORT(name)                                                                             \
    extern "C" void launch_##name(void** arguments, int columns, int rows, int size, int bytes) { \
        launch(name, arguments, columns, rows, size, bytes);                                     \
    }

typedef REAL real;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// Not std::barrier: it waits through counters that all barriers of a process share, which
// ThreadSanitizer takes for an order between blocks, and so misses their races.
struct ShimBarrier {
    std::atomic<int> arrived{0}, round{0};
    int arrive(int size) {
        int now = round.load(std::memory_order_acquire);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
        }
        return now;
    }
    void wait(int size) {
        const int now = arrive(size);
        while (round.load(std::memory_order_acquire) == now) std::this_thread::yield();
    }
};

struct ShimBlock {
    ShimBarrier barriers[16];
    std::vector<char> bytes;
    char* shared;
    explicit ShimBlock(int count) : bytes(count + 16) {
        // Shared memory begins with NaNs: kernels must not read before they write.
        std::memset(bytes.data(), 0xff, bytes.size());
        shared = bytes.data() + (16 - (size_t)bytes.data() % 16) % 16;
    }
};

static thread_local int shim_thread, shim_threads, shim_block, shim_row, shim_blocks;
static thread_local ShimBlock* shim;

DEVICE int thread() { return shim_thread; }
DEVICE int threads() { return shim_threads; }
DEVICE int block() { return shim_block; }
DEVICE int block_y() { return shim_row; }
DEVICE int blocks() { return shim_blocks; }
DEVICE void sync_block() { shim->barriers[0].wait(shim_threads); }
DEVICE void named_barrier_sync(int barrier, int count) { shim->barriers[barrier].wait(count); }
DEVICE void named_barrier_arrive(int barrier, int count) { shim->barriers[barrier].arrive(count); }
DEVICE char* shared_memory() { return shim->shared; }
// Every second thread copies as late as allowed, when it waits for the group of copies, and the
// others at once. Word by word, for ThreadSanitizer does not see a memcpy that the compiler
// expands.
typedef u64 __attribute__((may_alias)) word;
struct ShimCopy {
    word* to;
    const word* from;
    void make() const {
        for (int i = 0; i < 2; i++) to[i] = from[i];
    }
};
static thread_local std::vector<ShimCopy> shim_open;
static thread_local std::deque<std::vector<ShimCopy>> shim_pending;
DEVICE void copy16(void* to, const void* from) {
    const ShimCopy copy{(word*)to, (const word*)from};
    if (shim_thread % 2) copy.make();
    else shim_open.push_back(copy);
}
DEVICE void commit_copies() {
    shim_pending.push_back(std::move(shim_open));
    shim_open.clear();
}
template <int pending>
DEVICE void wait_copies() {
    while ((int)shim_pending.size() > pending) {
        for (const ShimCopy& copy : shim_pending.front()) copy.make();
        shim_pending.pop_front();
    }
}
DEVICE void load16(void* to, const void* from) {
    for (int i = 0; i < 2; i++) ((word*)to)[i] = ((const word*)from)[i];
}
DEVICE void store16(void* to, const void* from) { load16(to, from); }
// Stronger than on a GPU, where these accesses order nothing else: ThreadSanitizer does not know
// that the elements that a value depends on have been read when the value arrives.
DEVICE void store_relaxed16(void* to, const u64 (&halves)[2]) {
    for (int i = 0; i < 2; i++) {
        std::atomic_ref<u64>(((u64*)to)[i]).store(halves[i], std::memory_order_release);
    }
}
DEVICE void load_relaxed16(u64 (&halves)[2], const void* from) {
    for (int i = 0; i < 2; i++) {
        halves[i] = std::atomic_ref<u64>(((u64*)from)[i]).load(std::memory_order_acquire);
    }
}
DEVICE void pause_polling() { std::this_thread::yield(); }
DEVICE void barrier_arrive(u32* counter) {
    sync_block();
    if (thread() == 0) std::atomic_ref<u32>(*counter).fetch_add(1, std::memory_order_acq_rel);
}
DEVICE void barrier_wait(u32* counter, u32 goal) {
    std::atomic_ref<u32> seen(*counter);
    while (seen.load(std::memory_order_acquire) < goal) std::this_thread::yield();
}
DEVICE u64 nanoseconds() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
DEVICE double exact_add(double a, double b) { return a + b; }
DEVICE double exact_mul(double a, double b) { return a * b; }
DEVICE double exact_div(double a, double b) { return a / b; }
DEVICE double exact_root(double a) { return std::sqrt(a); }
DEVICE double as_double(u64 bits) {
    double x;
    std::memcpy(&x, &bits, 8);
    return x;
}
DEVICE u64 as_bits(double x) {
    u64 bits;
    std::memcpy(&bits, &x, 8);
    return bits;
}
DEVICE double root(double x) { return std::sqrt(x); }
DEVICE bool is_finite(double x) { return std::isfinite(x); }

template <class... P, size_t... I>
static void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*(P*)arguments[I]...);
}

// All blocks at once, as a cooperative launch promises.
template <class... P>
static void launch(void (*kernel)(P...), void** arguments, int columns, int rows, int size,
                   int bytes) {
    std::vector<std::unique_ptr<ShimBlock>> grid;
    std::vector<std::thread> team;
    for (int i = 0; i < columns * rows; i++) {
        grid.push_back(std::make_unique<ShimBlock>(bytes));
        for (int t = 0; t < size; t++) {
            team.emplace_back([=, block = grid.back().get()] {
                shim_thread = t, shim_threads = size, shim_blocks = columns, shim = block;
                shim_block = i % columns, shim_row = i / columns;
                call(kernel, arguments, std::index_sequence_for<P...>());
            });
        }
    }
    for (std::thread& member : team) member.join();
}
