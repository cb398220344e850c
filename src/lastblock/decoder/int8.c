/* Products of 8-bit integers, in which a frozen block spends most of its time, and what makes integers of
 * weights and inputs.
 *
 * ``kernels.py`` calls these through ctypes and says what each is given; what they compute is what
 * ``precision.Int8Linear`` computes with torch, to float32 rounding. Where a processor has matrix tiles
 * (AMX), products go through these, to the bit as without.
 */
#define _GNU_SOURCE /* for syscall */
#include "int8.h"
#include "tiles.h"

#ifdef CAN_BUILD

/* A product's tile is so many rows of so many columns: 24 sums, which stay in registers. */
enum { ROWS = 6, COLUMNS = 64 };
/* What stands for zero among the unsigned integers. */
enum { ZERO = 128 };
/* Inputs are fetched so many numbers before they are rounded. */
enum { AHEAD = 512 };

/* An activation's value, or x itself. */
INLINE __m512 activated(__m512 x, const int activation)
{
    if (activation == NO_ACTIVATION)
        return x;
    const __m512 e = exponential(within(x, activation), -1);
    return _mm512_div_ps(x, _mm512_add_ps(e, _mm512_set1_ps(1.0f)));
}

/* A row of inputs as integers, and the unit that they count; ``factored`` and ``normed``: whether there
 * are factors, and whether it is to be divided by its root mean square. */
INLINE float rounded(const int factored, const int normed, const float *x, const Layer *layer,
                     uint8_t *whole)
{
    const int64_t size = layer->in;
    const __m512i sign = _mm512_set1_epi32(0x7fffffff);
    __m512i largest = _mm512_setzero_si512(); /* as integers, or what is no number would get lost */
    __m512 squares = _mm512_setzero_ps();
#define TAKEN(some, i)                                                                            \
    (factored ? _mm512_mul_ps(_mm512_maskz_loadu_ps(some, x + (i)),                               \
                              _mm512_maskz_loadu_ps(some, layer->factor + (i)))                   \
              : _mm512_maskz_loadu_ps(some, x + (i)))
#define LOOK(some)                                                                                \
    {                                                                                             \
        const __m512 v = _mm512_maskz_loadu_ps(some, x + i);                                      \
        if (normed)                                                                               \
            squares = _mm512_fmadd_ps(v, v, squares);                                             \
        largest = _mm512_max_epu32(                                                               \
            largest, _mm512_and_si512(_mm512_castps_si512(TAKEN(some, i)), sign));                \
    }
    int64_t i = 0;
    for (; i + 16 <= size; i += 16) {
        _mm_prefetch((const char *)(x + i + AHEAD), _MM_HINT_T0);
        LOOK(0xffff)
    }
    if (i < size)
        LOOK(lanes(size - i))
    const uint32_t bits = _mm512_reduce_max_epu32(largest);
    float most, sum = normed ? _mm512_reduce_add_ps(squares) : 0;
    memcpy(&most, &bits, 4);
    float unit = (most > 1e-30f ? most : 1e-30f) / 127;
    const __m512 by = _mm512_set1_ps(1 / unit);
    const __m512i zero = _mm512_set1_epi8(layer->tiled ? 0 : (char)ZERO);
    const __m512i in_order =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
#define WHOLE(some, i) _mm512_cvtps_epi32(_mm512_mul_ps(TAKEN(some, i), by))
    for (i = 0; i + 64 <= size; i += 64) {
        const __m512i low = _mm512_packs_epi32(WHOLE(0xffff, i), WHOLE(0xffff, i + 16));
        const __m512i high = _mm512_packs_epi32(WHOLE(0xffff, i + 32), WHOLE(0xffff, i + 48));
        const __m512i all = _mm512_permutexvar_epi32(in_order, _mm512_packs_epi16(low, high));
        _mm512_storeu_si512(whole + i, _mm512_xor_si512(all, zero));
    }
    for (; i < size; i += 16) {
        const __m128i some = _mm512_cvtsepi32_epi8(WHOLE(lanes(size - i), i));
        _mm_storeu_si128((__m128i *)(whole + i),
                         _mm_xor_si128(some, _mm512_castsi512_si128(zero)));
    }
#undef TAKEN
#undef LOOK
#undef WHOLE
    unit += 0 * (most + sum); /* what is no number has no integer: it must not look like one */
    return normed ? unit / __builtin_sqrtf(sum / size + layer->eps) : unit;
}

/* Some rows x as integers, ``stride`` apart, and each row's unit. */
TARGET static void round_inputs(const float *x, int64_t n, const Layer *layer, uint8_t *whole,
                                int64_t stride, float *unit)
{
    for (; n > 0; n--, x += layer->in, whole += stride, unit++) {
        if (layer->factor)
            *unit = layer->eps < 0 ? rounded(1, 0, x, layer, whole) : rounded(1, 1, x, layer, whole);
        else
            *unit = layer->eps < 0 ? rounded(0, 0, x, layer, whole) : rounded(0, 1, x, layer, whole);
    }
}

/* Written out, as compilers keep sums in arrays, or those of intrinsics, in memory. */
#define MULTIPLY(sum, x, weight) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(weight))

/* Sums of integers -> numbers, plus a bias, or none. */
INLINE __m512 scaled(__m512i exact, __m512 scale, __m512 unit, const float *bias)
{
    const __m512 y = _mm512_cvtepi32_ps(exact), by = _mm512_mul_ps(scale, unit);
    return bias ? _mm512_fmadd_ps(y, by, _mm512_loadu_ps(bias)) : _mm512_mul_ps(y, by);
}

/* What is to be ``added`` to some lanes, or none, is; ``left``: columns that there are. */
INLINE void final(__m512 y, const float *added, int64_t lane, int64_t left, float *to)
{
    const __mmask16 some = lanes(left - lane);
    if (added)
        y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(some, added + lane));
    _mm512_mask_storeu_ps(to + lane, some, y);
}

/* A row's sums of one panel -> what is to be known of it, and what is to be ``added``, or none. */
INLINE void finish(__m512i s0, __m512i s1, __m512i s2, __m512i s3, const Layer *layer,
                   int64_t panel, float unit, const float *added, float *to, const int activation,
                   const int gated)
{
    const __m512 u = _mm512_set1_ps(unit);
    const int64_t column = panel * COLUMNS, wide = gated ? COLUMNS / 2 : COLUMNS;
    int64_t left = layer->out - panel * wide;
#define SCALED(s, i)                                                                              \
    scaled(s, _mm512_loadu_ps(layer->scale + column + i), u,                                      \
           layer->bias ? layer->bias + column + i : NULL)
    __m512 y0 = activated(SCALED(s0, 0), activation), y1 = activated(SCALED(s1, 16), activation);
    __m512 y2 = SCALED(s2, 32), y3 = SCALED(s3, 48);
#undef SCALED
    if (gated) {
        final(_mm512_mul_ps(y0, y2), added, 0, left, to);
        final(_mm512_mul_ps(y1, y3), added, 16, left, to);
        return;
    }
    final(y0, added, 0, left, to);
    final(y1, added, 16, left, to);
    final(activated(y2, activation), added, 32, left, to);
    final(activated(y3, activation), added, 48, left, to);
}

/* A tile's part, of a chunk's, of the bytes of a panel. */
#define PART(stride) (COLUMNS * (stride) * ROWS / CHUNK)

/* Some rows of integers times one panel, while a part of the next one is fetched, as it would be waited
 * for; ``rows``, ``activation`` and ``gated`` are constants. */
INLINE void tile(const int rows, const Layer *layer, int64_t panel, const uint8_t *whole,
                 int64_t stride, const float *unit, const float *added, float *to,
                 const int8_t *next, const int activation, const int gated)
{
#define EACH(of) of(0) of(1) of(2) of(3) of(4) of(5)
#define BEGIN(r)                                                                                  \
    __m512i s##r##0 = _mm512_loadu_si512(begin), s##r##1 = _mm512_loadu_si512(begin + 16),        \
            s##r##2 = _mm512_loadu_si512(begin + 32), s##r##3 = _mm512_loadu_si512(begin + 48);
#define STEP(r)                                                                                   \
    if (r < rows) {                                                                               \
        int32_t four;                                                                             \
        memcpy(&four, whole + r * stride + i, 4);                                                 \
        const __m512i x = _mm512_set1_epi32(four);                                                \
        MULTIPLY(s##r##0, x, w0);                                                                 \
        MULTIPLY(s##r##1, x, w1);                                                                 \
        MULTIPLY(s##r##2, x, w2);                                                                 \
        MULTIPLY(s##r##3, x, w3);                                                                 \
    }
#define FINISH(r)                                                                                 \
    if (r < rows)                                                                                 \
        finish(s##r##0, s##r##1, s##r##2, s##r##3, layer, panel, unit[r],                         \
               added ? added + r * layer->out : NULL, to + r * layer->out, activation, gated);

    const int8_t *weight = layer->panels + panel * COLUMNS * stride;
    const int32_t *begin = layer->begin + panel * COLUMNS;
    for (int64_t i = 0; i < PART(stride); i += 64)
        _mm_prefetch((const char *)next + i, _MM_HINT_T1);
    EACH(BEGIN)
    for (int64_t i = 0; i < stride; i += 4, weight += 4 * COLUMNS) {
        const __m512i w0 = _mm512_loadu_si512(weight), w1 = _mm512_loadu_si512(weight + 64);
        const __m512i w2 = _mm512_loadu_si512(weight + 128), w3 = _mm512_loadu_si512(weight + 192);
        EACH(STEP)
    }
    EACH(FINISH)
#undef EACH
#undef BEGIN
#undef STEP
#undef FINISH
}

/* A function for each kind of layer, so that what it does at the end of a sum is no question; and all
 * of them by ``gated`` and activation. */
#define EACH_KIND(of)                                                                             \
    of(plain, NO_ACTIVATION, 0) of(silu, SILU, 0) of(gelu, GELU, 0)                               \
    of(gated_plain, NO_ACTIVATION, 1) of(gated_silu, SILU, 1) of(gated_gelu, GELU, 1)
#define BY_KIND(way)                                                                              \
    {                                                                                             \
        {way##_plain, way##_silu, way##_gelu},                                                    \
        {way##_gated_plain, way##_gated_silu, way##_gated_gelu},                                  \
    }

#define TILE(rows, activation, gated)                                                             \
    tile(rows, layer, panel, whole, stride, unit, added, to, next, activation, gated)
#define TILES(name, activation, gated)                                                            \
    TARGET static void tile_##name(int64_t rows, const Layer *layer, int64_t panel,               \
                                   const uint8_t *whole, int64_t stride, const float *unit,       \
                                   const float *added, float *to, const int8_t *next)             \
    {                                                                                             \
        switch (rows) {                                                                           \
        case 1: TILE(1, activation, gated); break;                                                \
        case 2: TILE(2, activation, gated); break;                                                \
        case 3: TILE(3, activation, gated); break;                                                \
        case 4: TILE(4, activation, gated); break;                                                \
        case 5: TILE(5, activation, gated); break;                                                \
        default: TILE(6, activation, gated); break;                                               \
        }                                                                                         \
    }
EACH_KIND(TILES)

#undef TILE
#undef TILES

typedef void (*Tiles)(int64_t, const Layer *, int64_t, const uint8_t *, int64_t, const float *,
                      const float *, float *, const int8_t *);
static const Tiles TILES_OF[2][3] = BY_KIND(tile);

typedef struct {
    const float *x;
    const Layer *layer;
    const float *added; /* (n, out), or none */
    float *y;
    int64_t n;
    atomic_int *failed;
} Product;

/* ------------------------------------------------------------------------------- matrix tiles */

/* Integers of a row that a tile takes. */
enum { DEEP = 64 };

#ifdef CAN_BUILD_TILES

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Sums of so many rows and a panel's columns, and what is wanted to follow them. */
typedef struct {
    int32_t sums[SQUARE * SQUARE] __attribute__((aligned(64)));
    const float *unit, *added;
    float *to;
    int64_t rows, panel;
} Square;

/* What follows the sums of some rows, ``row`` to ``end``. */
INLINE void follow(const Square *s, int64_t row, int64_t end, const Layer *layer,
                   const int activation, const int gated)
{
    if (row >= end)
        return;
    const int64_t column = s->panel * SQUARE;
    const int64_t left = layer->out - (gated ? column / 2 : column);
    const __m512 scale0 = _mm512_loadu_ps(layer->scale + column);
    const __m512 scale1 = _mm512_loadu_ps(layer->scale + column + SIDE);
    const float *bias0 = layer->bias ? layer->bias + column : NULL;
    const float *bias1 = layer->bias ? bias0 + SIDE : NULL;
    for (; row < end; row++) {
        const __m512 unit = _mm512_set1_ps(s->unit[row]);
        const int32_t *sums = s->sums + row * SQUARE;
        const float *added = s->added ? s->added + row * layer->out : NULL;
        float *to = s->to + row * layer->out;
        const __m512 y0 = scaled(_mm512_load_si512(sums), scale0, unit, bias0);
        const __m512 y1 = scaled(_mm512_load_si512(sums + SIDE), scale1, unit, bias1);
        const __m512 first = activated(y0, activation);
        final(gated ? _mm512_mul_ps(first, y1) : first, added, 0, left, to);
        if (!gated)
            final(activated(y1, activation), added, SIDE, left, to);
    }
}

/* Sums of rows of integers, ``stride`` bytes each, and one panel. Meanwhile, as that takes the
 * processor's other parts: what follows the sums ``before``; and what would be waited for is fetched,
 * which are the ``next`` columns of the weight, some bytes ``a step``, and the places that results go to. */
static inline __attribute__((always_inline)) TILED void sum_square(
    const Layer *layer, const int8_t *weight, const uint8_t *whole, int64_t stride, Square *s,
    const Square *before, const int8_t *next, int64_t a_step, const int activation,
    const int gated)
{
    const int64_t deep = up_to(layer->in, DEEP) / DEEP, both = s->rows > SIDE;
    const int64_t rows = (SQUARE + deep - 1) / deep; /* a step */
#define BELOW(row, end) ((row) < (end) ? (row) : (end))
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0, row = 0; i < deep; i++, row += rows) {
        _tile_loadd(4, whole, stride);
        _tile_loadd(6, weight, DEEP);
        _tile_loadd(7, weight + SIDE * DEEP, DEEP);
        _tile_dpbssd(0, 4, 6);
        if (both)
            _tile_loadd(5, whole + SIDE * stride, stride);
        _tile_dpbssd(1, 4, 7);
        if (both) {
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
        whole += DEEP;
        weight += SQUARE * DEEP;
        for (const int8_t *end = next + a_step; next < end; next += 64)
            _mm_prefetch((const char *)next, _MM_HINT_T1);
        if (!s->added) /* which are often the same places, and read anyway */
            for (int64_t r = row; r < BELOW(row + rows, s->rows); r++) {
                __builtin_prefetch(s->to + r * layer->out, 1);
                if (!gated)
                    __builtin_prefetch(s->to + r * layer->out + SIDE, 1);
            }
        follow(before, row, BELOW(row + rows, before->rows), layer, activation, gated);
    }
#undef BELOW
    _tile_stored(0, s->sums, 4 * SQUARE);
    _tile_stored(1, s->sums + SIDE, 4 * SQUARE);
    _tile_stored(2, s->sums + SIDE * SQUARE, 4 * SQUARE);
    _tile_stored(3, s->sums + SIDE * SQUARE + SIDE, 4 * SQUARE);
}

/* Some rows of integers times some panels. */
static inline __attribute__((always_inline)) TILED void sum_squares(
    const Product *p, int64_t first, int64_t here, int64_t begin, int64_t end,
    const uint8_t *whole, int64_t stride, const float *unit, const int activation, const int gated)
{
    const Layer *layer = p->layer;
    const int64_t wide = gated ? SIDE : SQUARE, bytes = SQUARE * up_to(layer->in, DEEP);
    const int64_t deep = up_to(layer->in, DEEP) / DEEP, squares = up_to(here, SQUARE) / SQUARE;
    const int64_t a_step = up_to((bytes + squares * deep - 1) / (squares * deep), 64);
    Square both[2], *s = both, *before = both + 1;
    before->rows = 0;
    for (int64_t panel = begin; panel < end; panel++) {
        const int8_t *weight = layer->panels + panel * bytes, *next = weight + bytes;
        for (int64_t r = 0; r < here; r += SQUARE, next += deep * a_step) {
            const int64_t at = (first + r) * layer->out + panel * wide;
            s->unit = unit + r;
            s->added = p->added ? p->added + at : NULL;
            s->to = p->y + at;
            s->rows = here - r < SQUARE ? here - r : SQUARE;
            s->panel = panel;
            sum_square(layer, weight, whole + r * stride, stride, s, before, next, a_step,
                       activation, gated);
            Square *other = before;
            before = s;
            s = other;
        }
    }
    follow(before, 0, before->rows, layer, activation, gated);
}

#define SUMS(name, activation, gated)                                                             \
    TILED static void sums_##name(const Product *p, int64_t first, int64_t here, int64_t begin,   \
                                  int64_t end, const uint8_t *whole, int64_t stride,              \
                                  const float *unit)                                              \
    {                                                                                             \
        sum_squares(p, first, here, begin, end, whole, stride, unit, activation, gated);          \
    }
EACH_KIND(SUMS)
#undef SUMS

TILED static void in_squares(const Product *p, int64_t first, int64_t here, int64_t begin,
                             int64_t end, const uint8_t *whole, int64_t stride, const float *unit)
{
    static void (*const of[2][3])(const Product *, int64_t, int64_t, int64_t, int64_t,
                                  const uint8_t *, int64_t, const float *) = BY_KIND(sums);
    begin_tiles();
    of[p->layer->gated][p->layer->activation](p, first, here, begin, end, whole, stride, unit);
    _tile_release();
}

/* Whether this processor and its system have tiles. */
EXPORT int has_tiles(void)
{
    unsigned int eax, ebx, ecx, edx;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(edx >> 22 & 1) ||
        !(edx >> 24 & 1) || !(edx >> 25 & 1)) /* of bfloat16, at all, of integers */
        return 0;
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0; /* ARCH_REQ_XCOMP_PERM: Linux is to be asked */
}

#else

static void in_squares(const Product *p, int64_t first, int64_t here, int64_t begin, int64_t end,
                       const uint8_t *whole, int64_t stride, const float *unit)
{
    (void)p, (void)first, (void)here, (void)begin, (void)end, (void)whole, (void)stride, (void)unit;
}

EXPORT int has_tiles(void)
{
    return 0;
}

#endif

/* ------------------------------------------------------------------------------- whole products */

/* Some rows of integers times some panels, register by register. */
TARGET static void in_lanes(const Product *p, int64_t first, int64_t here, int64_t begin,
                            int64_t end, const uint8_t *whole, int64_t stride, const float *unit)
{
    const Layer *layer = p->layer;
    const Tiles tiles = TILES_OF[layer->gated][layer->activation];
    const int64_t wide = layer->gated ? COLUMNS / 2 : COLUMNS;
    for (int64_t panel = begin; panel < end; panel++) {
        const int8_t *next = layer->panels + (panel + 1) * COLUMNS * stride;
        for (int64_t r = 0; r < here; r += ROWS, next += PART(stride)) {
            const int64_t at = (first + r) * layer->out + panel * wide;
            tiles(here - r < ROWS ? here - r : ROWS, layer, panel, whole + r * stride, stride,
                  unit + r, p->added ? p->added + at : NULL, p->y + at, next);
        }
    }
}

/* Some of the panels. Each part rounds the inputs for itself: that is less than to wait for it. */
TARGET static void product(const void *work, int64_t part, int64_t parts)
{
    const Product *p = work;
    const Layer *layer = p->layer;
    const int64_t columns = layer->tiled ? SQUARE : COLUMNS;
    const int64_t wide = layer->gated ? columns / 2 : columns;
    const int64_t panels = (layer->out + wide - 1) / wide;
    const int64_t begin = panels * part / parts, end = panels * (part + 1) / parts;
    int64_t stride = up_to(layer->in, 16), most = p->n < CHUNK ? p->n : CHUNK;
    if (layer->tiled) /* an odd number of cache lines, or all rows would want the same places */
        stride = (up_to(layer->in, DEEP) / DEEP | 1) * DEEP;
    uint8_t *whole = aligned_alloc(64, up_to(up_to(most, SQUARE) * stride + 1, 64));
    float unit[CHUNK];
    if (!whole) {
        atomic_store(p->failed, 1);
        return;
    }
    for (int64_t first = 0; first < p->n; first += most) {
        const int64_t here = p->n - first < most ? p->n - first : most;
        round_inputs(p->x + first * layer->in, here, layer, whole, stride, unit);
        (layer->tiled ? in_squares : in_lanes)(p, first, here, begin, end, whole, stride, unit);
    }
    free(whole);
}

/* n rows x, (n, in), through a layer: (n, out), plus what is ``added``, or none. Whether there was
 * memory for it. */
EXPORT int linear(const float *x, int64_t n, const Layer *layer, const float *added, float *y,
                  int64_t threads)
{
    atomic_int failed = 0;
    const Product work = {x, layer, added, y, n, &failed};
    const int64_t worth = n * layer->in * layer->out / WORTH;
    share(product, &work, worth < threads ? worth : threads, threads);
    return !atomic_load(&failed);
}

/* Through one layer and then another, plus what is ``added``, or none; some rows at a time: what is
 * between them stays in cache. */
EXPORT int chain(const float *x, int64_t n, const Layer *into, const Layer *from,
                 const float *added, float *y, int64_t threads)
{
    const int64_t most = n < CHUNK ? n : CHUNK;
    float *between = aligned_alloc(64, up_to(sizeof(float) * most * into->out + 1, 64));
    int done = between != NULL;
    for (int64_t first = 0; done && first < n; first += most) {
        const int64_t here = n - first < most ? n - first : most;
        const int64_t at = first * from->out;
        done = linear(x + first * into->in, here, into, NULL, between, threads) &&
               linear(between, here, from, added ? added + at : NULL, y + at, threads);
    }
    free(between);
    return done;
}

/* ------------------------------------------------------------------------- weights as integers */

typedef struct {
    const float *weight, *by;
    float least, *largest, *scale;
    int8_t *whole;
    int64_t out, in;
} Rounding;

/* The larger of each two numbers; none, where either is none. */
INLINE __m512 larger(__m512 a, __m512 b)
{
    return _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
}

/* How large, in absolute value, some of a weight's columns get. */
TARGET static void some_columns(const void *work, int64_t part, int64_t parts)
{
    const Rounding *r = work;
    const int64_t blocks = (r->in + 15) / 16, begin = blocks * part / parts * 16;
    const int64_t end = blocks * (part + 1) / parts * 16;
    memset(r->largest + begin, 0, ((end < r->in ? end : r->in) - begin) * sizeof(float));
    for (int64_t row = 0; row < r->out; row++) {
        for (int64_t i = begin; i < end; i += 16) {
            const __mmask16 some = lanes(r->in - i);
            const __m512 v = _mm512_abs_ps(_mm512_maskz_loadu_ps(some, r->weight + row * r->in + i));
            const __m512 most = larger(v, _mm512_maskz_loadu_ps(some, r->largest + i));
            _mm512_mask_storeu_ps(r->largest + i, some, most);
        }
    }
}

/* Some rows, times ``by``, as integers of a unit of which their largest number is 127. */
TARGET static void some_rounded(const void *work, int64_t part, int64_t parts)
{
    const Rounding *r = work;
    for (int64_t row = r->out * part / parts; row < r->out * (part + 1) / parts; row++) {
        const float *x = r->weight + row * r->in;
        __m512 largest = _mm512_set1_ps(r->least);
#define PRODUCT                                                                                   \
    _mm512_mul_ps(_mm512_maskz_loadu_ps(some, x + i), _mm512_maskz_loadu_ps(some, r->by + i))
        for (int64_t i = 0; i < r->in; i += 16) {
            const __mmask16 some = lanes(r->in - i);
            largest = larger(_mm512_abs_ps(PRODUCT), largest);
        }
        float unit = _mm512_reduce_max_ps(largest) / 127;
        if (_mm512_cmp_ps_mask(largest, largest, _CMP_UNORD_Q))
            unit = __builtin_nanf("");
        r->scale[row] = unit;
        for (int64_t i = 0; i < r->in; i += 16) {
            const __mmask16 some = lanes(r->in - i);
            const __m512 v = _mm512_div_ps(PRODUCT, _mm512_set1_ps(unit));
            _mm_mask_storeu_epi8(r->whole + row * r->in + i, some,
                                 _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
        }
#undef PRODUCT
    }
}

/* (out, in) -> largest (in,). */
EXPORT int largest_in_columns(const float *weight, int64_t out, int64_t in, float *largest,
                              int64_t threads)
{
    const Rounding work = {.weight = weight, .largest = largest, .out = out, .in = in};
    share(some_columns, &work, out * in < WORTH / 16 ? 1 : threads, threads);
    return 1;
}

/* (out, in) times ``by`` (in,) -> whole (out, in) and scale (out,), as if no row's largest number were
 * smaller than ``least``. */
EXPORT int round_rows(const float *weight, const float *by, int64_t out, int64_t in, float least,
                      int8_t *whole, float *scale, int64_t threads)
{
    const Rounding work = {weight, by, least, NULL, scale, whole, out, in};
    share(some_rounded, &work, out * in < WORTH / 16 ? 1 : threads, threads);
    return 1;
}

#endif
