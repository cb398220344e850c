/* What a trained block spends its time in: products of few rows, in float32, norms of them, activations,
 * texts put side by side, attention from one token of each, and steps of AdamW whose gradients are
 * products that nobody has to write down.
 *
 * ``few_rows.py`` calls these through ctypes and says what each is given. Every number is summed up in
 * one order, whatever stands beside it and however many threads there are.
 */
#include "few_rows.h"

#ifdef CAN_BUILD

/* Tiles of 24 sums, which stay in registers: so many rows of x by so many of the weight, whose numbers
 * are summed along; so many rows by so many columns; so many rows of a weight by so many columns. */
enum { ROWS = 8, OUTPUTS = 3, COLUMNS = 48, WEIGHTS = 4, WIDE = 96 };
/* Rows of a weight that stay in the nearest cache until all rows of x are multiplied by them. What
 * comes after them is asked for meanwhile: one after the other they would be waited for. */
enum { BLOCK = 9 };
/* Terms that all rows' sums take before the next ones. */
enum { CHUNK = 48 };
/* Rows whose sums are done with before the next ones', so that they stay in cache. */
enum { AT_ONCE = 256 };

#define EACH_ROW(of) of(0) of(1) of(2) of(3) of(4) of(5) of(6) of(7)
/* One function for each number of rows, so that what is not there costs nothing. */
#define BY_ROWS(rows, call)                                                                       \
    switch (rows) {                                                                               \
    case 1: call(1); break;                                                                       \
    case 2: call(2); break;                                                                       \
    case 3: call(3); break;                                                                       \
    case 4: call(4); break;                                                                       \
    case 5: call(5); break;                                                                       \
    case 6: call(6); break;                                                                       \
    case 7: call(7); break;                                                                       \
    default: call(8); break;                                                                      \
    }

/* Some lanes, or all: a mask costs Intel's processors as much as a multiplication. ``whole`` is a
 * constant. */
#define LOAD(whole, some, x) ((whole) ? _mm512_loadu_ps(x) : _mm512_maskz_loadu_ps(some, x))

/* A register for what was loaded: else each multiplication would load it again. */
#define KEPT(v) __asm__("" : "+v"(v));

/* A row's three sums, or the first of them, take a number's share of w0 to w2. */
#define TAKE(r, v, outputs)                                                                       \
    {                                                                                             \
        s##r##0 = _mm512_fmadd_ps(v, w0, s##r##0);                                                \
        if (outputs > 1)                                                                          \
            s##r##1 = _mm512_fmadd_ps(v, w1, s##r##1);                                            \
        if (outputs > 2)                                                                          \
            s##r##2 = _mm512_fmadd_ps(v, w2, s##r##2);                                            \
    }

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* -------------------------------------------------------------------- products along and across */

/* The sums of eight vectors' numbers, one below the other: y[r * y_row] of the first ``rows``. */
INLINE void add_up(const int rows, __m512 a0, __m512 a1, __m512 a2, __m512 a3, __m512 a4, __m512 a5,
                   __m512 a6, __m512 a7, float *y, int64_t y_row)
{
#define HALVES(a, b, i, j)                                                                        \
    _mm512_add_ps(_mm512_shuffle_f32x4(a, b, i), _mm512_shuffle_f32x4(a, b, j))
    const __m512 b0 = HALVES(a0, a1, 0x44, 0xee), b1 = HALVES(a2, a3, 0x44, 0xee);
    const __m512 b2 = HALVES(a4, a5, 0x44, 0xee), b3 = HALVES(a6, a7, 0x44, 0xee);
    const __m512 c0 = HALVES(b0, b1, 0x88, 0xdd), c1 = HALVES(b2, b3, 0x88, 0xdd);
#undef HALVES
    __m512 sum = _mm512_add_ps(_mm512_unpacklo_ps(c0, c1), _mm512_unpackhi_ps(c0, c1));
    sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0x4e));
    float of[16];
    _mm512_storeu_ps(of, sum);
    for (int r = 0; r < rows; r++)
        y[r * y_row] = of[4 * (r % 4) + r / 4];
}

INLINE void dot_tile(const int rows, const int outputs, const float *x, int64_t x_row,
                     const float *w, int64_t w_row, int64_t size, float *y, int64_t y_row,
                     int fetch)
{
#define BEGIN(r) __m512 s##r##0 = _mm512_setzero_ps(), s##r##1 = s##r##0, s##r##2 = s##r##0;
#define STEP(r, whole)                                                                            \
    if (r < rows) {                                                                               \
        __m512 v = LOAD(whole, some, x + r * x_row + i);                                          \
        KEPT(v)                                                                                   \
        TAKE(r, v, outputs)                                                                       \
    }
#define TERMS(whole)                                                                              \
    {                                                                                             \
        const __mmask16 some = whole ? 0xffff : lanes(size - i);                                  \
        const __m512 w0 = LOAD(whole, some, w + i);                                               \
        const __m512 w1 = outputs > 1 ? LOAD(whole, some, w + w_row + i) : w0;                    \
        const __m512 w2 = outputs > 2 ? LOAD(whole, some, w + 2 * w_row + i) : w0;                \
        if (fetch)                                                                                \
            for (int o = 0; o < outputs; o++)                                                     \
                _mm_prefetch((const char *)(w + (BLOCK + o) * w_row + i), _MM_HINT_T0);           \
        STEP(0, whole) STEP(1, whole) STEP(2, whole) STEP(3, whole)                               \
        STEP(4, whole) STEP(5, whole) STEP(6, whole) STEP(7, whole)                               \
    }
    EACH_ROW(BEGIN)
    int64_t i = 0;
    for (; i + 16 <= size; i += 16)
        TERMS(1)
    if (i < size)
        TERMS(0)
#define COLUMN(i) s0##i, s1##i, s2##i, s3##i, s4##i, s5##i, s6##i, s7##i
    add_up(rows, COLUMN(0), y, y_row);
    if (outputs > 1)
        add_up(rows, COLUMN(1), y + 1, y_row);
    if (outputs > 2)
        add_up(rows, COLUMN(2), y + 2, y_row);
#undef COLUMN
#undef BEGIN
#undef STEP
#undef TERMS
}

/* y (n, out) = x (n, size) times w (out, size), number by number along both rows. */
TARGET static void dots(const float *x, int64_t x_row, int64_t n, const float *w, int64_t w_row,
                        int64_t out, int64_t size, float *y, int64_t y_row)
{
    for (; n > AT_ONCE; n -= AT_ONCE, x += AT_ONCE * x_row, y += AT_ONCE * y_row)
        dots(x, x_row, AT_ONCE, w, w_row, out, size, y, y_row);
    for (int64_t block = 0; block < out; block += BLOCK) {
        const int64_t end = least(block + BLOCK, out);
        for (int64_t r = 0; r < n; r += ROWS) {
            for (int64_t o = block; o < end; o += OUTPUTS) {
#define TILE(rows, outputs)                                                                       \
    dot_tile(rows, outputs, x + r * x_row, x_row, w + o * w_row, w_row, size, y + r * y_row + o,  \
             y_row, r == 0)
#define THREE(rows) TILE(rows, 3)
#define TWO(rows) TILE(rows, 2)
#define ONE(rows) TILE(rows, 1)
                if (end - o >= 3) {
                    BY_ROWS(n - r, THREE)
                } else if (end - o == 2) {
                    BY_ROWS(n - r, TWO)
                } else {
                    BY_ROWS(n - r, ONE)
                }
#undef TILE
#undef THREE
#undef TWO
#undef ONE
            }
        }
    }
}

INLINE void sum_tile(const int rows, const int whole, const float *a, int64_t a_row, const float *w,
                     int64_t w_row, int64_t terms, float *y, int64_t y_row, int64_t columns,
                     int more, int fetch)
{
    const __mmask16 m0 = lanes(columns), m1 = lanes(columns - 16), m2 = lanes(columns - 32);
#define BEGIN(r)                                                                                  \
    __m512 s##r##0 = _mm512_setzero_ps(), s##r##1 = s##r##0, s##r##2 = s##r##0;                   \
    if (r < rows && more) {                                                                       \
        s##r##0 = LOAD(whole, m0, y + r * y_row);                                                 \
        s##r##1 = LOAD(whole, m1, y + r * y_row + 16);                                            \
        s##r##2 = LOAD(whole, m2, y + r * y_row + 32);                                            \
    }
#define STEP(r)                                                                                   \
    if (r < rows) {                                                                               \
        const __m512 v = _mm512_set1_ps(a[r * a_row + t]);                                        \
        TAKE(r, v, 3)                                                                             \
    }
#define FINISH(r)                                                                                 \
    if (r < rows) {                                                                               \
        _mm512_mask_storeu_ps(y + r * y_row, m0, s##r##0);                                        \
        _mm512_mask_storeu_ps(y + r * y_row + 16, m1, s##r##1);                                   \
        _mm512_mask_storeu_ps(y + r * y_row + 32, m2, s##r##2);                                   \
    }

    EACH_ROW(BEGIN)
    for (int64_t t = 0; t < terms; t++) {
        const __m512 w0 = LOAD(whole, m0, w + t * w_row);
        const __m512 w1 = LOAD(whole, m1, w + t * w_row + 16);
        const __m512 w2 = LOAD(whole, m2, w + t * w_row + 32);
        if (fetch)
            for (int line = 0; line < COLUMNS / 16; line++)
                _mm_prefetch((const char *)(w + (t + CHUNK) * w_row + line * 16), _MM_HINT_T0);
        EACH_ROW(STEP)
    }
    EACH_ROW(FINISH)
#undef BEGIN
#undef STEP
#undef FINISH
}

/* y (n, columns) = a (n, terms) times w (terms, columns). */
TARGET static void sums(const float *a, int64_t a_row, int64_t n, const float *w, int64_t w_row,
                        int64_t terms, int64_t columns, float *y, int64_t y_row)
{
    for (; n > 0; n -= AT_ONCE, a += AT_ONCE * a_row, y += AT_ONCE * y_row) {
        const int64_t here = least(n, AT_ONCE);
        for (int64_t t = 0; t < terms || t == 0; t += CHUNK) {
            for (int64_t c = 0; c < columns; c += COLUMNS) {
                for (int64_t r = 0; r < here; r += ROWS) {
#define TILE(rows, whole)                                                                         \
    sum_tile(rows, whole, a + r * a_row + t, a_row, w + t * w_row + c, w_row,                     \
             least(CHUNK, terms - t), y + r * y_row + c, y_row, columns - c, t > 0, r == 0)
#define WHOLE(rows) TILE(rows, 1)
#define NARROW(rows) TILE(rows, 0)
                    if (columns - c >= COLUMNS) {
                        BY_ROWS(here - r, WHOLE)
                    } else {
                        BY_ROWS(here - r, NARROW)
                    }
#undef TILE
#undef WHOLE
#undef NARROW
                }
            }
        }
    }
}

static void some_outputs(const Product *p, int64_t part, int64_t parts)
{
    const int64_t tiles = (p->out + OUTPUTS - 1) / OUTPUTS;
    const int64_t begin = tiles * part / parts * OUTPUTS;
    const int64_t end = least(tiles * (part + 1) / parts * OUTPUTS, p->out);
    dots(p->x, p->x_row, p->n, p->weight + begin * p->in, p->in, end - begin, p->in,
         p->y + begin, p->y_row);
}

static void some_inputs(const Product *p, int64_t part, int64_t parts)
{
    const int64_t tiles = (p->in + COLUMNS - 1) / COLUMNS;
    const int64_t begin = tiles * part / parts * COLUMNS;
    const int64_t end = least(tiles * (part + 1) / parts * COLUMNS, p->in);
    sums(p->x, p->x_row, p->n, p->weight + begin, p->in, p->out, end - begin, p->y + begin,
         p->y_row);
}

static void some_rows(const Product *p, int64_t part, int64_t parts)
{
    const int64_t tiles = (p->n + ROWS - 1) / ROWS;
    const int64_t begin = tiles * part / parts * ROWS;
    const int64_t end = least(tiles * (part + 1) / parts * ROWS, p->n);
    sums(p->x + begin * p->x_row, p->x_row, end - begin, p->weight, p->in, p->out, p->in,
         p->y + begin * p->y_row, p->y_row);
}

typedef struct {
    const Product *all;
    int64_t parts_of_each;
    int back;
} Products;

static void some_products(const void *work, int64_t part, int64_t parts)
{
    (void)parts;
    const Products *of = work;
    const int64_t number = part / of->parts_of_each;
    Product p = *of->all;
    p.x += number * p.x_next;
    p.y += number * p.y_next;
    p.weight += number / p.shared * p.in * p.out;
    part %= of->parts_of_each;
    if (!of->back)
        some_outputs(&p, part, of->parts_of_each);
    else if (p.n > p.in)
        some_rows(&p, part, of->parts_of_each);
    else
        some_inputs(&p, part, of->parts_of_each);
}

/* x times the transpose of the weight; or where ``back``, x (n, out) times the weight: (n, in). */
EXPORT void multiply(const Product *given, int back, int64_t threads)
{
    const int64_t count = given->count;
    const int64_t worth = count * given->n * given->in * given->out / WORTH;
    const int64_t busy = least(worth, threads);
    const Products work = {given, busy > 1 ? (busy + count - 1) / count : 1, back};
    share(some_products, &work, count * work.parts_of_each, busy > 1 ? threads : 1);
}

/* ---------------------------------------------------------------------------- norms of rows */

/* A row over its root mean square, less its mean first where ``centred``; what it was multiplied by. */
TARGET static float norm(const float *x, int64_t size, float eps, int centred, float *y)
{
    float mean = 0;
    if (centred) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < size; i += 16)
            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes(size - i), x + i));
        mean = _mm512_reduce_add_ps(sum) / size;
    }
    const __m512 middle = _mm512_set1_ps(mean);
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < size; i += 16) {
        const __mmask16 some = lanes(size - i);
        __m512 v = _mm512_maskz_loadu_ps(some, x + i);
        v = _mm512_maskz_sub_ps(some, v, middle);
        squares = _mm512_fmadd_ps(v, v, squares);
    }
    const float by = 1 / __builtin_sqrtf(_mm512_reduce_add_ps(squares) / size + eps);
    for (int64_t i = 0; i < size; i += 16) {
        const __mmask16 some = lanes(size - i);
        __m512 v = _mm512_sub_ps(_mm512_maskz_loadu_ps(some, x + i), middle);
        _mm512_mask_storeu_ps(y + i, some, _mm512_mul_ps(v, _mm512_set1_ps(by)));
    }
    return by;
}

/* n rows x over their root mean squares, times a factor each number; what each row was multiplied by. */
EXPORT TARGET void rms_norm(const float *x, const float *factor, int64_t n, int64_t size, float eps,
                            float *y, float *by)
{
    for (int64_t r = 0; r < n; r++, x += size, y += size) {
        by[r] = norm(x, size, eps, 0, y);
        for (int64_t i = 0; i < size; i += 16) {
            const __mmask16 some = lanes(size - i);
            const __m512 v = _mm512_maskz_loadu_ps(some, y + i);
            const __m512 f = _mm512_maskz_loadu_ps(some, factor + i);
            _mm512_mask_storeu_ps(y + i, some, _mm512_mul_ps(v, f));
        }
    }
}

/* What is wanted of x and of the factor, for what is wanted of the rows that ``rms_norm`` gave. */
EXPORT TARGET void rms_norm_back(const float *x, const float *factor, const float *by,
                                 const float *wanted, int64_t n, int64_t size, float *of_x,
                                 float *of_factor)
{
    memset(of_factor, 0, size * sizeof(float));
    for (int64_t r = 0; r < n; r++, x += size, wanted += size, of_x += size) {
        const __m512 row = _mm512_set1_ps(by[r]);
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < size; i += 16) {
            const __mmask16 some = lanes(size - i);
            const __m512 y = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, x + i), row);
            const __m512 w = _mm512_maskz_loadu_ps(some, wanted + i);
            const __m512 f = _mm512_maskz_loadu_ps(some, of_factor + i);
            _mm512_mask_storeu_ps(of_factor + i, some, _mm512_fmadd_ps(y, w, f));
            sum = _mm512_fmadd_ps(
                y, _mm512_mul_ps(w, _mm512_maskz_loadu_ps(some, factor + i)), sum);
        }
        const __m512 along = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / size);
        for (int64_t i = 0; i < size; i += 16) {
            const __mmask16 some = lanes(size - i);
            const __m512 y = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, x + i), row);
            __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, wanted + i),
                                     _mm512_maskz_loadu_ps(some, factor + i));
            v = _mm512_fnmadd_ps(along, y, v);
            _mm512_mask_storeu_ps(of_x + i, some, _mm512_mul_ps(v, row));
        }
    }
}

/* -------------------------------------------------------------------------------- activations */

/* n rows x of ``size`` numbers, or where ``gated`` of twice as many, of which the second half is what
 * the activated first half is multiplied with. */
typedef struct {
    const float *x, *wanted;
    float *y;
    int64_t n, size;
    int activation, gated;
} Activated;

/* The activation z sigmoid(within z): what it gives, and its slope. */
INLINE __m512 sloped(__m512 z, const int activation, __m512 *slope)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 of_within = one;
    if (activation == GELU)
        of_within = _mm512_fmadd_ps(_mm512_mul_ps(z, z), _mm512_set1_ps(3 * CUBIC * TANH),
                                    _mm512_set1_ps(TANH));
    const __m512 e = exponential(within(z, activation), -1);
    const __m512 share = _mm512_div_ps(one, _mm512_add_ps(e, one));
    const __m512 rest = _mm512_mul_ps(z, _mm512_sub_ps(one, share));
    *slope = _mm512_mul_ps(share, _mm512_fmadd_ps(rest, of_within, one));
    return _mm512_mul_ps(z, share);
}

INLINE void activated_row(const float *x, const float *wanted, float *y, int64_t size,
                          const int activation, const int gated)
{
    for (int64_t i = 0; i < size; i += 16) {
        const __mmask16 some = lanes(size - i);
        const __m512 z = _mm512_maskz_loadu_ps(some, x + i);
        __m512 slope, v = sloped(z, activation, &slope);
        if (wanted) {
            const __m512 w = _mm512_maskz_loadu_ps(some, wanted + i);
            if (gated) {
                _mm512_mask_storeu_ps(y + size + i, some, _mm512_mul_ps(w, v));
                slope = _mm512_mul_ps(slope, _mm512_maskz_loadu_ps(some, x + size + i));
            }
            v = _mm512_mul_ps(w, slope);
        } else if (gated) {
            v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(some, x + size + i));
        }
        _mm512_mask_storeu_ps(y + i, some, v);
    }
}

TARGET static void some_activated(const void *work, int64_t part, int64_t parts)
{
    const Activated *a = work;
    const int64_t wide = a->gated ? 2 * a->size : a->size;
    for (int64_t r = a->n * part / parts; r < a->n * (part + 1) / parts; r++) {
        const float *x = a->x + r * wide, *wanted = a->wanted ? a->wanted + r * a->size : NULL;
        float *y = a->y + r * (wanted ? wide : a->size);
        if (a->activation == GELU)
            activated_row(x, wanted, y, a->size, GELU, a->gated);
        else
            activated_row(x, wanted, y, a->size, SILU, a->gated);
    }
}

/* The activated rows (n, size); or, for what is ``wanted`` of these, what is wanted of x. */
EXPORT void activate(const float *x, const float *wanted, int64_t n, int64_t size, int activation,
                     int gated, float *y, int64_t threads)
{
    const Activated work = {x, wanted, y, n, size, activation, gated};
    share(some_activated, &work, least(n, least(32 * n * size / WORTH, threads)), threads);
}

/* ------------------------------------------------------------------- rows of texts side by side */

typedef struct {
    const char *const *texts;
    const int64_t *bytes; /* of each text */
    char *to;
    int64_t n, room; /* bytes that each has room for */
} Padded;

static void some_texts(const void *work, int64_t part, int64_t parts)
{
    const Padded *p = work;
    for (int64_t t = p->n * part / parts; t < p->n * (part + 1) / parts; t++) {
        memcpy(p->to + t * p->room, p->texts[t], p->bytes[t]);
        memset(p->to + t * p->room + p->bytes[t], 0, p->room - p->bytes[t]);
    }
}

/* n texts one after the other, each filled up with nought. */
EXPORT void pad(const char *const *texts, const int64_t *bytes, int64_t n, int64_t room, char *to,
                int64_t threads)
{
    const Padded work = {texts, bytes, to, n, room};
    share(some_texts, &work, least(n, least(n * room / WORTH, threads)), threads);
}

/* ------------------------------------------------------------------------------- AdamW's step */

INLINE void moved(__m512 gradient, const Step *s, int64_t at, __mmask16 some)
{
    __m512 weight = _mm512_maskz_loadu_ps(some, s->weight + at);
    __m512 mean = _mm512_maskz_loadu_ps(some, s->mean + at);
    __m512 square = _mm512_maskz_loadu_ps(some, s->square + at);
    const __m512 change = _mm512_set1_ps(s->of_square);
    mean = _mm512_fmadd_ps(_mm512_sub_ps(gradient, mean), _mm512_set1_ps(s->of_gradient), mean);
    square = _mm512_fnmadd_ps(square, change, square);
    square = _mm512_fmadd_ps(_mm512_mul_ps(gradient, gradient), change, square);
    __m512 by = _mm512_fmadd_ps(_mm512_sqrt_ps(square), _mm512_set1_ps(s->of_root),
                                _mm512_set1_ps(s->eps));
    weight = _mm512_mul_ps(weight, _mm512_set1_ps(s->kept));
    weight = _mm512_fnmadd_ps(_mm512_set1_ps(s->step), _mm512_div_ps(mean, by), weight);
    _mm512_mask_storeu_ps(s->weight + at, some, weight);
    _mm512_mask_storeu_ps(s->mean + at, some, mean);
    _mm512_mask_storeu_ps(s->square + at, some, square);
}

/* Some rows of the weight and WIDE columns, from ``at`` on; meanwhile those from ``next`` on are fetched,
 * which lie in as many pieces as there are rows. */
INLINE void step_tile(const int rows, const int whole, const Step *s, int64_t row, int64_t column,
                      int64_t next)
{
#define EACH_COLUMN(of, r) of(r, 0) of(r, 1) of(r, 2) of(r, 3) of(r, 4) of(r, 5)
#define EACH_SUM(of) EACH_COLUMN(of, 0) EACH_COLUMN(of, 1) EACH_COLUMN(of, 2) EACH_COLUMN(of, 3)
#define BEGIN(r, c) __m512 s##r##c = _mm512_setzero_ps();
#define WRITTEN(r, c)                                                                             \
    if (r < rows)                                                                                 \
        s##r##c = LOAD(whole, lanes(left - 16 * c), s->gradient + at + r * s->in + 16 * c);
#define INPUT(r, c) const __m512 x##c = LOAD(whole, lanes(left - 16 * c), x + 16 * c);
#define MULTIPLY(r, c) s##r##c = _mm512_fmadd_ps(d##r, x##c, s##r##c);
#define STEP(r)                                                                                   \
    if (r < rows) {                                                                               \
        const __m512 d##r = _mm512_set1_ps(errors[r]);                                            \
        EACH_COLUMN(MULTIPLY, r)                                                                  \
    }
#define MOVE(r, c)                                                                                \
    if (r < rows && left > 16 * c)                                                                \
        moved(s##r##c, s, at + r * s->in + 16 * c, lanes(left - 16 * c));
#define FETCH(line)                                                                               \
    {                                                                                             \
        const int64_t there = next + (line) / (WIDE / 16) * s->in + (line) % (WIDE / 16) * 16;    \
        _mm_prefetch((const char *)(s->weight + there), _MM_HINT_T0);                             \
        _mm_prefetch((const char *)(s->mean + there), _MM_HINT_T0);                               \
        _mm_prefetch((const char *)(s->square + there), _MM_HINT_T0);                             \
    }

    const int64_t left = s->in - column, at = row * s->in + column;
    int64_t fetched = 0;
    EACH_SUM(BEGIN)
    if (s->gradient) {
        EACH_SUM(WRITTEN)
    }
    for (const Factors *of = s->factors; of < s->factors + s->count; of++) {
        for (int64_t i = 0; i < of->count; i++) {
            const float *x = of->inputs + i * of->inputs_next + column;
            const float *errors = of->errors + i * of->errors_next + row;
            for (int64_t n = 0; n < of->n; n++, x += of->inputs_row, errors += of->errors_row) {
                if (fetched < WEIGHTS * WIDE / 16) {
                    FETCH(fetched)
                    fetched++;
                }
                EACH_COLUMN(INPUT, 0)
                STEP(0)
                STEP(1)
                STEP(2)
                STEP(3)
            }
        }
    }
    for (; fetched < WEIGHTS * WIDE / 16; fetched++)
        FETCH(fetched)
    EACH_SUM(MOVE)
#undef EACH_COLUMN
#undef EACH_SUM
#undef BEGIN
#undef WRITTEN
#undef INPUT
#undef MULTIPLY
#undef STEP
#undef MOVE
#undef FETCH
}

/* Rows ``begin`` to ``end`` of a weight. */
TARGET static void some_weights(const Step *s, int64_t begin, int64_t end)
{
    for (int64_t row = begin; row < end; row += WEIGHTS) {
        for (int64_t column = 0; column < s->in; column += WIDE) {
            const int64_t right = column + WIDE;
            const int64_t next = right < s->in ? row * s->in + right : (row + WEIGHTS) * s->in;
            switch (end - row) {
            case 1: step_tile(1, 0, s, row, column, next); break;
            case 2: step_tile(2, 0, s, row, column, next); break;
            case 3: step_tile(3, 0, s, row, column, next); break;
            default:
                if (right <= s->in)
                    step_tile(4, 1, s, row, column, next);
                else
                    step_tile(4, 0, s, row, column, next);
            }
        }
    }
}

typedef struct {
    const Step *each;
    int64_t count, numbers; /* in all weights */
} Steps;

/* So much of all weights, one after the other. */
static void some_steps(const void *work, int64_t part, int64_t parts)
{
    const Steps *of = work;
    const int64_t begin = of->numbers * part / parts, end = of->numbers * (part + 1) / parts;
    int64_t before = 0;
    for (const Step *s = of->each; s < of->each + of->count; s++) {
        /* Where in this weight the part begins and ends: at rows whose tile begins before it. */
        const int64_t tile = WEIGHTS * s->in, all = s->in * s->out;
        const int64_t from = begin > before ? begin - before : 0;
        const int64_t to = end > before ? end - before : 0;
        some_weights(s, least(up_to(from, tile) / s->in, s->out),
                     least(up_to(to, tile) / s->in, s->out));
        before += all;
    }
}

/* So many steps, which are independent of each other. */
EXPORT void adamw(const Step *given, int64_t count, int64_t threads)
{
    int64_t numbers = 0, worth = 0;
    for (const Step *s = given; s < given + count; s++) {
        int64_t terms = 16;
        for (int64_t i = 0; i < s->count; i++)
            terms += s->factors[i].n * s->factors[i].count;
        numbers += s->in * s->out;
        worth += s->in * s->out * terms;
    }
    const Steps work = {given, count, numbers};
    share(some_steps, &work, least(worth / WORTH, 4 * threads), threads);
}

/* ------------------------------------------------------------------ attention from one token */

/* States x, (batch, length, size), each text's so far from the last's, or each somewhere of its own;
 * those that are seen, less their mean where ``centred``, over their root mean square. */
typedef struct {
    const float *x;
    int64_t x_text;
    const void *const *texts;
    int half;
    const OneToken *of;
    float *y;
    float eps;
    int centred;
    const States *same; /* where rows are put as they are, and what each was multiplied by; or none */
} Norms;

TARGET static void some_norms(const void *work, int64_t part, int64_t parts)
{
    const Norms *norms = work;
    const OneToken *a = norms->of;
    const int64_t size = a->size, end = a->batch * (part + 1) / parts;
    for (int64_t text = a->batch * part / parts; text < end; text++) {
        float *y = norms->y + a->starts[text] * size;
        const int64_t first = a->first[text], rows = a->starts[text + 1] - a->starts[text];
        const float *x = norms->texts ? norms->texts[text] : norms->x + text * norms->x_text;
        for (int64_t row = first; row < first + rows; row++, y += size) {
            if (norms->half)
                widened(x, row, size, 1, y);
            const float by =
                norm(norms->half ? y : x + row * size, size, norms->eps, norms->centred, y);
            if (norms->same) {
                const int64_t at = a->starts[text] + row - first, wide = up_to(size, FULL);
                uint16_t *same = norms->same->x + at * wide;
                memcpy(same, (const uint16_t *)x + row * size, size * sizeof(uint16_t));
                memset(same + size, 0, (wide - size) * sizeof(uint16_t));
                norms->same->by[at] = by;
            }
        }
    }
}

static int64_t parts_of(const OneToken *a, int64_t each, int64_t threads)
{
    const int64_t worth = a->starts[a->batch] * each / WORTH;
    /* Texts are of all lengths: more parts than threads, for whoever is done first. */
    return least(a->batch, worth < threads ? worth : 4 * threads);
}

EXPORT void normed(const float *x, int64_t x_text, const OneToken *of, float eps, int centred,
                   float *y, int64_t threads)
{
    const Norms work = {x, x_text, NULL, 0, of, y, eps, centred, NULL};
    share(some_norms, &work, parts_of(of, 8 * of->size, threads), threads);
}

void normed_texts(const void *const *texts, int half, const OneToken *of, float eps, float *y,
                  const States *same, int64_t threads)
{
    const Norms work = {NULL, 0, texts, half, of, y, eps, 0, same};
    if (same) {
        const int64_t wide = up_to(same->size, FULL), more = up_to(same->n, FULL) - same->n;
        memset(same->x + same->n * wide, 0, more * wide * sizeof(uint16_t));
    }
    share(some_norms, &work, parts_of(of, 8 * of->size, threads), threads);
}

/* For each head its share of each token, (heads, tokens) text by text, and the mean of states by these,
 * (batch, heads, size); or with these and what is wanted of the means, what of queries and keys. */
typedef struct {
    const OneToken *of;
    float *shares, *means;
    const float *wanted;
    float *of_queries, *of_keys;
    atomic_int *failed;
} Means;

/* A text's keys of one head, turned, and the queries that share it, times the scale. */
TARGET static void turn(const OneToken *a, int64_t text, int64_t kv_head, float *keys,
                        float *queries)
{
    const int64_t begin = a->starts[text], n = a->starts[text + 1] - begin, dim = a->dim;
    const int64_t shared = a->heads / a->kv_heads, p = a->position[text] * dim;
    for (int64_t t = 0; t < n; t++) {
        const int64_t at = (a->first[text] + t) * dim;
        turned(a->keys + ((begin + t) * a->kv_heads + kv_head) * dim, dim,
               a->cos ? a->cos + at : NULL, a->sin ? a->sin + at : NULL, 1, keys + t * dim, 0);
    }
    for (int64_t h = 0; h < shared; h++)
        turned(a->queries + (text * a->heads + kv_head * shared + h) * dim, dim,
               a->cos ? a->cos + p : NULL, a->sin ? a->sin + p : NULL, a->scale,
               queries + h * dim, 0);
}

/* Scores of n tokens -> shares. */
TARGET static void soften(float *scores, int64_t n)
{
    const __m512 by = _mm512_set1_ps(softened(scores, 0, n, 0, n));
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 some = lanes(n - i);
        __m512 e = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, scores + i), by);
        _mm512_mask_storeu_ps(scores + i, some, e);
    }
}

/* What is wanted of shares -> what is wanted of scores. */
TARGET static void softened_back(const float *share, float *wanted, int64_t n)
{
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 some = lanes(n - i);
        sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(some, share + i),
                              _mm512_maskz_loadu_ps(some, wanted + i), sum);
    }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum));
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 some = lanes(n - i);
        __m512 v = _mm512_sub_ps(_mm512_maskz_loadu_ps(some, wanted + i), mean);
        v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(some, share + i));
        _mm512_mask_storeu_ps(wanted + i, some, v);
    }
}

/* What is wanted of a text's keys of one head, turned back; by queries and wanted scores. */
TARGET static void back_to_keys(const OneToken *a, int64_t text, int64_t kv_head,
                                const float *scores, const float *queries, float *of_keys)
{
    const int64_t begin = a->starts[text], n = a->starts[text + 1] - begin, dim = a->dim;
    const int64_t shared = a->heads / a->kv_heads;
    for (int64_t t = 0; t < n; t++) {
        float *to = of_keys + ((begin + t) * a->kv_heads + kv_head) * dim;
        for (int64_t i = 0; i < dim; i += 16) {
            const __mmask16 some = lanes(dim - i);
            __m512 sum = _mm512_setzero_ps();
            for (int64_t h = 0; h < shared; h++)
                sum = _mm512_fmadd_ps(_mm512_set1_ps(scores[h * n + t]),
                                      _mm512_maskz_loadu_ps(some, queries + h * dim + i), sum);
            _mm512_mask_storeu_ps(to + i, some, sum);
        }
        const int64_t at = (a->first[text] + t) * dim;
        turned(to, dim, a->cos ? a->cos + at : NULL, a->sin ? a->sin + at : NULL, 1, to, 1);
    }
}

TARGET static void some_means(const void *work, int64_t part, int64_t parts)
{
    const Means *m = work;
    const OneToken *a = m->of;
    const int64_t dim = a->dim, size = a->size, shared = a->heads / a->kv_heads;
    const int64_t end = a->batch * (part + 1) / parts;
    int64_t most = 0;
    for (int64_t text = 0; text < a->batch; text++)
        if (a->starts[text + 1] - a->starts[text] > most)
            most = a->starts[text + 1] - a->starts[text];
    const int64_t numbers = (most + 2 * shared) * dim + a->heads * most;
    float *keys = aligned_alloc(64, up_to(sizeof(float) * numbers + 1, 64));
    if (!keys) {
        atomic_store(m->failed, 1);
        return;
    }
    float *queries = keys + most * dim, *of_queries = queries + shared * dim;
    float *wanted = of_queries + shared * dim;
    for (int64_t text = a->batch * part / parts; text < end; text++) {
        const int64_t begin = a->starts[text], n = a->starts[text + 1] - begin;
        const float *states = a->states + begin * size;
        float *shares = m->shares + begin * a->heads;
        if (n == 0) { /* what is seen of nothing is no number */
            for (int64_t i = 0; !m->wanted && i < a->heads * size; i++)
                m->means[text * a->heads * size + i] = __builtin_nanf("");
            for (int64_t i = 0; m->wanted && i < a->heads * dim; i++)
                m->of_queries[text * a->heads * dim + i] = 0;
            continue;
        }
        if (m->wanted) {
            dots(m->wanted + text * a->heads * size, size, a->heads, states, size, n, size, wanted,
                 n);
            for (int64_t h = 0; h < a->heads; h++)
                softened_back(shares + h * n, wanted + h * n, n);
        }
        for (int64_t kv_head = 0; kv_head < a->kv_heads; kv_head++) {
            turn(a, text, kv_head, keys, queries);
            if (!m->wanted) {
                float *scores = shares + kv_head * shared * n;
                dots(queries, dim, shared, keys, dim, n, dim, scores, n);
                for (int64_t h = 0; h < shared; h++)
                    soften(scores + h * n, n);
                continue;
            }
            const float *scores = wanted + kv_head * shared * n;
            sums(scores, n, shared, keys, dim, n, dim, of_queries, dim);
            const int64_t p = a->position[text] * dim;
            for (int64_t h = 0; h < shared; h++)
                turned(of_queries + h * dim, dim, a->cos ? a->cos + p : NULL,
                       a->sin ? a->sin + p : NULL, a->scale,
                       m->of_queries + (text * a->heads + kv_head * shared + h) * dim, 1);
            back_to_keys(a, text, kv_head, scores, queries, m->of_keys);
        }
        if (!m->wanted)
            sums(shares, n, a->heads, states, size, n, size, m->means + text * a->heads * size,
                 size);
    }
    free(keys);
}

/* Whether there was memory for it. */
EXPORT int attend_from(const OneToken *of, float *shares, float *means, int64_t threads)
{
    atomic_int failed = 0;
    const Means work = {of, shares, means, NULL, NULL, NULL, &failed};
    share(some_means, &work, parts_of(of, of->heads * of->size, threads), threads);
    return !atomic_load(&failed);
}

/* What of queries and of keys, for what is wanted of the means. */
EXPORT int attend_from_back(const OneToken *of, float *shares, const float *wanted,
                            float *of_queries, float *of_keys, int64_t threads)
{
    atomic_int failed = 0;
    const Means work = {of, shares, NULL, wanted, of_queries, of_keys, &failed};
    share(some_means, &work, parts_of(of, of->heads * of->size, threads), threads);
    return !atomic_load(&failed);
}

#endif
