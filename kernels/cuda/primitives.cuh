// Device primitives used by all kernels. The tests replace this file by a shim of CPU threads, so
// that every kernel body also runs, and is checked for races, without a GPU.

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__
#define EXPORT(name)
// A kernel's parameter struct, read in place: without the attribute, taking a reference to it would
// copy it to local memory.
#define BY_VALUE const __grid_constant__
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")

typedef REAL real;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

DEVICE int thread() { return (int)threadIdx.x; }
DEVICE int threads() { return (int)blockDim.x; }
DEVICE int block() { return (int)blockIdx.x; }
DEVICE int block_y() { return (int)blockIdx.y; }
DEVICE int blocks() { return (int)gridDim.x; }
DEVICE void sync_block() { __syncthreads(); }
// Named barriers 1 to 15 of a block, for whole warps: wait until `count` threads have arrived, or
// arrive without waiting. Not the `.aligned` form (`bar`), which requires that all threads of a
// warp have converged: threads may arrive from loops of different lengths.
DEVICE void named_barrier_sync(int barrier, int count) {
    asm volatile("barrier.sync %0, %1;" ::"r"(barrier), "r"(count) : "memory");
}
DEVICE void named_barrier_arrive(int barrier, int count) {
    asm volatile("barrier.arrive %0, %1;" ::"r"(barrier), "r"(count) : "memory");
}

DEVICE char* shared_memory() {
    extern __shared__ __align__(16) char bytes[];
    return bytes;
}

// Copy 16 bytes of global memory into shared memory, bypassing the first-level cache, which is not
// coherent with writes of other multiprocessors.
DEVICE void copy16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     (u32)__cvta_generic_to_shared(to)),
                 "l"(from)
                 : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Wait until at most `pending` of this thread's latest groups of copies are in flight.
template <int pending>
DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Load 16 bytes into registers, and store them. Without inline assembly the compiler would write
// one element at a time, and a write to part of a sector costs as much as one of the whole sector.
DEVICE void load16(void* to, const void* from) {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from)
                 : "memory");
    memcpy(to, &v, 16);
}
DEVICE void store16(void* to, const void* from) {
    uint4 v;
    memcpy(&v, from, 16);
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y),
                 "r"(v.z), "r"(v.w)
                 : "memory");
}

// Store and load 16 bytes that blocks exchange without a barrier: each half is written and read
// atomically, and ordered only with other accesses to the same address.
DEVICE void store_relaxed16(void* to, const u64 (&halves)[2]) {
    asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1, %2};" ::"l"(to), "l"(halves[0]),
                 "l"(halves[1])
                 : "memory");
}
DEVICE void load_relaxed16(u64 (&halves)[2], const void* from) {
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(halves[0]), "=l"(halves[1])
                 : "l"(from)
                 : "memory");
}
// Called before each poll; the shim yields to other threads here.
DEVICE void pause_polling() {}

// Barriers between blocks are counters. All writes of a block's threads before the block arrives
// are visible to all threads of a block that synchronises after one of its threads has waited for
// the count. The blocks' own barriers extend the release to the writes of a block's other threads
// and the acquire to their reads: separate fences would wait for memory twice more.
DEVICE void barrier_arrive(u32* counter) {
    sync_block();
    if (thread() == 0) {
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
    }
}
DEVICE void barrier_wait(const u32* counter, u32 goal) {
    u32 seen;
    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
    } while (seen < goal);
}

DEVICE u64 nanoseconds() {
    u64 now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

// Correctly rounded and never fused, whatever the compiler's flags: the bits of random numbers
// depend on it.
DEVICE double exact_add(double a, double b) { return __dadd_rn(a, b); }
DEVICE double exact_mul(double a, double b) { return __dmul_rn(a, b); }
DEVICE double exact_div(double a, double b) { return __ddiv_rn(a, b); }
DEVICE double exact_root(double a) { return __dsqrt_rn(a); }
DEVICE double as_double(u64 bits) { return __longlong_as_double((i64)bits); }
DEVICE u64 as_bits(double x) { return (u64)__double_as_longlong(x); }
DEVICE double root(double x) { return sqrt(x); }

DEVICE bool is_finite(double x) { return x - x == 0; }
