// Gradient descent by zigzag sweeps: every layer crosses memory once per step.
//
// With prefix products A_l = W_l ··· W_1, suffix products B_l = W_L ··· W_{l+1} and G = dl/dM, the
// gradient of layer l is B_l^T G A_{l-1}^T. A sweep down the chain knows all A(t) and carries
// B(t) and B(t+1): it visits a layer once, to multiply by it, move it and multiply by what it has
// become. It leaves all B(t+1) and ends at M(t+1); the next sweep goes up, with the roles of A
// and B, of rows and columns, of G and its transpose exchanged. So one body does both.
//
// A block (or a group of blocks) has one network. In a visit a thread owns TILE outputs, columns
// of the layer on the way down and rows on the way up, and goes through every `splits`-th tile of
// the sum's terms with all products of its own outputs in registers; partial sums meet in shared
// memory. Its tiles arrive through a ring of its own, STAGES deep, that runs ahead across layers.
//
// A group of `parts` times `columns` blocks shares a layer in both directions: a block has one
// part of the outputs and one of the sum's terms. With one part, blocks hand each other whole
// products, and each reads all of them for the next visit. With more, the blocks of the same
// outputs first add up their shares, and each then reads only its part of what comes out: a
// meeting more, but wide products neither cross the second-level cache for every block nor need
// fit its shared memory.
//
// Compiled for: REAL, Q rows and D columns of M, STAGES, VELOCITY (0, 1: momentum), GROUPED (0:
// one block a network).

constexpr int SLOT = vectors(Q > D ? Q : D) * TILE;
constexpr int WIDEST_PITCH = pitch(Q) > pitch(D) ? pitch(Q) : pitch(D);
constexpr int APART = 32;  // counters that blocks wait at do not share a line of the cache
constexpr int PARTS = 32;  // the loss is summed in this many parts, whatever the block's size

enum { LAYERS, DEPTH, LOSSES, GOAL, PROBLEM, STATE, NETWORK_FIELDS };
enum { CONSTANT, TOLERANCE, DECAY, MOMENTUM, NUMBER_FIELDS };
enum { OFFSET, ROWS, COLUMNS, STRIDE, SLOT_BELOW, SLOT_ABOVE, UNLIKE_BELOW, UNLIKE_ABOVE, LAYER_FIELDS };

struct Pointers {
    const i64* networks;
    const double* numbers;
    const i64* layers;
    real *weights, *velocity;
    const real *rates, *pulls;
    real *slots, *ends;
    const real* gradients;
    const double *scale, *target;
    double* losses;
    i64* steps;
    real* exchange;
    u32* meetings;
};

// What a block knows of its network, and its parts of shared memory.
struct Block {
    Pointers at;
    const i64* layers;
    const real *rates, *pulls;
    real *exchange, *shares;      // finished products, in two halves; and what is to be added up
    u32 *meeting, *near;          // of the group, and of the blocks with the same outputs
    u32 met, met_near;
    int parity;  // the half of `exchange` that comes next, across sweeps: depths may be odd
    int depth, member, group, widest, held, nesterov;
    int parts, part, columns, column;  // shares of a sum's terms and of outputs, and this block's
    real decay, momentum;
    real *V, *partial, *X, *U, *G, *G_turned, *ring;
    double* sums;
};

// A thread's part in the visit of one layer.
struct Part {
    int inner;            // tiles of the sum's terms: of this block
    int all, first, own;  // tiles of outputs: of all blocks, before this block's, of this block
    int splits;           // threads that share an output
    int tile, split;      // this thread's outputs and share
    int count;            // tiles it goes through
    i64 stride, begin, step;
};

// Share number `index` of `count` of some tiles.
DEVICE void share(int all, int index, int count, int& first, int& own) {
    first = GROUPED ? all * index / count : 0;
    own = GROUPED ? all * (index + 1) / count - first : all;
}

// Numbers from the products with the weights before a step to those after: in shared memory,
// where this block's share lies, and in the exchange.
DEVICE i64 held_set(const Block& b) { return (i64)b.held * TILE * WIDEST_PITCH; }
DEVICE i64 whole_set(const Block& b) { return (i64)b.widest * TILE * WIDEST_PITCH; }

template <bool DOWN>
DEVICE Part part_of(const Block& b, int layer) {
    const i64* row = b.layers + (i64)layer * LAYER_FIELDS;
    int rows = vectors((int)row[ROWS]), columns = vectors((int)row[COLUMNS]);
    Part p;
    int begin;
    share(DOWN ? rows : columns, b.part, b.parts, begin, p.inner);
    p.all = DOWN ? columns : rows;
    share(p.all, b.column, b.columns, p.first, p.own);
    p.splits = p.own ? threads() / p.own : 1;
    p.splits = p.splits < p.inner ? p.splits : p.inner;
    if (GROUPED && p.splits == 0) p.splits = 1;  // there may be more parts than tiles
    // Neighbours in a warp read neighbouring columns, whichever way the sweep goes.
    p.tile = DOWN ? (p.own ? thread() % p.own : 0) : thread() / p.splits;
    p.split = DOWN ? (p.own ? thread() / p.own : 0) : thread() % p.splits;
    bool busy = p.tile < p.own && p.split < p.splits;
    p.count = busy ? (p.inner - p.split + p.splits - 1) / p.splits : 0;
    p.stride = row[STRIDE];
    i64 across = TILE, along = TILE * p.stride;
    p.begin = row[OFFSET] + (p.first + p.tile) * (DOWN ? across : along) +
              (begin + p.split) * (DOWN ? along : across);
    p.step = p.splits * (DOWN ? along : across);
    return p;
}

// The part in a layer of a thread whose part in another layer is known: most are alike.
template <bool DOWN>
DEVICE Part part_after(const Block& b, const Part& part, int from, int to) {
    const i64 *old = b.layers + (i64)from * LAYER_FIELDS, *row = b.layers + (i64)to * LAYER_FIELDS;
    if (old[ROWS] != row[ROWS] || old[COLUMNS] != row[COLUMNS]) return part_of<DOWN>(b, to);
    Part p = part;
    p.begin += row[OFFSET] - old[OFFSET];
    return p;
}

// The tiles a thread will need, in order, through all layers of a sweep.
template <bool DOWN>
struct Stream {
    Part part;
    int layer, done, slot;

    DEVICE void start(const Block& b) {
        layer = DOWN ? b.depth - 1 : 0;
        part = part_of<DOWN>(b, layer);
        done = 0;
        slot = 0;
    }

    // Ask for the next tile; an empty group once there are no more keeps the count of groups.
    DEVICE void fetch(const Block& b) {
        while (done == part.count && layer != (DOWN ? 0 : b.depth - 1)) {
            int from = layer;
            // Who has nothing to do in a layer has nothing to do in those like it.
            layer = part.count ? layer + (DOWN ? -1 : 1)
                               : (int)b.layers[(i64)layer * LAYER_FIELDS +
                                               (DOWN ? UNLIKE_BELOW : UNLIKE_ABOVE)];
            part = part_after<DOWN>(b, part, from, layer);
            done = 0;
        }
        if (done < part.count) {
            i64 from = part.begin + done * part.step;
            real* to = ring_slot(b, slot);
            UNROLL for (int j = 0; j < TILE; j++) {
                i64 w = from + j * part.stride;
                copy16(to + (i64)j * threads() * TILE, b.at.weights + w);
                if (VELOCITY) {
                    copy16(to + (i64)(TILE + j) * threads() * TILE, b.at.velocity + w);
                }
            }
            done++;
        }
        commit_copies();
        slot = slot + 1 == STAGES ? 0 : slot + 1;
    }

    static DEVICE real* ring_slot(const Block& b, int slot) {
        return b.ring + ((i64)slot * (1 + VELOCITY) * TILE * threads() + thread()) * TILE;
    }
};

// Sums of one thread in one visit, and the factor by which its outputs' weights move.
template <int P>
struct Sums {
    real before[TILE][P], after[TILE][P], factor[TILE][P];
};

// Multiply by a tile, move it, and multiply by what it has become.
template <bool DOWN, int P>
DEVICE void use_tile(const Block& b, Sums<P>& s, Vector (&w)[TILE], Vector (&v)[TILE],
                     const real* before, const real* after, int inner_step, real decay, real rate,
                     real pull) {
    UNROLL for (int n = 0; n < TILE; n++) {
        const real* row = before + (i64)n * inner_step;
        real old[TILE], moved[TILE];
        UNROLL for (int o = 0; o < TILE; o++) {
            old[o] = DOWN ? w[n].x[o] : w[o].x[n];
            moved[o] = VELOCITY ? pull * old[o] : decay * old[o];
        }
        UNROLL for (int k = 0; k < vectors(P); k++) {
            Vector t = load(row + k * TILE);
            UNROLL for (int i = 0; i < TILE; i++) {
                int p = k * TILE + i;
                if (p < P) {
                    UNROLL for (int o = 0; o < TILE; o++) {
                        s.before[o][p] += t.x[i] * old[o];
                        moved[o] += t.x[i] * s.factor[o][p];
                    }
                }
            }
        }
        if (VELOCITY) {
            UNROLL for (int o = 0; o < TILE; o++) {
                real& speed = DOWN ? v[n].x[o] : v[o].x[n];
                real gradient = moved[o];
                speed = b.momentum * speed + gradient;
                moved[o] = old[o] - rate * (b.nesterov ? gradient + b.momentum * speed : speed);
            }
        }
        row = after + (i64)n * inner_step;
        UNROLL for (int k = 0; k < vectors(P); k++) {
            Vector t = load(row + k * TILE);
            UNROLL for (int i = 0; i < TILE; i++) {
                int p = k * TILE + i;
                if (p < P) {
                    UNROLL for (int o = 0; o < TILE; o++) s.after[o][p] += t.x[i] * moved[o];
                }
            }
        }
        UNROLL for (int o = 0; o < TILE; o++) (DOWN ? w[n].x[o] : w[o].x[n]) = moved[o];
    }
}

template <bool DOWN, int P>
DEVICE void go_through(Block& b, Stream<DOWN>& stream, int& slot, const Part& part, Sums<P>& s,
                       real rate, real pull, bool moving) {
    const int inner_step = part.inner * pitch(P);
    const i64 set = held_set(b);
    const real decay = moving ? b.decay : (real)1;
    if (!moving) rate = pull = 0;  // and factors are 0: a tile leaves as it came
    ROLLED for (int i = 0; i < part.count; i++) {
        wait_copies<STAGES - 2>();
        real* from = Stream<DOWN>::ring_slot(b, slot);
        slot = slot + 1 == STAGES ? 0 : slot + 1;
        Vector w[TILE], v[TILE];
        UNROLL for (int j = 0; j < TILE; j++) {
            w[j] = load(from + (i64)j * threads() * TILE);
            if (VELOCITY) v[j] = load(from + (i64)(TILE + j) * threads() * TILE);
        }
        stream.fetch(b);  // into the slot before this one
        const real* before = b.V + (i64)(part.split + i * part.splits) * pitch(P);
        use_tile<DOWN, P>(b, s, w, v, before, before + set, inner_step, decay, rate, pull);
        if (!moving) continue;
        i64 to = part.begin + i * part.step;
        UNROLL for (int j = 0; j < TILE; j++) {
            store(b.at.weights + to + j * part.stride, w[j]);
            if (VELOCITY) store(b.at.velocity + to + j * part.stride, v[j]);
        }
    }
}

// Where output number o of tile `tile` lies among `tiles` of them: first all o = 0, then all o = 1.
template <int P>
DEVICE i64 place(int o, int tile, int tiles) {
    return ((i64)o * tiles + tile) * pitch(P);
}

template <int P>
DEVICE void leave_partial_sums(const Block& b, const Part& part, const Sums<P>& s) {
    i64 apart = (i64)part.own * TILE * pitch(P) + TILE;
    real* before = b.partial + part.split * apart;
    real* after = before + part.splits * apart;
    UNROLL for (int o = 0; o < TILE; o++) {
        i64 at = place<P>(o, part.tile, part.own);
        UNROLL for (int k = 0; k < vectors(P); k++) {
            Vector x = zeros(), y = zeros();
            UNROLL for (int i = 0; i < TILE; i++) {
                if (k * TILE + i < P) {
                    x.x[i] = s.before[o][k * TILE + i];
                    y.x[i] = s.after[o][k * TILE + i];
                }
            }
            store(before + at + k * TILE, x);
            store(after + at + k * TILE, y);
        }
    }
}

// Add up the threads' shares of every output of this block, in order: into the products that the
// next visit carries or, where other blocks have other terms of the sum, into this block's share.
template <int P>
DEVICE void gather(const Block& b, const Part& part, i64 slots) {
    const i64 set = GROUPED ? whole_set(b) : held_set(b);
    const bool finished = !GROUPED || b.parts == 1;
    i64 apart = (i64)part.own * TILE * pitch(P) + TILE;
    int outputs = part.own * TILE, items = 2 * outputs * vectors(P);
    real* target = !GROUPED ? b.V
                   : finished ? b.exchange + b.parity * 2 * set
                              : b.shares + b.part * 2 * set;
    for (int item = thread(); item < items; item += threads()) {
        int k = item % vectors(P), at = item / vectors(P);
        int which = at >= outputs, position = at - which * outputs;
        const real* from = b.partial + which * part.splits * apart + position * pitch(P) + k * TILE;
        Vector sum = part.inner ? load(from) : zeros();
        for (int i = 1; i < part.splits; i++) {
            Vector next = load(from + i * apart);
            UNROLL for (int j = 0; j < TILE; j++) sum.x[j] += next.x[j];
        }
        int all = GROUPED ? position / part.own * part.all + part.first + position % part.own
                          : position;
        store(target + which * set + all * pitch(P) + k * TILE, sum);
        if (which && finished) store(b.at.slots + slots + all * SLOT + k * TILE, sum);
    }
}

// Add up the blocks' shares of some outputs, in order; the blocks that left them do some each.
template <int P>
DEVICE void finish(const Block& b, const Part& part, i64 slots) {
    const i64 set = whole_set(b);
    int first, own;
    share(part.own, b.part, b.parts, first, own);
    int outputs = own * TILE, items = 2 * outputs * vectors(P);
    real* target = b.exchange + b.parity * 2 * set;
    for (int item = thread(); item < items; item += threads()) {
        int k = item % vectors(P), at = item / vectors(P);
        int which = at >= outputs, position = at - which * outputs;
        int all = position / own * part.all + part.first + first + position % own;
        i64 to = which * set + all * pitch(P) + k * TILE;
        Vector sum = zeros();
        for (int i = 0; i < b.parts; i++) {
            Vector next;
            load16(&next, b.shares + i * 2 * set + to);
            UNROLL for (int j = 0; j < TILE; j++) sum.x[j] += next.x[j];
        }
        store(target + to, sum);
        if (which) store(b.at.slots + slots + all * SLOT + k * TILE, sum);
    }
}

// This block's share of what all blocks left, for the next visit; at the chain's end all of it.
template <int P>
DEVICE void collect(const Block& b, const Part& part, bool whole) {
    const i64 set = whole_set(b);
    int first, own;
    share(part.all, whole ? 0 : b.part, whole ? 1 : b.parts, first, own);
    int run = own * (pitch(P) / TILE), count = TILE * run;
    const real* from = b.exchange + b.parity * 2 * set + (i64)first * pitch(P);
    for (int item = thread(); item < 2 * count; item += threads()) {
        int which = item >= count, at = item - which * count;
        i64 o = at / run, i = at % run;
        copy16(b.V + which * held_set(b) + (i64)at * TILE,
               from + which * set + o * part.all * pitch(P) + i * TILE);
    }
    commit_copies();
    wait_copies<0>();
}

// Blocks of a group hand over what they have.
template <int P>
DEVICE void exchange(Block& b, const Part& part, i64 slots, bool whole) {
    if (b.parts > 1) {
        b.met_near += b.parts;
        meet(b.near, b.met_near);
        finish<P>(b, part, slots);
    }
    b.met += b.group;
    meet(b.meeting, b.met);
    collect<P>(b, part, whole);
    b.parity ^= 1;
}

// Ask for the products of the other side that belong to this block's outputs of a layer.
template <bool DOWN>
DEVICE void fetch_met(const Block& b, int layer, const Part& part) {
    const i64* row = b.layers + (i64)layer * LAYER_FIELDS;
    const real* from = b.at.slots + row[DOWN ? SLOT_BELOW : SLOT_ABOVE] + (i64)part.first * SLOT;
    const int run = part.own * (SLOT / TILE);
    for (int i = thread(); i < TILE * run; i += threads()) {
        i64 at = GROUPED ? (i64)(i / run) * part.all * SLOT + i % run * TILE : (i64)i * TILE;
        copy16(b.X + i * TILE, from + at);
    }
}

// U = factor · X G: what an output's weights move by, for each number carried.
template <bool DOWN, int P, int S>
DEVICE void form_factors(const Block& b, int layer, const Part& part) {
    real factor = VELOCITY ? (real)1 : -b.rates[layer];
    const real* G = DOWN ? b.G_turned : b.G;
    for (int item = thread(); item < part.own * TILE * vectors(P); item += threads()) {
        int k = item % vectors(P), position = item / vectors(P);
        const real* x = b.X + position * SLOT;
        Vector sum = zeros();
        UNROLL for (int s = 0; s < S; s++) {
            Vector g = load(G + s * pitch(P) + k * TILE);
            UNROLL for (int j = 0; j < TILE; j++) sum.x[j] += x[s] * g.x[j];
        }
        UNROLL for (int j = 0; j < TILE; j++) sum.x[j] *= factor;
        store(b.U + position * pitch(P) + k * TILE, sum);
    }
}

// The chain's end carries the identity, and the slot there holds it for the sweep back.
template <bool DOWN, int P>
DEVICE void start_at_identity(const Block& b) {
    const int tiles = vectors(P);
    const i64* row = b.layers + (i64)(DOWN ? b.depth - 1 : 0) * LAYER_FIELDS;
    i64 slots = row[DOWN ? SLOT_ABOVE : SLOT_BELOW];
    int first, own;
    share(tiles, b.part, b.parts, first, own);
    for (int item = thread(); item < tiles * TILE * tiles; item += threads()) {
        int k = item % tiles, n = item / tiles;
        Vector v = zeros();
        UNROLL for (int i = 0; i < TILE; i++) v.x[i] = n < P && n == k * TILE + i ? 1 : 0;
        int tile = n / TILE - first;
        if (0 <= tile && tile < own) {
            i64 at = place<P>(n % TILE, tile, own) + k * TILE;
            store(b.V + at, v);
            store(b.V + held_set(b) + at, v);
        }
        if (b.member == 0) {
            store(b.at.slots + slots + (n % TILE * tiles + n / TILE) * SLOT + k * TILE, v);
        }
    }
}

template <bool DOWN, int P>
DEVICE void take_factors(const Block& b, const Part& part, Sums<P>& s, bool moving) {
    UNROLL for (int o = 0; o < TILE; o++) {
        const real* from = b.U + place<P>(o, part.tile, part.own);
        UNROLL for (int k = 0; k < vectors(P); k++) {
            Vector u = moving && part.count ? load(from + k * TILE) : zeros();
            UNROLL for (int i = 0; i < TILE; i++) {
                int p = k * TILE + i;
                if (p < P) {
                    s.factor[o][p] = u.x[i];
                    s.before[o][p] = 0;
                    s.after[o][p] = 0;
                }
            }
        }
    }
}

// Visit every layer once. Without `moving` the weights stay, and only products are formed.
template <bool DOWN>
DEVICE void sweep(Block& b, bool moving) {
    constexpr int P = DOWN ? Q : D, S = DOWN ? D : Q;
    const int begin = DOWN ? b.depth - 1 : 0, end = DOWN ? -1 : b.depth, way = DOWN ? -1 : 1;
    start_at_identity<DOWN, P>(b);
    Part part = part_of<DOWN>(b, begin);
    if (moving) {
        fetch_met<DOWN>(b, begin, part);
        commit_copies();
        wait_copies<0>();
        sync_block();
        form_factors<DOWN, P, S>(b, begin, part);
    }
    Stream<DOWN> stream;
    stream.start(b);
    for (int i = 0; i < STAGES - 1; i++) stream.fetch(b);
    int slot = 0;
    sync_block();
    for (int layer = begin; layer != end; layer += way) {
        const bool more = moving && layer + way != end;
        const i64* row = b.layers + (i64)layer * LAYER_FIELDS;
        Part next = part;
        Sums<P> s;
        take_factors<DOWN, P>(b, part, s, moving);
        if (layer + way != end) next = part_after<DOWN>(b, part, layer, layer + way);
        if (more) fetch_met<DOWN>(b, layer + way, next);
        commit_copies();
        go_through<DOWN, P>(b, stream, slot, part, s, b.rates[layer],
                            VELOCITY ? b.pulls[layer] : (real)0, moving);
        // As many groups after that of `fetch_met` as are left pending: it has arrived.
        for (int i = part.count; i < STAGES - 1; i++) commit_copies();
        wait_copies<STAGES - 1>();
        if (GROUPED) sync_block();  // partial sums lie where the products are
        if (part.count) leave_partial_sums<P>(b, part, s);
        sync_block();
        const i64 slots = row[DOWN ? SLOT_BELOW : SLOT_ABOVE];
        gather<P>(b, part, slots);
        if (more) form_factors<DOWN, P, S>(b, layer + way, next);
        if (GROUPED) exchange<P>(b, part, slots, layer + way == end);
        part = next;
        sync_block();
    }
    wait_copies<0>();
}

// M as the last sweep left it, in the order of rows.
DEVICE real end_to_end(const Block& b, bool down, int a, int k) {
    int n = down ? k : a, p = down ? a : k, tiles = vectors(down ? D : Q);
    return b.V[held_set(b) + ((i64)(n % TILE) * tiles + n / TILE) * (down ? pitch(Q) : pitch(D)) + p];
}

DEVICE void put_gradient(const Block& b, int a, int k, real g) {
    b.G[a * pitch(D) + k] = g;
    b.G_turned[k * pitch(Q) + a] = g;
}

// Return the loss at M and leave G; M comes from the state that earlier launches left.
DEVICE double evaluate(const Block& b, i64 state, i64 problem, double constant) {
    const real* M = b.at.ends + state * Q * D;
    const double *scale = b.at.scale + problem * Q * D, *target = b.at.target + problem * Q * D;
    for (int part = thread(); part < PARTS; part += threads()) {
        double total = 0;
        for (int i = part; i < Q * D; i += PARTS) {
            double r = exact_add(exact_mul((double)M[i], scale[i]), -target[i]);
            total = exact_add(total, exact_mul(r, r));
            put_gradient(b, i / D, i % D, (real)exact_mul(r, scale[i]));
        }
        b.sums[part] = total;
    }
    sync_block();
    double total = 0;
    for (int part = 0; part < PARTS; part++) total = exact_add(total, b.sums[part]);
    return exact_add(constant, exact_mul(0.5, total));
}

// Every block of a group writes the same values to its own M: `ends` has one for each.
DEVICE void keep_end(const Block& b, i64 state, bool down) {
    for (int i = thread(); i < Q * D; i += threads()) {
        b.at.ends[state * Q * D + i] = end_to_end(b, down, i / D, i % D);
    }
}

DEVICE void carve(Block& b, int own) {
    real* at = (real*)shared_memory();
    i64 set = held_set(b);
    i64 partial = 2 * (i64)threads() * TILE * (WIDEST_PITCH + 1);
    b.V = at;
    b.partial = GROUPED ? at : at + 2 * set;
    at += GROUPED ? (2 * set > partial ? 2 * set : partial) : 2 * set + partial;
    b.X = at;
    at += (i64)own * TILE * SLOT;
    b.U = at;
    at += (i64)own * TILE * WIDEST_PITCH;
    b.G = at;
    at += Q * pitch(D);
    b.G_turned = at;
    at += D * pitch(Q);
    b.ring = at;
    at += (i64)STAGES * (1 + VELOCITY) * TILE * threads() * TILE;
    b.sums = (double*)at;
}

// Advance every network of the table to its goal, or until it converges, diverges or has used
// `budget` nanoseconds, but by a step at least. With `external` gradients there is no loss, and
// the goal is the next step.
//
// Row i of `networks` is done by blocks i·group and on; `ends` has Q·D numbers for each block.
// In shared memory a block has room for `held` tiles of products and `own` tiles of outputs.
KERNEL void sweep_networks(const i64* networks, const double* numbers, const i64* layers,
                           real* weights, real* velocity, const real* rates, const real* pulls,
                           real* slots, real* ends, const real* gradients, const double* scale,
                           const double* target, double* losses, i64* steps, real* exchange,
                           u32* meetings, int group, int parts, int widest, int held, int own,
                           int nesterov, int external, i64 budget) {
    const int index = block() / group, member = block() % group;
    const i64* network = networks + (i64)index * NETWORK_FIELDS;
    const double* number = numbers + (i64)index * NUMBER_FIELDS;
    Block b;
    b.at = Pointers{networks, numbers, layers, weights, velocity, rates, pulls, slots,
                    ends, gradients, scale, target, losses, steps, exchange, meetings};
    b.layers = layers + network[LAYERS] * LAYER_FIELDS;
    b.rates = rates + network[LAYERS];
    b.pulls = pulls + network[LAYERS];
    b.depth = (int)network[DEPTH];
    b.member = member;
    b.group = group;
    b.parts = parts;
    b.columns = group / parts;
    b.part = member / b.columns;
    b.column = member % b.columns;
    b.widest = widest;
    b.held = held;
    b.nesterov = nesterov;
    b.decay = (real)number[DECAY];
    b.momentum = (real)number[MOMENTUM];
    b.exchange = exchange + index * (parts > 1 ? 4 + 2 * parts : 4) * whole_set(b);
    b.shares = b.exchange + 4 * whole_set(b);
    b.meeting = meetings + (i64)index * (1 + group) * APART;
    b.near = b.meeting + (1 + b.column) * APART;
    b.met = 0;
    b.met_near = 0;
    b.parity = 0;
    carve(b, own);
    const i64 state = network[STATE] * group + member, goal = network[GOAL];
    double* recorded = losses + network[LOSSES];
    const u64 begun = nanoseconds();
    i64 step = steps[state];
    if (step < 0) {
        sweep<false>(b, false);
        keep_end(b, state, false);
        step = 0;
        sync_block();
    } else if (step >= goal) {
        return;
    }
    const i64 first = step;
    double floor = 0;
    bool known = false;
    while (true) {
        if (external) {
            for (int i = thread(); i < Q * D; i += threads()) {
                put_gradient(b, i / D, i % D, gradients[network[STATE] * Q * D + i]);
            }
            if (step >= goal) break;
        } else {
            double loss = evaluate(b, state, network[PROBLEM], number[CONSTANT]);
            if (member == 0 && thread() == 0) recorded[step] = loss;
            if (!known) floor = number[TOLERANCE] * (step == 0 ? loss : recorded[0]);
            known = true;
            // One thread reads the clock for all: they must agree, and so must a group's blocks.
            if (thread() == 0) b.sums[PARTS] = (double)(nanoseconds() - begun);
            sync_block();
            bool late = group == 1 && step > first && b.sums[PARTS] >= (double)budget;
            if (step >= goal || !is_finite(loss) || !(loss > floor) || late) break;
        }
        bool down = step % 2 == 0;
        if (down) {
            sweep<true>(b, true);
        } else {
            sweep<false>(b, true);
        }
        keep_end(b, state, down);
        step++;
        sync_block();
    }
    if (thread() == 0) steps[state] = step;
}
EXPORT(sweep_networks)
