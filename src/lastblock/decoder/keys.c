/* Products of bfloat16 states and float32 numbers through matrix tiles (AMX), to float32 rounding: keys of
 * frozen states, and the gradient of what these are multiplied with.
 *
 * Tiles multiply bfloat16 and sum up in float32. A float32 is the sum of three bfloat16 numbers, its first
 * eight bits, the next eight and the last: the states times each of them, all in one sum, are what the
 * states times the float32 are. That is three times the work, on what is some sixteen times as fast.
 */
#include "keys.h"
#include "tiles.h"

#ifdef CAN_BUILD

#ifdef CAN_BUILD_TILES

/* A tile's row is of so many bfloat16 numbers, and a tile of so many bytes. */
enum { DEEP = FULL, TILE = 1024 };
enum { PIECES = 3 };
/* Tokens whose part of a gradient is summed up before the next ones': they stay in cache. */
enum { TOKENS = 512 };

/* Sixteen rows of sixteen numbers of 32 bits: the first of each row, the second of each, and so on. */
INLINE void turn_square(__m512i *r)
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* The next eight bits of each number, as bfloat16; they are taken away from it. */
INLINE __m256i next_bits(__m512 *of)
{
    const __m512i first =
        _mm512_and_si512(_mm512_castps_si512(*of), _mm512_set1_epi32((int)0xffff0000));
    *of = _mm512_sub_ps(*of, _mm512_castsi512_ps(first));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(first, 16));
}

/* Sums of two tiles' rows and two tiles' columns over ``steps`` tiles, plus what is there already where
 * there is ``more``. A side's tiles stand one after the other: of its first rows (or columns) all pieces
 * of a step, then the next step's; of its other rows so far from these. */
static inline __attribute__((always_inline)) TILED void sum_square(
    const char *left, int64_t left_row, int64_t left_step, int64_t left_other,
    const int left_pieces, const char *right, int64_t right_step, int64_t right_other,
    const int right_pieces, int64_t steps, int more, float *sums)
{
    float *const at[] = {sums, sums + SIDE, sums + SIDE * SQUARE, sums + SIDE * SQUARE + SIDE};
    if (more) {
        _tile_loadd(0, at[0], 4 * SQUARE);
        _tile_loadd(1, at[1], 4 * SQUARE);
        _tile_loadd(2, at[2], 4 * SQUARE);
        _tile_loadd(3, at[3], 4 * SQUARE);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t i = 0; i < steps; i++, left += left_step, right += right_step) {
        for (int piece = 0; piece < left_pieces || piece < right_pieces; piece++) {
            if (piece < left_pieces) {
                _tile_loadd(4, left + piece * TILE, left_row);
                _tile_loadd(5, left + piece * TILE + left_other, left_row);
            }
            if (piece < right_pieces) {
                _tile_loadd(6, right + piece * TILE, 64);
                _tile_loadd(7, right + piece * TILE + right_other, 64);
            }
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, at[0], 4 * SQUARE);
    _tile_stored(1, at[1], 4 * SQUARE);
    _tile_stored(2, at[2], 4 * SQUARE);
    _tile_stored(3, at[3], 4 * SQUARE);
}

typedef struct {
    const States *states;
    const float *weight, *factor, *of_keys;
    int64_t out;
    float *y;
    atomic_int *failed;
} Keys;

/* Shares out the squares of keys, each with all that it takes. Whether there was memory for it. */
static int by_squares(Part part, Keys work, int64_t threads)
{
    atomic_int failed = 0;
    work.failed = &failed;
    const int64_t squares = up_to(work.out, SQUARE) / SQUARE;
    share(part, &work, squares < threads ? squares : threads, threads);
    return !atomic_load(&failed);
}

/* ------------------------------------------------------------------------------------------ keys */

/* Some rows of the weight, times their factors, in pieces: tiles of pairs of columns by SIDE rows. */
TARGET static void lay_weight(const Keys *k, int64_t row, int64_t end, char *to)
{
    const int64_t size = k->states->size;
    for (; row < end; row += SIDE) {
        for (int64_t c = 0; c < size; c += DEEP, to += PIECES * TILE) {
            __m512i square[PIECES][SIDE];
            for (int r = 0; r < SIDE; r++) {
                __m512 low = _mm512_setzero_ps(), high = low;
                if (row + r < k->out) {
                    const float *from = k->weight + (row + r) * size + c, *factor = k->factor + c;
                    const __mmask16 some = lanes(size - c), more = lanes(size - c - 16);
                    low = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, from),
                                        _mm512_maskz_loadu_ps(some, factor));
                    high = _mm512_mul_ps(_mm512_maskz_loadu_ps(more, from + 16),
                                         _mm512_maskz_loadu_ps(more, factor + 16));
                }
                for (int piece = 0; piece < PIECES; piece++)
                    square[piece][r] = _mm512_inserti64x4(
                        _mm512_castsi256_si512(next_bits(&low)), next_bits(&high), 1);
            }
            for (int piece = 0; piece < PIECES; piece++) {
                turn_square(square[piece]);
                for (int r = 0; r < SIDE; r++)
                    _mm512_store_si512(to + piece * TILE + r * 64, square[piece][r]);
            }
        }
    }
}

/* Some columns of the keys. */
TILED static void some_keys(const void *work, int64_t part, int64_t parts)
{
    const Keys *k = work;
    const int64_t n = k->states->n, wide = up_to(k->states->size, DEEP), steps = wide / DEEP;
    const int64_t squares = up_to(k->out, SQUARE) / SQUARE;
    const int64_t first = squares * part / parts, end = squares * (part + 1) / parts;
    const int64_t other = steps * PIECES * TILE;
    char *weight = aligned_alloc(64, (end - first) * 2 * other + 64);
    if (!weight) {
        atomic_store(k->failed, 1);
        return;
    }
    lay_weight(k, first * SQUARE, end * SQUARE, weight);
    float sums[SQUARE * SQUARE] __attribute__((aligned(64)));
    begin_tiles();
    for (int64_t row = 0; row < n; row += SQUARE) {
        const char *states = (const char *)(k->states->x + row * wide);
        for (int64_t square = first; square < end; square++) {
            sum_square(states, 2 * wide, 2 * DEEP, 2 * SIDE * wide, 1,
                       weight + (square - first) * 2 * other, PIECES * TILE, other, PIECES, steps, 0,
                       sums);
            const int64_t left = k->out - square * SQUARE;
            float *to = k->y + row * k->out + square * SQUARE;
            for (int64_t r = 0; r < SQUARE && row + r < n; r++, to += k->out) {
                const __m512 by = _mm512_set1_ps(k->states->by[row + r]);
                const float *sum = sums + r * SQUARE;
                _mm512_mask_storeu_ps(to, lanes(left), _mm512_mul_ps(_mm512_load_ps(sum), by));
                _mm512_mask_storeu_ps(to + SIDE, lanes(left - SIDE),
                                      _mm512_mul_ps(_mm512_load_ps(sum + SIDE), by));
            }
        }
    }
    _tile_release();
    free(weight);
}

int keys_of(const States *states, const float *weight, const float *factor, int64_t out, float *keys,
            int64_t threads)
{
    return by_squares(some_keys, (Keys){states, weight, factor, NULL, out, keys, NULL}, threads);
}

/* ------------------------------------------------------------------------------ their weight's gradient */

/* What is wanted of some columns of the keys, of some tokens, times what their states are, in pieces:
 * tiles of SIDE columns by DEEP tokens. */
TARGET static void lay_wanted(const Keys *k, int64_t column, int64_t end, int64_t token, int64_t last,
                              char *to)
{
    for (; column < end; column += SIDE) {
        const __mmask16 some = lanes(k->out - column);
        for (int64_t t = token; t < last; t += SIDE) {
            const int64_t half = (t - token) % DEEP != 0;
            __m512i square[SIDE];
            for (int r = 0; r < SIDE; r++) {
                square[r] = _mm512_setzero_si512();
                if (t + r < k->states->n) {
                    const __m512 by = _mm512_set1_ps(k->states->by[t + r]);
                    const float *from = k->of_keys + (t + r) * k->out + column;
                    square[r] = _mm512_castps_si512(
                        _mm512_mul_ps(_mm512_maskz_loadu_ps(some, from), by));
                }
            }
            turn_square(square);
            for (int r = 0; r < SIDE; r++) {
                __m512 v = _mm512_castsi512_ps(square[r]);
                for (int piece = 0; piece < PIECES; piece++)
                    _mm256_store_si256((__m256i *)(to + piece * TILE + r * 64 + half * 32),
                                       next_bits(&v));
            }
            if (half)
                to += PIECES * TILE;
        }
    }
}

/* The states of some tokens: tiles of pairs of tokens by SIDE columns, two tiles' columns side by side. */
TARGET static void lay_states(const Keys *k, int64_t token, int64_t last, char *to)
{
    const int64_t wide = up_to(k->states->size, DEEP), steps = (last - token) / DEEP;
    __m512i low, high;
    uint16_t each[2][32];
    for (int i = 0; i < 32; i++) {
        each[0][i] = (uint16_t)(i / 2 + i % 2 * 32);
        each[1][i] = (uint16_t)(i / 2 + i % 2 * 32 + 16);
    }
    low = _mm512_loadu_si512(each[0]);
    high = _mm512_loadu_si512(each[1]);
    for (int64_t t = token; t < last; t += 2) {
        const int64_t step = (t - token) / DEEP, pair = (t - token) % DEEP / 2;
        const uint16_t *x = k->states->x + t * wide;
        for (int64_t c = 0; c < wide; c += SQUARE) {
            const __m512i a = _mm512_loadu_si512(x + c), b = _mm512_loadu_si512(x + wide + c);
            char *at = to + (c / SQUARE * steps + step) * 2 * TILE + pair * 64;
            _mm512_store_si512(at, _mm512_permutex2var_epi16(a, low, b));
            _mm512_store_si512(at + TILE, _mm512_permutex2var_epi16(a, high, b));
        }
    }
}

/* Some rows of the gradient. */
TILED static void some_back(const void *work, int64_t part, int64_t parts)
{
    const Keys *k = work;
    const int64_t n = k->states->n, size = k->states->size, wide = up_to(size, DEEP);
    const int64_t squares = up_to(k->out, SQUARE) / SQUARE, across = up_to(size, SQUARE) / SQUARE;
    const int64_t first = squares * part / parts, end = squares * (part + 1) / parts;
    const int64_t here = end - first, most = n < TOKENS ? up_to(n | 1, DEEP) : TOKENS;
    const int64_t of_wanted = here * SQUARE * most * 2 * PIECES, of_states = most * wide * 2;
    char *wanted = aligned_alloc(
        64, of_wanted + of_states + here * across * SQUARE * SQUARE * sizeof(float) + 64);
    if (!wanted) {
        atomic_store(k->failed, 1);
        return;
    }
    char *states = wanted + of_wanted;
    float *sums = (float *)(states + of_states);
    begin_tiles();
    for (int64_t token = 0; token < n || token == 0; token += most) {
        const int64_t last = up_to(n - token < most ? n : token + most, DEEP);
        const int64_t steps = (last - token) / DEEP, other = steps * PIECES * TILE;
        lay_wanted(k, first * SQUARE, end * SQUARE, token, last, wanted);
        lay_states(k, token, last, states);
        for (int64_t c = 0; c < across; c++)
            for (int64_t square = 0; square < here; square++)
                sum_square(wanted + square * 2 * other, 64, PIECES * TILE, other, PIECES,
                           states + c * steps * 2 * TILE, 2 * TILE, TILE, 1, steps, token > 0,
                           sums + (c * here + square) * SQUARE * SQUARE);
    }
    _tile_release();
    for (int64_t row = first * SQUARE; row < end * SQUARE && row < k->out; row++) {
        for (int64_t c = 0; c < size; c += SIDE) {
            const int64_t square = c / SQUARE * here + row / SQUARE - first;
            const float *from = sums + square * SQUARE * SQUARE + row % SQUARE * SQUARE + c % SQUARE;
            _mm512_mask_storeu_ps(k->y + row * size + c, lanes(size - c), _mm512_load_ps(from));
        }
    }
    free(wanted);
}

int keys_back(const States *states, const float *of_keys, int64_t out, float *of_weight,
              int64_t threads)
{
    return by_squares(some_back, (Keys){states, NULL, NULL, of_keys, out, of_weight, NULL}, threads);
}

#else

int keys_of(const States *states, const float *weight, const float *factor, int64_t out, float *keys,
            int64_t threads)
{
    (void)states, (void)weight, (void)factor, (void)out, (void)keys, (void)threads;
    return 0;
}

int keys_back(const States *states, const float *of_keys, int64_t out, float *of_weight,
              int64_t threads)
{
    (void)states, (void)of_keys, (void)out, (void)of_weight, (void)threads;
    return 0;
}

#endif

#endif
