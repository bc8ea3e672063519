// Update a layer: multiply by its weights, take their step, multiply by the new weights.
//
// The gradient is B(t)^T C(t), an inner product of NARROW elements per weight. In a pass towards
// the NARROW end of the chain, the current chain holds products, and the other factor is formed
// from G and the products that the last pass stored. In a pass towards the WIDE end, it holds
// co-states, and the other factor is the stored product. So neither factor needs WIDE elements.

template <bool DOWN>
constexpr bool TO_NARROW = DOWN == (Q <= D);
// Elements of one output of the next chain.
template <bool DOWN>
constexpr int NEXT_LENGTH = DOWN ? Q : D;

// One thread's sums in one layer, and the factors of the gradient for its outputs.
template <bool DOWN>
struct Sums {
    real current[TILE][NARROW], next[TILE][NEXT_LENGTH<DOWN>], factor[TILE][NARROW];
};

// Constants of a layer's step. Without velocity, factors include the step size.
struct LayerStep {
    real decay, size, weight_decay;
};

// Update a tile of weights w and velocities v. `current` and `next` point to the products for the
// tile's terms.
template <bool DOWN, int CHAINS>
DEVICE void update_tile(const Block& b, Sums<DOWN>& s, Vector (&w)[TILE], Vector (&v)[TILE],
                        const real* current, const real* next, int inner, const LayerStep& step) {
    constexpr int P = NEXT_LENGTH<DOWN>;
    UNROLL for (int n = 0; n < TILE; n++) {
        real moved[TILE];
        UNROLL for (int o = 0; o < TILE; o++) moved[o] = DOWN ? w[n].x[o] : w[o].x[n];
        if (CHAINS & CURRENT) {
            const real* row = current + output_offset<NARROW>(n, 0, inner);
            real old[TILE];
            UNROLL for (int o = 0; o < TILE; o++) {
                old[o] = moved[o];
                moved[o] = VELOCITY ? step.weight_decay * old[o] : step.decay * old[o];
            }
            UNROLL for (int k = 0; k < vectors(NARROW); k++) {
                Vector t = load(row + k * TILE);
                UNROLL for (int i = 0; i < TILE; i++) {
                    int p = k * TILE + i;
                    if (p < NARROW) {
                        UNROLL for (int o = 0; o < TILE; o++) {
                            s.current[o][p] += t.x[i] * old[o];
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
                    moved[o] =
                        old[o] - step.size * (b.nesterov ? gradient + b.momentum * speed : speed);
                }
            }
        }
        if (CHAINS & NEXT) {
            const real* row = next + output_offset<P>(n, 0, inner);
            UNROLL for (int k = 0; k < vectors(P); k++) {
                Vector t = load(row + k * TILE);
                UNROLL for (int i = 0; i < TILE; i++) {
                    int p = k * TILE + i;
                    if (p < P) {
                        UNROLL for (int o = 0; o < TILE; o++) s.next[o][p] += t.x[i] * moved[o];
                    }
                }
            }
        }
        UNROLL for (int o = 0; o < TILE; o++) (DOWN ? w[n].x[o] : w[o].x[n]) = moved[o];
    }
}

// Update all of a thread's tiles of a layer; the current chain's warp group writes them to memory.
template <bool DOWN, int CHAINS>
DEVICE void update_tiles(Block& b, WeightRing<DOWN>& ring, int& stage, const Slice& slice,
                         Sums<DOWN>& s, int layer, bool moving) {
    // Without `moving`, factors are 0 and the weights do not change.
    LayerStep step{moving ? b.decay : (real)1, b.step_sizes[layer],
                   VELOCITY ? b.weight_decays[layer] : (real)0};
    if (!moving) step.size = step.weight_decay = 0;
    ROLLED for (int i = 0; i < slice.count; i++) {
        if (CHAINS & CURRENT) wait_copies<STAGES - 2>();
        real* from = WeightRing<DOWN>::stage_of(b, stage);
        stage = WeightRing<DOWN>::after(b, stage);
        Vector w[TILE], v[TILE];
        UNROLL for (int j = 0; j < TILE; j++) {
            w[j] = load(from + (i64)j * group_threads() * TILE);
            if (VELOCITY && CHAINS & CURRENT) {
                v[j] = load(from + (i64)(TILE + j) * group_threads() * TILE);
            }
        }
        if (CHAINS & CURRENT) ring.prefetch(b);  // of a full ring, into the stage before this one
        const int term = slice.split + i * slice.splits;
        update_tile<DOWN, CHAINS>(b, s, w, v, b.products + term * pitch(NARROW),
                                  b.next_products + term * pitch(NEXT_LENGTH<DOWN>), slice.inner,
                                  step);
        if (!moving || CHAINS == NEXT) continue;
        i64 to = slice.begin + i * slice.step;
        UNROLL for (int j = 0; j < TILE; j++) {
            store(b.weights + to + (i64)j * slice.stride, w[j]);
            if (VELOCITY) store(b.velocity + to + (i64)j * slice.stride, v[j]);
            if (WARP_GROUPS == 2) store(from + (i64)j * group_threads() * TILE, w[j]);
        }
    }
}

// Return the address of the products that the last pass stored for this block's outputs of a layer.
// A single block prefetches them one layer ahead; the blocks of a group load them while they wait
// for each other.
template <bool DOWN>
DEVICE const real* known_products(const Block& b, int layer, const Slice& slice) {
    const i64* row = b.layers + (i64)layer * LayerColumn::COUNT;
    return b.slots + row[DOWN ? LayerColumn::SLOT_BELOW : LayerColumn::SLOT_ABOVE] +
           (i64)slice.first * SLOT;
}

template <bool DOWN>
DEVICE void prefetch_known(const Block& b, int layer, const Slice& slice) {
    const real* from = known_products<DOWN>(b, layer, slice);
    for (int i = group_thread(); i < slice.own * TILE * (SLOT / TILE); i += group_threads()) {
        copy16(b.known + i * TILE, from + (i64)i * TILE);
    }
}

// Form the factors of the gradient for each output: the known products, or their product with G.
template <bool DOWN>
DEVICE void form_factors(const Block& b, int layer, const Slice& slice) {
    const real scale = VELOCITY ? (real)1 : -b.step_sizes[layer];
    const real* from = GROUPED ? known_products<DOWN>(b, layer, slice) : b.known;
    const int items = slice.own * TILE * vectors(NARROW);
    for (int item = group_thread(); item < items; item += group_threads()) {
        const int k = item % vectors(NARROW), position = item / vectors(NARROW);
        const real* x = from + (i64)output_index(slice, position, slice.all) * SLOT;
        Vector sum = zeros();
        if (TO_NARROW<DOWN>) {
            Vector whole[vectors(WIDE)];
            UNROLL for (int v = 0; v < vectors(WIDE); v++) {
                if (GROUPED) load16(&whole[v], x + v * TILE);
                if (!GROUPED) whole[v] = load(x + v * TILE);
            }
            UNROLL for (int s = 0; s < WIDE; s++) {
                Vector g = load(b.gradient + s * pitch(NARROW) + k * TILE);
                UNROLL for (int j = 0; j < TILE; j++) {
                    sum.x[j] += whole[s / TILE].x[s % TILE] * g.x[j];
                }
            }
        } else {
            if (GROUPED) load16(&sum, x + k * TILE);
            if (!GROUPED) sum = load(x + k * TILE);
        }
        UNROLL for (int j = 0; j < TILE; j++) sum.x[j] *= scale;
        store(b.factors + position * pitch(NARROW) + k * TILE, sum);
    }
}

// Set all sums to zero, and load the factors if this warp group updates the weights.
template <bool DOWN, int CHAINS>
DEVICE void begin_sums(const Block& b, const Slice& slice, Sums<DOWN>& s, bool moving) {
    UNROLL for (int o = 0; o < TILE; o++) {
        UNROLL for (int p = 0; p < NEXT_LENGTH<DOWN>; p++) s.next[o][p] = 0;
        if (CHAINS == NEXT) continue;
        const real* from = b.factors + output_offset<NARROW>(o, slice.tile, slice.own);
        UNROLL for (int k = 0; k < vectors(NARROW); k++) {
            Vector u = moving && slice.count ? load(from + k * TILE) : zeros();
            UNROLL for (int i = 0; i < TILE; i++) {
                int p = k * TILE + i;
                if (p < NARROW) {
                    s.factor[o][p] = u.x[i];
                    s.current[o][p] = 0;
                }
            }
        }
    }
}
