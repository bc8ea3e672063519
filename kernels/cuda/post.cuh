// Numbers that the blocks of a group leave for each other, in places of the card's memory.
//
// A block looks for what it needs until it is there. The last bit of every number tells: it is 1
// where a place is used for the first time (it was zero), then 0, then 1. So numbers come in one
// trip through the second-level cache; a flag beside them would be another, and writing it would
// wait for all weights on their way to memory. The number's own last bit is rounded into the one
// before it: it is half of that, and rounded to odd it goes up as often as down.
//
// Nothing else is ordered by these accesses, except by what depends on them: a number is posted after
// all were read that it was formed from, also those of the last sweep, whose places are then written
// anew. All else that blocks leave for each other waits for the next meeting (`settle`).

// Numbers of one output, and of so many tiles of outputs, where blocks hand them over: first the
// products of t, or its co-states, then the products of t+1.
template <int P>
constexpr int HANDED = vectors(P) * TILE;
DEVICE i64 handed(int tiles) { return (i64)tiles * TILE * (HANDED<NARROW> + HANDED<WIDE>); }
DEVICE i64 after_handed(int tiles) { return (i64)tiles * TILE * HANDED<NARROW>; }

constexpr u64 LAST_BITS = sizeof(real) == 4 ? 0x0000000100000001 : 1;

DEVICE u64 mark(const Block& b) { return b.visits & 2 ? 0 : LAST_BITS; }

DEVICE void post(real* to, const Vector& numbers, u64 mark) {
    u64 halves[2];
    memcpy(halves, &numbers, 16);
    UNROLL for (int i = 0; i < 2; i++) {
        halves[i] = (halves[i] & ~LAST_BITS) | (halves[i] & LAST_BITS) << 1 | mark;
    }
    post16(to, halves);
}

// Look for `COUNT` vectors until all are there. Where they lie, `from` tells, and null of those that
// nobody needs.
template <int COUNT, class From>
DEVICE void find(Vector (&found)[COUNT], From from, u64 mark) {
    u64 halves[COUNT][2], unlike;
    do {
        unlike = 0;
        rest();
        UNROLL for (int i = 0; i < COUNT; i++) {
            const real* at = from(i);
            halves[i][0] = halves[i][1] = mark;
            if (at) peek16(halves[i], at);
        }
        UNROLL for (int i = 0; i < COUNT; i++) {
            halves[i][0] ^= mark;
            halves[i][1] ^= mark;
            unlike |= halves[i][0] | halves[i][1];
        }
    } while (unlike & LAST_BITS);
    UNROLL for (int i = 0; i < COUNT; i++) memcpy(&found[i], halves[i], 16);
}
