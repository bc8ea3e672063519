// The few things that kernels ask of the machine. The tests replace this file by a shim of
// threads, so that every kernel body also runs, and is checked for races, on a processor.

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__
#define EXPORT(name)
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
// Barriers 1 to 15 of a block, whole warps each: wait there until `count` threads have come, or come
// without waiting.
DEVICE void sync_at(int barrier, int count) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(count) : "memory");
}
DEVICE void come_to(int barrier, int count) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(count) : "memory");
}

DEVICE char* shared_memory() {
    extern __shared__ __align__(16) char bytes[];
    return bytes;
}

// Sixteen bytes of global memory into shared memory, past the first-level cache, which does not
// know what other multiprocessors wrote.
DEVICE void copy16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     (u32)__cvta_generic_to_shared(to)),
                 "l"(from)
                 : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Wait until at most `pending` of this thread's latest groups of copies are under way.
template <int pending>
DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// The same into registers, and back. Left to itself the compiler writes a number at a time, and
// every write of a part of a sector costs what a whole one does.
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

// Sixteen bytes between blocks that look for them without having met: each half is written and read
// as one, and in order with other accesses to the same place only.
DEVICE void post16(void* to, const u64 (&halves)[2]) {
    asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1, %2};" ::"l"(to), "l"(halves[0]),
                 "l"(halves[1])
                 : "memory");
}
DEVICE void peek16(u64 (&halves)[2], const void* from) {
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(halves[0]), "=l"(halves[1])
                 : "l"(from)
                 : "memory");
}
// Before each look at what may not be there yet; the shim lets others go on.
DEVICE void rest() {}

// Blocks of a group meet at counters: all that any thread of a block wrote before it arrived is
// visible to all threads of a block that, after one of its threads saw it counted, met at a barrier.
// The barriers of the block carry the release to what its other threads wrote, and the acquire to
// what they read: fences of their own would wait for memory twice more.
DEVICE void arrive(u32* counter) {
    sync_block();
    if (thread() == 0) {
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
    }
}
DEVICE void wait_until(const u32* counter, u32 goal) {
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

// Correctly rounded and never fused, whatever the compiler's flags: random numbers keep their bits.
DEVICE double exact_add(double a, double b) { return __dadd_rn(a, b); }
DEVICE double exact_mul(double a, double b) { return __dmul_rn(a, b); }
DEVICE double exact_div(double a, double b) { return __ddiv_rn(a, b); }
DEVICE double exact_root(double a) { return __dsqrt_rn(a); }
DEVICE double as_double(u64 bits) { return __longlong_as_double((i64)bits); }
DEVICE u64 as_bits(double x) { return (u64)__double_as_longlong(x); }
DEVICE double root(double x) { return sqrt(x); }

DEVICE bool is_finite(double x) { return x - x == 0; }
