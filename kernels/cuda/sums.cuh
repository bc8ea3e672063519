// What the threads of a block, and then the blocks of a group, have of every sum is added up, in
// order, and handed to whoever carries it on.

constexpr int FETCHED = 4;  // vectors that a thread fetches at a time

// Numbers between two threads' shares of all outputs: the odd vector keeps them off one bank.
template <int P>
DEVICE i64 apart(const Part& part) {
    return (i64)part.own * TILE * pitch(P) + TILE;
}

template <int P>
DEVICE void leave_sums(real* to, const Part& part, const real (&sums)[TILE][P]) {
    UNROLL for (int o = 0; o < TILE; o++) {
        i64 at = place<P>(o, part.tile, part.own);
        UNROLL for (int k = 0; k < vectors(P); k++) {
            Vector x = zeros();
            UNROLL for (int i = 0; i < TILE; i++) {
                if (k * TILE + i < P) x.x[i] = sums[o][k * TILE + i];
            }
            store(to + at + k * TILE, x);
        }
    }
}

template <bool DOWN, int CHAINS>
DEVICE void leave_partial_sums(const Block& b, const Part& part, const Sums<DOWN>& s) {
    if (CHAINS & OLD) {
        leave_sums<NARROW>(b.partial + part.split * apart<NARROW>(part), part, s.before);
    }
    if (CHAINS & NEW) {
        constexpr int P = AFTER<DOWN>;
        leave_sums<P>(b.partial_after + part.split * apart<P>(part), part, s.after);
    }
}

// Add up the threads' shares of one vector of an output.
template <int P>
DEVICE void gather_one(const Part& part, const real* partial, int item, real* target, real* slots,
                       u64 mark) {
    int k = item % vectors(P), position = item / vectors(P);
    const real* from = partial + position * pitch(P) + k * TILE;
    Vector sum = part.inner ? load(from) : zeros();
    for (int i = 1; i < part.splits; i++) {
        Vector next = load(from + i * apart<P>(part));
        UNROLL for (int j = 0; j < TILE; j++) sum.x[j] += next.x[j];
    }
    const int all = among(part, position, part.all) + (GROUPED ? part.first : 0);
    if (GROUPED) post(target + all * HANDED<P> + k * TILE, sum, mark);
    if (!GROUPED) store(target + all * pitch(P) + k * TILE, sum);
    if (slots) store16(slots + all * SLOT + k * TILE, &sum);
}

// Vectors of the chains' sums for so many tiles of outputs: first those of t, then those of t+1.
template <int CHAINS>
DEVICE int first_items(int own) {
    return CHAINS & OLD ? own * TILE * vectors(NARROW) : 0;
}
template <bool DOWN, int CHAINS>
DEVICE int all_items(int own) {
    return first_items<CHAINS>(own) + (CHAINS & NEW ? own * TILE * vectors(AFTER<DOWN>) : 0);
}

// Add up the threads' shares of every output of this block: into the products that the next visit
// carries or, where other blocks have other terms of the sum, into this block's share.
template <bool DOWN, int CHAINS>
DEVICE void gather(const Block& b, const Part& part, real* slots) {
    constexpr int P = AFTER<DOWN>;
    const bool finished = !GROUPED || b.parts == 1;
    const i64 half = b.visits & 1;
    real* target = !GROUPED ? b.V
                   : finished ? b.exchange + half * handed(b.widest)
                              : b.shares + (half * b.parts + b.part) * handed(b.widest);
    real* after = target + (GROUPED ? after_handed(b.widest) : after_in(b.held));
    const int first = first_items<CHAINS>(part.own), all = all_items<DOWN, CHAINS>(part.own);
    for (int item = worker(); item < all; item += workers()) {
        if (CHAINS & OLD && item < first) {
            gather_one<NARROW>(part, b.partial, item, target, nullptr, mark(b));
        } else if (CHAINS & NEW) {
            gather_one<P>(part, b.partial_after, item - first, after, finished ? slots : nullptr,
                          mark(b));
        }
    }
}

// Add up the blocks' shares of one vector of an output. All are looked for at once: each takes as
// long to come as the whole visit of a small layer.
template <int P>
DEVICE void finish_one(const Block& b, const real* shares, i64 at, real* target, real* slot) {
    Vector sum = zeros(), next[AT_ONCE];
    for (int first = 0; first < b.parts; first += AT_ONCE) {
        const real* from = shares + first * handed(b.widest) + at;
        find(next, [&](int i) { return first + i < b.parts ? from + i * handed(b.widest) : nullptr; },
             mark(b));
        UNROLL for (int i = 0; i < AT_ONCE; i++) {
            UNROLL for (int j = 0; j < TILE; j++) sum.x[j] += next[i].x[j];
        }
    }
    post(target + at, sum, mark(b));
    if (slot) store16(slot, &sum);
}

// Add up the blocks' shares of some outputs; the blocks that left them do some each.
template <bool DOWN, int CHAINS>
DEVICE void finish(const Block& b, const Part& part, real* slots) {
    constexpr int P = AFTER<DOWN>;
    const i64 half = b.visits & 1, after = after_handed(b.widest);
    const real* shares = b.shares + half * b.parts * handed(b.widest);
    real* target = b.exchange + half * handed(b.widest);
    Part mine = part;  // of this block's outputs, those that it adds up
    share(part.own, b.part, b.parts, mine.first, mine.own);
    mine.first += part.first;
    mine.inverse = (real)1 / (real)(mine.own ? mine.own : 1);
    const int first = first_items<CHAINS>(mine.own), all = all_items<DOWN, CHAINS>(mine.own);
    for (int item = worker(); item < all; item += workers()) {
        if (CHAINS & OLD && item < first) {
            int k = item % vectors(NARROW), position = item / vectors(NARROW);
            i64 at = (among(mine, position, part.all) + mine.first) * HANDED<NARROW> + k * TILE;
            finish_one<NARROW>(b, shares, at, target, nullptr);
        } else if (CHAINS & NEW) {
            int k = (item - first) % vectors(P), position = (item - first) / vectors(P);
            int output = among(mine, position, part.all) + mine.first;
            finish_one<P>(b, shares, after + output * HANDED<P> + k * TILE, target,
                          slots + output * SLOT + k * TILE);
        }
    }
}

// Fetch a share of some products that all blocks leave, several vectors at a time. Through registers:
// waiting for asynchronous copies would wait for the weights that are under way, too.
template <int P>
DEVICE void collect_set(real* to, const real* from, int all, int first, int own, u64 mark) {
    const int run = own * vectors(P), count = TILE * run;
    const real inverse = (real)1 / (real)(run ? run : 1);
    for (int begin = worker(); begin < count; begin += FETCHED * workers()) {
        Vector v[FETCHED];
        find(v, [&](int i) -> const real* {
            const int item = begin + i * workers();
            const int o = (int)(((real)item + (real)0.5) * inverse);
            const real* at = from + ((i64)o * all + first) * HANDED<P> + (item - o * run) * TILE;
            return item < count ? at : nullptr;
        }, mark);
        UNROLL for (int i = 0; i < FETCHED; i++) {
            const int item = begin + i * workers();
            const int k = item % vectors(P), position = item / vectors(P);
            if (item < count) store(to + position * pitch(P) + k * TILE, v[i]);
        }
    }
}

// This block's share of what all blocks leave, for the next visit; at the chain's end all of it.
template <bool DOWN, int CHAINS>
DEVICE void collect(const Block& b, const Part& part, bool whole) {
    int first, own;
    share(part.all, whole ? 0 : b.part, whole ? 1 : b.parts, first, own);
    const real* from = b.exchange + (i64)(b.visits & 1) * handed(b.widest);
    if (CHAINS & OLD) collect_set<NARROW>(b.V, from, part.all, first, own, mark(b));
    if (CHAINS & NEW) {
        collect_set<AFTER<DOWN>>(b.V + after_in(b.held), from + after_handed(b.widest), part.all,
                                 first, own, mark(b));
    }
}

// All blocks of the group have come here; each sees what all wrote before.
DEVICE void meet(Block& b) {
    b.due += b.parts * b.columns;
    arrive(b.meeting);
    if (thread() == 0) wait_until(b.meeting, b.due);
    sync_block();
}

// Begin anew: all places in which blocks hand over are zero again.
DEVICE void settle(Block& b) {
    meet(b);
    const i64 halves = (b.parts > 1 ? 2 + 2 * b.parts : 2) * handed(b.widest) / TILE;
    const Vector nothing = zeros();
    for (i64 i = b.member * threads() + thread(); i < halves; i += b.parts * b.columns * threads()) {
        store16(b.exchange + i * TILE, &nothing);
    }
    b.visits = 0;
    meet(b);
}

// Take what the next visit needs from where blocks leave it.
//
// A block's numbers of a visit take the place of those of two visits ago, which nobody still waits
// for: they depend on the last visit's of every block. But where a layer is too narrow to give
// every column outputs or every part terms, there are blocks of which nobody hears, or which hear
// of nobody; so all begin anew. So they do where the next layer has more outputs, in places that
// two visits ago were not used; and after a sweep, for other blocks have the weights on the way
// back.
template <bool DOWN, int CHAINS>
DEVICE void take_over(Block& b, const Part& part, const Part& next, real* slots, bool last) {
    if (b.parts > 1) finish<DOWN, CHAINS>(b, part, slots);
    if (CREWS == 1) sync_block();  // the products lie where the partial sums were
    collect<DOWN, CHAINS>(b, part, last);
    b.visits++;
    const bool narrow = part.all < b.columns || part.all < b.parts;
    if (last || narrow || part.all < next.all) settle(b);
}
