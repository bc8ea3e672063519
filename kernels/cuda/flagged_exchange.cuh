// Exchange of products between the blocks of a group through global memory, without barriers.
//
// Readers poll; the lowest mantissa bit of each element is a phase bit: 1 at the first use of an
// address (which was zero), then 0, then 1. So an element takes one trip through the second-level
// cache; a separate flag would take another, and storing it would wait for all weights in flight to
// memory. The value's lowest bit is rounded into the bit above it, to odd, which rounds up as often
// as down.
//
// These accesses order no others, except by data dependence: an element is stored after all
// elements from which it is formed have been read, including the last pass's products, whose slots
// are then overwritten. All other data that blocks write for each other become visible at the next
// group barrier (`reset_exchange`).

// Elements exchanged for one output, and for `tiles` tiles of outputs: first the products of t (or
// its co-states), then the products of t+1.
template <int P>
constexpr int EXCHANGED = vectors(P) * TILE;
DEVICE i64 exchange_size(int tiles) {
    return (i64)tiles * TILE * (EXCHANGED<NARROW> + EXCHANGED<WIDE>);
}
DEVICE i64 next_exchanged(int tiles) { return (i64)tiles * TILE * EXCHANGED<NARROW>; }

constexpr u64 LOWEST_BITS = sizeof(real) == 4 ? 0x0000000100000001 : 1;

DEVICE u64 phase_bit(const Block& b) { return b.updates & 2 ? 0 : LOWEST_BITS; }

DEVICE void store_flagged(real* to, const Vector& elements, u64 phase) {
    u64 halves[2];
    memcpy(halves, &elements, 16);
    UNROLL for (int i = 0; i < 2; i++) {
        halves[i] = (halves[i] & ~LOWEST_BITS) | (halves[i] & LOWEST_BITS) << 1 | phase;
    }
    store_relaxed16(to, halves);
}

// Poll `COUNT` vectors until all have the phase bit. `from(i)` is the address of vector i, or null
// if vector i is not needed.
template <int COUNT, class From>
DEVICE void poll(Vector (&found)[COUNT], From from, u64 phase) {
    u64 halves[COUNT][2], different;
    do {
        different = 0;
        pause_polling();
        UNROLL for (int i = 0; i < COUNT; i++) {
            const real* at = from(i);
            halves[i][0] = halves[i][1] = phase;
            if (at) load_relaxed16(halves[i], at);
        }
        UNROLL for (int i = 0; i < COUNT; i++) {
            halves[i][0] ^= phase;
            halves[i][1] ^= phase;
            different |= halves[i][0] | halves[i][1];
        }
    } while (different & LOWEST_BITS);
    UNROLL for (int i = 0; i < COUNT; i++) memcpy(&found[i], halves[i], 16);
}
