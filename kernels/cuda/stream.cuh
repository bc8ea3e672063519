// A thread's tiles of the weights, on their way through a ring of its own in shared memory that runs
// ahead across layers. Where two crews share them, it holds those of two layers besides.

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
            // Who has nothing to do in a layer has nothing to do in those like it.
            layer = part.count ? layer + (DOWN ? -1 : 1)
                               : (int)b.layers[(i64)layer * LAYER_FIELDS +
                                               (DOWN ? UNLIKE_BELOW : UNLIKE_ABOVE)];
            part = part_after<DOWN>(b, part, layer);
            done = 0;
        }
        if (done < part.count) {
            i64 from = part.begin + done * part.step;
            real* to = ring_slot(b, slot);
            UNROLL for (int j = 0; j < TILE; j++) {
                i64 w = from + j * part.stride;
                copy16(to + (i64)j * workers() * TILE, b.at.weights + w);
                if (VELOCITY) {
                    copy16(to + (i64)(TILE + j) * workers() * TILE, b.at.velocity + w);
                }
            }
            done++;
        }
        commit_copies();
        slot = after(b, slot);
    }

    static DEVICE int after(const Block& b, int slot) { return slot + 1 == b.stages ? 0 : slot + 1; }
    static DEVICE real* ring_slot(const Block& b, int slot) {
        return b.ring + ((i64)slot * (1 + VELOCITY) * TILE * workers() + worker()) * TILE;
    }
};
