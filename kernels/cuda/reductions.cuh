// Reduce partial sums, over the threads of a block and then over the blocks of a group, in a fixed
// order; transfer finished products to the blocks that read them for the next layer.

constexpr int LOADED_AT_ONCE = 4;  // vectors that a thread polls together

// Return the stride, in elements, between threads' partial sums of all outputs; the additional
// vector avoids bank conflicts.
template <int P>
DEVICE i64 partial_stride(const Slice& slice) {
    return (i64)slice.own * TILE * pitch(P) + TILE;
}

template <int P>
DEVICE void store_sums(real* to, const Slice& slice, const real (&sums)[TILE][P]) {
    UNROLL for (int o = 0; o < TILE; o++) {
        i64 at = output_offset<P>(o, slice.tile, slice.own);
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
DEVICE void store_partial_sums(const Block& b, const Slice& slice, const Sums<DOWN>& s) {
    if (CHAINS & CURRENT) {
        real* to = b.partial + slice.split * partial_stride<NARROW>(slice);
        store_sums<NARROW>(to, slice, s.current);
    }
    if (CHAINS & NEXT) {
        constexpr int P = NEXT_LENGTH<DOWN>;
        store_sums<P>(b.next_partial + slice.split * partial_stride<P>(slice), slice, s.next);
    }
}

// Add up the threads' partial sums of one vector of an output.
template <int P>
DEVICE void reduce_threads_vector(const Slice& slice, const real* partial, int item, real* target,
                                  real* slots, u64 phase) {
    int k = item % vectors(P), position = item / vectors(P);
    const real* from = partial + position * pitch(P) + k * TILE;
    Vector sum = slice.inner ? load(from) : zeros();
    for (int i = 1; i < slice.splits; i++) {
        Vector next = load(from + i * partial_stride<P>(slice));
        UNROLL for (int j = 0; j < TILE; j++) sum.x[j] += next.x[j];
    }
    const int output = output_index(slice, position, slice.all) + (GROUPED ? slice.first : 0);
    if (GROUPED) store_flagged(target + output * EXCHANGED<P> + k * TILE, sum, phase);
    if (!GROUPED) store(target + output * pitch(P) + k * TILE, sum);
    if (slots) store16(slots + output * SLOT + k * TILE, &sum);
}

// Return the number of vectors of sums for `own` tiles of outputs, of the current chain and of all
// chains; the current chain's vectors come first.
template <int CHAINS>
DEVICE int current_items(int own) {
    return CHAINS & CURRENT ? own * TILE * vectors(NARROW) : 0;
}
template <bool DOWN, int CHAINS>
DEVICE int all_items(int own) {
    return current_items<CHAINS>(own) +
           (CHAINS & NEXT ? own * TILE * vectors(NEXT_LENGTH<DOWN>) : 0);
}

// Add up the threads' partial sums of every output of this block: into the products by which the
// next layer is multiplied or, if other blocks have other terms of the sum, into this block's
// partial sum.
template <bool DOWN, int CHAINS>
DEVICE void reduce_threads(const Block& b, const Slice& slice, real* slots) {
    constexpr int P = NEXT_LENGTH<DOWN>;
    const bool finished = !GROUPED || b.parts == 1;
    const i64 half = b.updates & 1;
    real* target = !GROUPED ? b.products
                   : finished ? b.exchange + half * exchange_size(b.widest)
                              : b.partial_exchange +
                                    (half * b.parts + b.part) * exchange_size(b.widest);
    real* next = GROUPED ? target + next_exchanged(b.widest) : b.next_products;
    const int first = current_items<CHAINS>(slice.own), all = all_items<DOWN, CHAINS>(slice.own);
    for (int item = group_thread(); item < all; item += group_threads()) {
        if (CHAINS & CURRENT && item < first) {
            reduce_threads_vector<NARROW>(slice, b.partial, item, target, nullptr, phase_bit(b));
        } else if (CHAINS & NEXT) {
            reduce_threads_vector<P>(slice, b.next_partial, item - first, next,
                                     finished ? slots : nullptr, phase_bit(b));
        }
    }
}

// Add up the blocks' partial sums of one vector of an output. Poll PARTS_AT_ONCE of them together:
// the latency of each is as long as the whole update of a small layer.
template <int P>
DEVICE void reduce_blocks_vector(const Block& b, const real* partial, i64 at, real* target,
                                 real* slot) {
    Vector sum = zeros(), next[PARTS_AT_ONCE];
    for (int first = 0; first < b.parts; first += PARTS_AT_ONCE) {
        const real* from = partial + first * exchange_size(b.widest) + at;
        poll(next, [&](int i) {
            return first + i < b.parts ? from + i * exchange_size(b.widest) : nullptr;
        }, phase_bit(b));
        UNROLL for (int i = 0; i < PARTS_AT_ONCE; i++) {
            UNROLL for (int j = 0; j < TILE; j++) sum.x[j] += next[i].x[j];
        }
    }
    store_flagged(target + at, sum, phase_bit(b));
    if (slot) store16(slot, &sum);
}

// Add up the blocks' partial sums; the blocks that share outputs divide these among them.
template <bool DOWN, int CHAINS>
DEVICE void reduce_blocks(const Block& b, const Slice& slice, real* slots) {
    constexpr int P = NEXT_LENGTH<DOWN>;
    const i64 half = b.updates & 1, next = next_exchanged(b.widest);
    const real* partial = b.partial_exchange + half * b.parts * exchange_size(b.widest);
    real* target = b.exchange + half * exchange_size(b.widest);
    Slice mine = slice;  // the part of its outputs that this block adds up
    partition(slice.own, b.part, b.parts, mine.first, mine.own);
    mine.first += slice.first;
    mine.inverse = (real)1 / (real)(mine.own ? mine.own : 1);
    const int first = current_items<CHAINS>(mine.own), all = all_items<DOWN, CHAINS>(mine.own);
    for (int item = group_thread(); item < all; item += group_threads()) {
        if (CHAINS & CURRENT && item < first) {
            int k = item % vectors(NARROW), position = item / vectors(NARROW);
            int output = output_index(mine, position, slice.all) + mine.first;
            reduce_blocks_vector<NARROW>(b, partial, (i64)(output * EXCHANGED<NARROW> + k * TILE),
                                         target, nullptr);
        } else if (CHAINS & NEXT) {
            int k = (item - first) % vectors(P), position = (item - first) / vectors(P);
            int output = output_index(mine, position, slice.all) + mine.first;
            reduce_blocks_vector<P>(b, partial, next + output * EXCHANGED<P> + k * TILE, target,
                                    slots + output * SLOT + k * TILE);
        }
    }
}

// Load tiles `first` to `first + own` of products that all blocks store, several vectors at a time,
// through registers: waiting for asynchronous copies would also wait for the weights in flight.
template <int P>
DEVICE void load_chain(real* to, const real* from, int all, int first, int own, u64 phase) {
    const int run = own * vectors(P), count = TILE * run;
    const real inverse = (real)1 / (real)(run ? run : 1);
    for (int begin = group_thread(); begin < count; begin += LOADED_AT_ONCE * group_threads()) {
        Vector v[LOADED_AT_ONCE];
        poll(v, [&](int i) -> const real* {
            const int item = begin + i * group_threads();
            const int o = (int)(((real)item + (real)0.5) * inverse);
            const real* at = from + ((i64)o * all + first) * EXCHANGED<P> + (item - o * run) * TILE;
            return item < count ? at : nullptr;
        }, phase);
        UNROLL for (int i = 0; i < LOADED_AT_ONCE; i++) {
            const int item = begin + i * group_threads();
            const int k = item % vectors(P), position = item / vectors(P);
            if (item < count) store(to + position * pitch(P) + k * TILE, v[i]);
        }
    }
}

// Load this block's part of the products for the next layer, or all products if `whole`.
template <bool DOWN, int CHAINS>
DEVICE void load_products(const Block& b, const Slice& slice, bool whole) {
    int first, own;
    partition(slice.all, whole ? 0 : b.part, whole ? 1 : b.parts, first, own);
    const real* from = b.exchange + (i64)(b.updates & 1) * exchange_size(b.widest);
    if (CHAINS & CURRENT) {
        load_chain<NARROW>(b.products, from, slice.all, first, own, phase_bit(b));
    }
    if (CHAINS & NEXT) {
        load_chain<NEXT_LENGTH<DOWN>>(b.next_products, from + next_exchanged(b.widest), slice.all,
                                      first, own, phase_bit(b));
    }
}

// Barrier of all blocks of the group, after which every block sees the others' earlier writes.
DEVICE void sync_group(Block& b) {
    b.barrier_goal += b.parts * b.columns;
    barrier_arrive(b.barrier);
    if (thread() == 0) barrier_wait(b.barrier, b.barrier_goal);
    sync_block();
}

// Set the whole exchange to zero, as at the start.
DEVICE void reset_exchange(Block& b) {
    sync_group(b);
    const i64 vectors_used =
        (b.parts > 1 ? 2 + 2 * b.parts : 2) * exchange_size(b.widest) / TILE;
    const i64 step = b.parts * b.columns * threads();
    const Vector nothing = zeros();
    for (i64 i = b.member * threads() + thread(); i < vectors_used; i += step) {
        store16(b.exchange + i * TILE, &nothing);
    }
    b.updates = 0;
    sync_group(b);
}

// Exchange the products that the next layer is multiplied by.
//
// A block's elements of a layer overwrite its elements of two layers before, which no block still
// polls, because every block's elements of the previous layer depend on them. If a layer is too
// narrow to give outputs to every column of blocks, or terms to every part, this dependence is
// incomplete: some blocks read no elements, or their elements are read by no block. Then reset the
// exchange. Also reset it if the next layer has more outputs, whose addresses were not used two
// layers before, and after a pass, because the weights are partitioned differently in the next.
template <bool DOWN, int CHAINS>
DEVICE void exchange_products(Block& b, const Slice& slice, const Slice& next, real* slots,
                              bool last) {
    if (b.parts > 1) reduce_blocks<DOWN, CHAINS>(b, slice, slots);
    if (WARP_GROUPS == 1) sync_block();  // the products overwrite the partial sums
    load_products<DOWN, CHAINS>(b, slice, last);
    b.updates++;
    const bool narrow = slice.all < b.columns || slice.all < b.parts;
    if (last || narrow || slice.all < next.all) reset_exchange(b);
}
