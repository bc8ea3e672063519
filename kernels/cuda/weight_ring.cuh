// Weight ring: each thread reads its tiles of the weights through its own ring in shared memory,
// which asynchronous copies fill ahead, across layers. Two warp groups share the rings, which then
// also hold all tiles of two layers.

template <bool DOWN>
struct WeightRing {
    Slice slice;
    int layer, done, stage;

    DEVICE void start(const Block& b) {
        layer = DOWN ? b.depth - 1 : 0;
        slice = slice_of<DOWN>(b, layer);
        done = 0;
        stage = 0;
    }

    // Request the next tile. After the last tile, commit an empty group of copies, so that the
    // number of groups in flight remains known.
    DEVICE void prefetch(const Block& b) {
        while (done == slice.count && layer != (DOWN ? 0 : b.depth - 1)) {
            // A thread that is idle in this layer is idle in every layer of its shape: skip ahead.
            layer = slice.count ? layer + (DOWN ? -1 : 1)
                                : (int)b.layers[(i64)layer * LayerColumn::COUNT +
                                                (DOWN ? LayerColumn::UNLIKE_BELOW
                                                      : LayerColumn::UNLIKE_ABOVE)];
            slice = slice_after<DOWN>(b, slice, layer);
            done = 0;
        }
        if (done < slice.count) {
            i64 from = slice.begin + done * slice.step;
            real* to = stage_of(b, stage);
            UNROLL for (int j = 0; j < TILE; j++) {
                i64 w = from + (i64)j * slice.stride;
                copy16(to + (i64)j * group_threads() * TILE, b.weights + w);
                if (VELOCITY) {
                    copy16(to + (i64)(TILE + j) * group_threads() * TILE, b.velocity + w);
                }
            }
            done++;
        }
        commit_copies();
        stage = after(b, stage);
    }

    static DEVICE int after(const Block& b, int stage) {
        return stage + 1 == b.stages ? 0 : stage + 1;
    }
    static DEVICE real* stage_of(const Block& b, int stage) {
        const i64 first = (i64)stage * (1 + VELOCITY) * TILE * group_threads();
        return b.ring + (first + group_thread()) * TILE;
    }
};
