// Vectors of 16 bytes, the unit of all loads and stores, and square tiles of vectors.

constexpr int TILE = 16 / (int)sizeof(real);

struct alignas(16) Vector {
    real x[TILE];
};

DEVICE constexpr int vectors(int n) { return (n + TILE - 1) / TILE; }

// Return the stride of rows of n elements in shared memory, an odd number of vectors: eight lanes
// that read one vector each from consecutive rows then use every bank once.
DEVICE constexpr int pitch(int n) { return (vectors(n) | 1) * TILE; }

DEVICE Vector load(const real* from) { return *(const Vector*)from; }
DEVICE void store(real* to, const Vector& value) { *(Vector*)to = value; }
DEVICE Vector zeros() {
    Vector v;
    UNROLL for (int i = 0; i < TILE; i++) v.x[i] = 0;
    return v;
}
