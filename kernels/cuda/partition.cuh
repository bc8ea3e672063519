// Partition a network's layers among the blocks of a group, and a block's part among its threads.

constexpr int NARROW = Q < D ? Q : D;
constexpr int WIDE = Q < D ? D : Q;
constexpr int SLOT = vectors(WIDE) * TILE;

// The two chains of products in a pass: of time t (or its co-states), and of t+1. A single warp
// group carries both; two warp groups carry one each.
enum { CURRENT = 1, NEXT = 2, BOTH = 3 };
DEVICE int group_threads() { return threads() / WARP_GROUPS; }
DEVICE int warp_group() { return WARP_GROUPS == 1 ? 0 : thread() >= group_threads(); }
DEVICE int group_thread() { return thread() - warp_group() * group_threads(); }
DEVICE void sync_warp_group() {
    if (WARP_GROUPS == 1) sync_block();
    if (WARP_GROUPS == 2) named_barrier_sync(1 + warp_group(), group_threads());
}

// A block's network, its position in the group, and its arrays in shared memory.
struct Block {
    real *weights, *velocity, *slots, *end_to_end;
    const i64* layers;
    const real *step_sizes, *weight_decays;
    // Finished products, and partial sums of every part of the terms: double-buffered.
    real *exchange, *partial_exchange;
    u32 *barrier, barrier_goal;  // the group's counter; its value when all blocks have arrived
    u32 updates;                 // layers updated since the exchange was last reset
    int depth, member, widest, nesterov;
    int stages;  // tiles in a thread's ring
    int parts, part;      // parts of the terms of every sum, and this block's part
    int columns, column;  // parts of the outputs, and this block's part
    real decay, momentum;
    real *products, *next_products, *partial, *next_partial, *known, *factors, *gradient, *ring;
    double* loss_parts;
};

// A thread's slice of one layer.
struct Slice {
    i64 offset;           // of the layer
    int shape;
    int inner;            // tiles of the sum's terms in this block
    int all, first, own;  // tiles of outputs: of all blocks, before this block's, of this block
    real inverse;         // 1 / own
    int splits;           // threads that share an output
    int tile, split;      // this thread's tile of outputs, and its part of the terms
    int count;            // tiles of weights that this thread reads
    int stride;
    i64 begin, step;
};

// Return the offset of output `o` of tile `tile` among `tiles`, ordered by o and then by tile.
template <int P>
DEVICE i64 output_offset(int o, int tile, int tiles) {
    return ((i64)o * tiles + tile) * pitch(P);
}

// Set `first` and `own` to the start and size of part `index` of `all` tiles in `count` parts.
DEVICE void partition(int all, int index, int count, int& first, int& own) {
    first = GROUPED ? all * index / count : 0;
    own = GROUPED ? all * (index + 1) / count - first : all;
}

template <bool DOWN>
DEVICE Slice slice_of(const Block& b, int layer) {
    const i64* row = b.layers + (i64)layer * LayerColumn::COUNT;
    int rows = vectors((int)row[LayerColumn::ROWS]);
    int columns = vectors((int)row[LayerColumn::COLUMNS]);
    Slice s;
    int begin;
    partition(DOWN ? rows : columns, b.part, b.parts, begin, s.inner);
    s.all = DOWN ? columns : rows;
    partition(s.all, b.column, b.columns, s.first, s.own);
    s.offset = row[LayerColumn::OFFSET];
    s.shape = (int)row[LayerColumn::SHAPE];
    s.inverse = (real)1 / (real)(s.own ? s.own : 1);
    s.splits = s.own ? group_threads() / s.own : 1;
    s.splits = s.splits < s.inner ? s.splits : s.inner;
    if (GROUPED && s.splits == 0) s.splits = 1;  // there may be more parts than tiles
    // In both directions of the pass, adjacent threads of a warp read adjacent columns.
    s.tile = DOWN ? (s.own ? group_thread() % s.own : 0) : group_thread() / s.splits;
    s.split = DOWN ? (s.own ? group_thread() / s.own : 0) : group_thread() % s.splits;
    bool busy = s.tile < s.own && s.split < s.splits;
    s.count = busy ? (s.inner - s.split + s.splits - 1) / s.splits : 0;
    s.stride = (int)row[LayerColumn::STRIDE];
    i64 across = TILE, along = TILE * (i64)s.stride;
    s.begin = s.offset + (s.first + s.tile) * (DOWN ? across : along) +
              (begin + s.split) * (DOWN ? along : across);
    s.step = s.splits * (DOWN ? along : across);
    return s;
}

// Return the slice of layer `to` from the slice of another layer: most layers have the same shape.
template <bool DOWN>
DEVICE Slice slice_after(const Block& b, const Slice& slice, int to) {
    static_assert(LayerColumn::OFFSET == 0 && LayerColumn::SHAPE == 1, "read as one vector");
    struct alignas(16) Head {
        i64 offset, shape;
    };
    const Head head = *(const Head*)(b.layers + (i64)to * LayerColumn::COUNT);
    if ((int)head.shape != slice.shape) return slice_of<DOWN>(b, to);
    Slice s = slice;
    s.begin += head.offset - s.offset;
    s.offset = head.offset;
    return s;
}

// Return the index of this block's output `position` among outputs in runs of `all` tiles. The
// reciprocal replaces a division by three instructions, and is exact here.
DEVICE int output_index(const Slice& slice, int position, int all) {
    if (!GROUPED) return position;
    const int run = (int)(((real)position + (real)0.5) * slice.inverse);
    return run * (all - slice.own) + position;
}
