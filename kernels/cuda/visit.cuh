// The visit of a layer: multiply by it, move it, multiply by what it has become.
//
// Weights move by B(t)^T C(t), of NARROW numbers each. Towards the end of the chain that is NARROW
// numbers wide, what is carried of time t is the products with the weights themselves, and the
// other factor is formed from G and what the last sweep left. Towards the WIDE end it is the
// co-states, and the other factor is what the last sweep left: so neither needs WIDE numbers.

template <bool DOWN>
constexpr bool TO_NARROW = DOWN == (Q <= D);
template <bool DOWN>
constexpr int AFTER = DOWN ? Q : D;

// Sums of one thread in one visit, and the factor by which its outputs' weights move.
template <bool DOWN>
struct Sums {
    real before[TILE][NARROW], after[TILE][AFTER<DOWN>], factor[TILE][NARROW];
};

// Use a tile of weights w and velocities v: the products of its terms lie at `before` and `after`.
template <bool DOWN, int CHAINS>
DEVICE void use_tile(const Block& b, Sums<DOWN>& s, Vector (&w)[TILE], Vector (&v)[TILE],
                     const real* before, const real* after, int inner, real decay, real rate,
                     real pull) {
    constexpr int P = AFTER<DOWN>;
    UNROLL for (int n = 0; n < TILE; n++) {
        real moved[TILE];
        UNROLL for (int o = 0; o < TILE; o++) moved[o] = DOWN ? w[n].x[o] : w[o].x[n];
        if (CHAINS & OLD) {
            const real* row = before + place<NARROW>(n, 0, inner);
            real old[TILE];
            UNROLL for (int o = 0; o < TILE; o++) {
                old[o] = moved[o];
                moved[o] = VELOCITY ? pull * old[o] : decay * old[o];
            }
            UNROLL for (int k = 0; k < vectors(NARROW); k++) {
                Vector t = load(row + k * TILE);
                UNROLL for (int i = 0; i < TILE; i++) {
                    int p = k * TILE + i;
                    if (p < NARROW) {
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
        }
        if (CHAINS & NEW) {
            const real* row = after + place<P>(n, 0, inner);
            UNROLL for (int k = 0; k < vectors(P); k++) {
                Vector t = load(row + k * TILE);
                UNROLL for (int i = 0; i < TILE; i++) {
                    int p = k * TILE + i;
                    if (p < P) {
                        UNROLL for (int o = 0; o < TILE; o++) s.after[o][p] += t.x[i] * moved[o];
                    }
                }
            }
        }
        UNROLL for (int o = 0; o < TILE; o++) (DOWN ? w[n].x[o] : w[o].x[n]) = moved[o];
    }
}

// Use all of a thread's tiles of a layer. Who carries the chain of t moves them and writes them back.
template <bool DOWN, int CHAINS>
DEVICE void go_through(Block& b, Stream<DOWN>& stream, int& slot, const Part& part,
                       Sums<DOWN>& s, real rate, real pull, bool moving) {
    const real decay = moving ? b.decay : (real)1;
    if (!moving) rate = pull = 0;  // and factors are 0: a tile leaves as it came
    ROLLED for (int i = 0; i < part.count; i++) {
        if (CHAINS & OLD) wait_copies<STAGES - 2>();
        real* from = Stream<DOWN>::ring_slot(b, slot);
        slot = Stream<DOWN>::after(b, slot);
        Vector w[TILE], v[TILE];
        UNROLL for (int j = 0; j < TILE; j++) {
            w[j] = load(from + (i64)j * workers() * TILE);
            if (VELOCITY && CHAINS & OLD) v[j] = load(from + (i64)(TILE + j) * workers() * TILE);
        }
        if (CHAINS & OLD) stream.fetch(b);  // into the slot before this one, if the ring is full
        const int term = part.split + i * part.splits;
        use_tile<DOWN, CHAINS>(b, s, w, v, b.V + term * pitch(NARROW),
                               b.V + after_in(b.held) + term * pitch(AFTER<DOWN>), part.inner,
                               decay, rate, pull);
        if (!moving || CHAINS == NEW) continue;
        i64 to = part.begin + i * part.step;
        UNROLL for (int j = 0; j < TILE; j++) {
            store(b.at.weights + to + j * part.stride, w[j]);
            if (VELOCITY) store(b.at.velocity + to + j * part.stride, v[j]);
            if (CREWS == 2) store(from + (i64)j * workers() * TILE, w[j]);
        }
    }
}

// What the last sweep left at this block's outputs of a layer. A single block asks for it a visit
// ahead; the blocks of a group fetch it while they wait for each other.
template <bool DOWN>
DEVICE const real* met(const Block& b, int layer, const Part& part) {
    const i64* row = b.layers + (i64)layer * LAYER_FIELDS;
    return b.at.slots + row[DOWN ? SLOT_BELOW : SLOT_ABOVE] + (i64)part.first * SLOT;
}

template <bool DOWN>
DEVICE void ask_for_met(const Block& b, int layer, const Part& part) {
    const real* from = met<DOWN>(b, layer, part);
    for (int i = worker(); i < part.own * TILE * (SLOT / TILE); i += workers()) {
        copy16(b.X + i * TILE, from + (i64)i * TILE);
    }
}

// What an output's weights move by, for each number carried: of X, or of its product with G.
template <bool DOWN>
DEVICE void form_factors(const Block& b, int layer, const Part& part) {
    const real factor = VELOCITY ? (real)1 : -b.rates[layer];
    const real* from = GROUPED ? met<DOWN>(b, layer, part) : b.X;
    for (int item = worker(); item < part.own * TILE * vectors(NARROW); item += workers()) {
        const int k = item % vectors(NARROW), position = item / vectors(NARROW);
        const real* x = from + (i64)among(part, position, part.all) * SLOT;
        Vector sum = zeros();
        if (TO_NARROW<DOWN>) {
            Vector whole[vectors(WIDE)];
            UNROLL for (int v = 0; v < vectors(WIDE); v++) {
                if (GROUPED) load16(&whole[v], x + v * TILE);
                if (!GROUPED) whole[v] = load(x + v * TILE);
            }
            UNROLL for (int s = 0; s < WIDE; s++) {
                Vector g = load(b.G + s * pitch(NARROW) + k * TILE);
                UNROLL for (int j = 0; j < TILE; j++) {
                    sum.x[j] += whole[s / TILE].x[s % TILE] * g.x[j];
                }
            }
        } else {
            if (GROUPED) load16(&sum, x + k * TILE);
            if (!GROUPED) sum = load(x + k * TILE);
        }
        UNROLL for (int j = 0; j < TILE; j++) sum.x[j] *= factor;
        store(b.U + position * pitch(NARROW) + k * TILE, sum);
    }
}

// Sums begin at zero; factors are needed by who moves weights.
template <bool DOWN, int CHAINS>
DEVICE void begin_sums(const Block& b, const Part& part, Sums<DOWN>& s, bool moving) {
    UNROLL for (int o = 0; o < TILE; o++) {
        UNROLL for (int p = 0; p < AFTER<DOWN>; p++) s.after[o][p] = 0;
        if (CHAINS == NEW) continue;
        const real* from = b.U + place<NARROW>(o, part.tile, part.own);
        UNROLL for (int k = 0; k < vectors(NARROW); k++) {
            Vector u = moving && part.count ? load(from + k * TILE) : zeros();
            UNROLL for (int i = 0; i < TILE; i++) {
                int p = k * TILE + i;
                if (p < NARROW) {
                    s.factor[o][p] = u.x[i];
                    s.before[o][p] = 0;
                }
            }
        }
    }
}
