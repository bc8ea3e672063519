// The networks of one launch: their tables, and what a block and a thread know of their own.

constexpr int NARROW = Q < D ? Q : D;
constexpr int WIDE = Q < D ? D : Q;
constexpr int SLOT = vectors(WIDE) * TILE;
constexpr int AT_A_TIME = 8;  // samples of a minibatch

// The two chains of a sweep: products of time t (or its co-states), and those of t+1. A crew of
// threads carries both, or each has its own.
enum { OLD = 1, NEW = 2, BOTH = 3 };
DEVICE int workers() { return threads() / CREWS; }
DEVICE int crew() { return CREWS == 1 ? 0 : thread() >= workers(); }
DEVICE int worker() { return thread() - crew() * workers(); }
DEVICE void sync_crew() {
    if (CREWS == 1) sync_block();
    if (CREWS == 2) sync_at(1 + crew(), workers());
}

constexpr int PARTS = 32;  // the loss is summed in this many parts, whatever the block's size

enum { LAYERS, DEPTH, LOSSES, GOAL, PROBLEM, STATE, BATCHES, FIRST_BATCH, NETWORK_FIELDS };
enum { CONSTANT, TOLERANCE, DECAY, MOMENTUM, FIRST_LOSS, NUMBER_FIELDS };
enum {
    OFFSET, SHAPE, ROWS, COLUMNS, STRIDE, SLOT_BELOW, SLOT_ABOVE, UNLIKE_BELOW, UNLIKE_ABOVE,
    PADDING, LAYER_FIELDS
};

struct Pointers {
    real *weights, *velocity, *slots, *ends;
    const double *scale, *target, *samples;
};

// What a block knows of its network, and its parts of shared memory.
struct Block {
    Pointers at;
    const i64* layers;
    const real *rates, *pulls;
    real *exchange, *shares;  // finished products, and what is to be added up: two halves each
    u32 *meeting, due;        // a counter of the group's blocks, and where it stands once all came
    u32 visits;
    int depth, member, widest, held, nesterov;
    int stages;  // tiles of a thread in the ring
    int parts, part, columns, column;  // shares of a sum's terms and of outputs, and this block's
    real decay, momentum;
    real *V, *partial, *partial_after, *X, *U, *G, *ring;
    double* sums;
};

// A thread's part in the visit of one layer.
struct Part {
    i64 offset, shape;    // of the layer
    int inner;            // tiles of the sum's terms: of this block
    int all, first, own;  // tiles of outputs: of all blocks, before this block's, of this block
    real inverse;         // of `own`
    int splits;           // threads that share an output
    int tile, split;      // this thread's outputs and share
    int count;            // tiles it goes through
    i64 stride, begin, step;
};

// Numbers in room for what is carried across so many tiles: first the products of t, or its
// co-states, then the products of t+1.
DEVICE i64 room(int tiles) { return (i64)tiles * TILE * (pitch(NARROW) + pitch(WIDE)); }
DEVICE i64 after_in(int tiles) { return (i64)tiles * TILE * pitch(NARROW); }

// Where output number o of tile `tile` lies among `tiles` of them: first all o = 0, then all o = 1.
template <int P>
DEVICE i64 place(int o, int tile, int tiles) {
    return ((i64)o * tiles + tile) * pitch(P);
}

// Share number `index` of `count` of some tiles.
DEVICE void share(int all, int index, int count, int& first, int& own) {
    first = GROUPED ? all * index / count : 0;
    own = GROUPED ? all * (index + 1) / count - first : all;
}

template <bool DOWN>
DEVICE Part part_of(const Block& b, int layer) {
    const i64* row = b.layers + (i64)layer * LAYER_FIELDS;
    int rows = vectors((int)row[ROWS]), columns = vectors((int)row[COLUMNS]);
    Part p;
    int begin;
    share(DOWN ? rows : columns, b.part, b.parts, begin, p.inner);
    p.all = DOWN ? columns : rows;
    share(p.all, b.column, b.columns, p.first, p.own);
    p.offset = row[OFFSET];
    p.shape = row[SHAPE];
    p.inverse = (real)1 / (real)(p.own ? p.own : 1);
    p.splits = p.own ? workers() / p.own : 1;
    p.splits = p.splits < p.inner ? p.splits : p.inner;
    if (GROUPED && p.splits == 0) p.splits = 1;  // there may be more parts than tiles
    // Neighbours in a warp read neighbouring columns, whichever way the sweep goes.
    p.tile = DOWN ? (p.own ? worker() % p.own : 0) : worker() / p.splits;
    p.split = DOWN ? (p.own ? worker() / p.own : 0) : worker() % p.splits;
    bool busy = p.tile < p.own && p.split < p.splits;
    p.count = busy ? (p.inner - p.split + p.splits - 1) / p.splits : 0;
    p.stride = row[STRIDE];
    i64 across = TILE, along = TILE * p.stride;
    p.begin = p.offset + (p.first + p.tile) * (DOWN ? across : along) +
              (begin + p.split) * (DOWN ? along : across);
    p.step = p.splits * (DOWN ? along : across);
    return p;
}

// The part in a layer of a thread whose part in another layer is known: most are alike.
template <bool DOWN>
DEVICE Part part_after(const Block& b, const Part& part, int to) {
    struct alignas(16) Head {
        i64 offset, shape;
    };
    const Head head = *(const Head*)(b.layers + (i64)to * LAYER_FIELDS);
    if (head.shape != part.shape) return part_of<DOWN>(b, to);
    Part p = part;
    p.begin += head.offset - p.offset;
    p.offset = head.offset;
    return p;
}

// Where number `position` of this block's outputs lies among outputs that have `apart` tiles from
// one run to the next. The reciprocal makes a division of three instructions, and is exact here.
DEVICE int among(const Part& part, int position, int apart) {
    if (!GROUPED) return position;
    const int run = (int)(((real)position + (real)0.5) * part.inverse);
    return run * (apart - part.own) + position;
}
