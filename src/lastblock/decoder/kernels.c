/* Products of 8-bit integers and attention, in which a frozen block spends its time, for processors
 * with AVX-512 and VNNI.
 *
 * ``kernels.py`` calls these through ctypes and says what each is given; what they compute is what
 * ``precision.Int8Linear`` and ``layers.Attention`` compute with torch, to float32 rounding. Other
 * processors and compilers get a library in which ``version`` is 0.
 *
 * Built when the package is installed, if there is a C compiler. Knows no Python and no torch: takes
 * plain addresses, allocates what it needs, and borrows threads.
 */
#include "kernels.h"

#ifdef CAN_BUILD

#include <cpuid.h>

/* A product's tile is so many rows of so many columns: 24 sums, which stay in registers. */
enum { ROWS = 6, COLUMNS = 64 };
/* Rows whose integers are kept together, so that they and a panel of the weight stay in cache. */
enum { CHUNK = 192 };
/* Keys that scores are computed for at a time: the columns of a strip. */
enum { KEYS = 32 };
/* What stands for zero among the unsigned integers. */
enum { ZERO = 128 };

/* Of what these functions are given, as kernels.py has it too; 0 if this processor cannot run them. */
EXPORT int version(void)
{
    __builtin_cpu_init();
    const int can = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vnni");
    return can ? 9 : 0;
}

/* An activation's value, or x itself. */
INLINE __m512 activated(__m512 x, const int activation)
{
    if (activation == NO_ACTIVATION)
        return x;
    __m512 e = exponential(_mm512_sub_ps(_mm512_setzero_ps(), within(x, activation)));
    return _mm512_div_ps(x, _mm512_add_ps(e, _mm512_set1_ps(1.0f)));
}

/* Whether this is AMD's Zen 5 or later, which takes 512 bits at a time. MKL, that torch multiplies with,
 * takes 256 on all of AMD's, so that products of float32 are faster here however many rows there are. */
EXPORT int has_faster_products(void)
{
    unsigned int eax, ebx, ecx, edx;
    if (!__get_cpuid(0, &eax, &ebx, &ecx, &edx) || ebx != signature_AMD_ebx)
        return 0;
    __get_cpuid(1, &eax, &ebx, &ecx, &edx);
    return (eax >> 8 & 0xf) + (eax >> 20 & 0xff) >= 0x1a;
}

/* ------------------------------------------------------------------------------ threads */

/* OpenMP's way into its threads, of the library that torch has loaded: threads of our own would be
 * in the way of torch's, which go on looking for work for a while after each of its operations. */
typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
static Parallel parallel;

EXPORT void use_threads_of(Parallel given)
{
    parallel = given;
}

typedef struct {
    Part part;
    const void *work;
    int64_t parts;
    atomic_llong next;
} Shared;

static void take_parts(void *given)
{
    Shared *shared = given;
    int64_t part;
    while ((part = atomic_fetch_add(&shared->next, 1)) < shared->parts)
        shared->part(shared->work, part, shared->parts);
}

void share(Part part, const void *work, int64_t parts, int64_t threads)
{
    Shared shared = {part, work, parts > 1 ? parts : 1, 0};
    if (shared.parts > 1 && threads > 1 && parallel)
        parallel(take_parts, &shared, (unsigned)threads, 0);
    else
        take_parts(&shared);
}

/* ---------------------------------------------------------------- products of 8-bit integers */

/* A row of inputs as integers, and the unit that they count. */
TARGET static float rounded(const float *x, const float *factor, float eps, int64_t size,
                            uint8_t *whole)
{
    __m512 largest = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < size; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(lanes(size - i), x + i);
        squares = _mm512_fmadd_ps(v, v, squares);
        if (factor)
            v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(lanes(size - i), factor + i));
        largest = _mm512_max_ps(largest, _mm512_abs_ps(v));
    }
    float most = _mm512_reduce_max_ps(largest), sum = _mm512_reduce_add_ps(squares);
    float unit = (most > 1e-30f ? most : 1e-30f) / 127;
    const __m512 by = _mm512_set1_ps(1 / unit);
    for (int64_t i = 0; i < size; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(lanes(size - i), x + i);
        if (factor)
            v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(lanes(size - i), factor + i));
        __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(v, by));
        n = _mm512_add_epi32(n, _mm512_set1_epi32(ZERO));
        _mm_storeu_si128((__m128i *)(whole + i), _mm512_cvtepi32_epi8(n));
    }
    unit += 0 * sum; /* what is no number has no integer: it must not look like one */
    return eps < 0 ? unit : unit / __builtin_sqrtf(sum / size + eps);
}

/* A layer's weight and what it is given with; see ``Packed`` in kernels.py. */
typedef struct {
    const int8_t *panels;  /* each panel's COLUMNS columns, four of their integers together */
    const int32_t *zeros;  /* what ZERO adds to each column's sum */
    const float *scale, *bias, *factor;
    float eps;
    int32_t activation, gated;
    int64_t in, out; /* ``out``: columns of the result */
} Layer;

/* Written out, as compilers keep sums in arrays, or those of intrinsics, in memory. */
#define MULTIPLY(sum, x, weight) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(weight))

INLINE __m512 scaled(__m512i sum, const Layer *layer, int64_t column, __m512 unit)
{
    __m512i exact = _mm512_sub_epi32(sum, _mm512_loadu_si512(layer->zeros + column));
    __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(layer->scale + column), unit);
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(exact), scale);
    return layer->bias ? _mm512_add_ps(y, _mm512_loadu_ps(layer->bias + column)) : y;
}

INLINE __m512 plus(__m512 y, const float *added, __mmask16 some)
{
    return added ? _mm512_add_ps(y, _mm512_maskz_loadu_ps(some, added)) : y;
}

/* A row's sums of one panel -> what is to be known of it, and what is to be ``added``, or none. */
INLINE void finish(__m512i s0, __m512i s1, __m512i s2, __m512i s3, const Layer *layer,
                   int64_t panel, float unit, const float *added, float *to, const int activation,
                   const int gated)
{
    const __m512 u = _mm512_set1_ps(unit);
    const int64_t column = panel * COLUMNS, wide = gated ? COLUMNS / 2 : COLUMNS;
    int64_t left = layer->out - panel * wide;
    __m512 y0 = activated(scaled(s0, layer, column, u), activation);
    __m512 y1 = activated(scaled(s1, layer, column + 16, u), activation);
    __m512 y2 = scaled(s2, layer, column + 32, u), y3 = scaled(s3, layer, column + 48, u);
#define FINAL(y, lane)                                                                            \
    _mm512_mask_storeu_ps(to + lane, lanes(left - lane),                                          \
                          plus(y, added ? added + lane : NULL, lanes(left - lane)));
    if (gated) {
        FINAL(_mm512_mul_ps(y0, y2), 0)
        FINAL(_mm512_mul_ps(y1, y3), 16)
        return;
    }
    FINAL(y0, 0)
    FINAL(y1, 16)
    FINAL(activated(y2, activation), 32)
    FINAL(activated(y3, activation), 48)
#undef FINAL
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
    __m512i s##r##0 = _mm512_setzero_si512(), s##r##1 = s##r##0, s##r##2 = s##r##0,               \
            s##r##3 = s##r##0;
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

/* A function for each kind of layer, so that what it does at the end of a sum is no question. */
#define TILE(rows, activation, gated)                                                             \
    tile(rows, layer, panel, whole, stride, unit, added, to, next, activation, gated)
#define TILES(name, activation, gated)                                                            \
    TARGET static void name(int64_t rows, const Layer *layer, int64_t panel,                      \
                            const uint8_t *whole, int64_t stride, const float *unit,              \
                            const float *added, float *to, const int8_t *next)                    \
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
TILES(plain, NO_ACTIVATION, 0)
TILES(with_silu, SILU, 0)
TILES(with_gelu, GELU, 0)
TILES(gated_plain, NO_ACTIVATION, 1)
TILES(gated_silu, SILU, 1)
TILES(gated_gelu, GELU, 1)

#undef TILE

typedef void (*Tiles)(int64_t, const Layer *, int64_t, const uint8_t *, int64_t, const float *,
                      const float *, float *, const int8_t *);
static const Tiles TILES_OF[2][3] = {{plain, with_silu, with_gelu},
                                     {gated_plain, gated_silu, gated_gelu}};

typedef struct {
    const float *x;
    const Layer *layer;
    const float *added; /* (n, out), or none */
    float *y;
    int64_t n;
    atomic_int *failed;
} Product;

/* Some of the panels. Each part rounds the inputs for itself: that is less than to wait for it. */
TARGET static void product(const void *work, int64_t part, int64_t parts)
{
    const Product *p = work;
    const Layer *layer = p->layer;
    const Tiles tiles = TILES_OF[layer->gated][layer->activation];
    const int64_t wide = layer->gated ? COLUMNS / 2 : COLUMNS, stride = up_to(layer->in, 16);
    const int64_t most = p->n < CHUNK ? p->n : CHUNK, panels = (layer->out + wide - 1) / wide;
    const int64_t begin = panels * part / parts, end = panels * (part + 1) / parts;
    uint8_t *whole = aligned_alloc(64, up_to(most * stride + 1, 64));
    float unit[CHUNK];
    if (!whole) {
        atomic_store(p->failed, 1);
        return;
    }
    for (int64_t first = 0; first < p->n; first += most) {
        const int64_t here = p->n - first < most ? p->n - first : most;
        for (int64_t r = 0; r < here; r++)
            unit[r] = rounded(p->x + (first + r) * layer->in, layer->factor, layer->eps,
                              layer->in, whole + r * stride);
        for (int64_t panel = begin; panel < end; panel++) {
            const int8_t *next = layer->panels + (panel + 1) * COLUMNS * stride;
            for (int64_t r = 0; r < here; r += ROWS, next += PART(stride)) {
                const int64_t at = (first + r) * layer->out + panel * wide;
                tiles(here - r < ROWS ? here - r : ROWS, layer, panel, whole + r * stride, stride,
                      unit + r, p->added ? p->added + at : NULL, p->y + at, next);
            }
        }
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

/* -------------------------------------------------------------------------------- attention */

/* Sizes and addresses; see ``attend`` in kernels.py. */
typedef struct {
    const float *queries, *keys, *values;        /* of each token ``stride`` numbers further */
    int64_t query_stride, key_stride, value_stride;
    const float *first_keys, *first_values;      /* (before, kv_heads, dim) */
    const float *cos, *sin;                      /* (length, dim), or none */
    int64_t batch, length, before, heads, kv_heads, dim;
    int64_t window, causal;                      /* window: 0 for none */
    /* If tokens are packed, of each text: the row of each of its tokens, (length,); how many it has;
     * how many of them, the first, have rows of earlier texts. ``length`` is the longest's then. */
    const int64_t *path, *lengths, *shared;
    float scale;
    int64_t base; /* the row that stands first; nought, but within this file */
    float *y;            /* these two are filled in here */
    atomic_int *failed;
} Attention;

/* ROWS rows of ``a`` times 32 columns of ``b``, over the terms ``low`` to ``high``. Each row, times its
 * ``by``, goes where ``to`` says, from ``at`` on; of the columns the first so many. */
TARGET static void strip(const float *a, int64_t a_row, const float *b, int64_t b_row, int64_t low,
                         int64_t high, const float *by, float *const *to, int64_t at,
                         int64_t columns)
{
#define EACH(of) of(0) of(1) of(2) of(3) of(4) of(5)
#define BEGIN(r) __m512 s##r##0 = _mm512_setzero_ps(), s##r##1 = s##r##0;
#define STEP(r)                                                                                   \
    {                                                                                             \
        const __m512 one = _mm512_set1_ps(a[r * a_row + i]);                                      \
        s##r##0 = _mm512_fmadd_ps(one, b0, s##r##0);                                              \
        s##r##1 = _mm512_fmadd_ps(one, b1, s##r##1);                                              \
    }
#define FINISH(r)                                                                                 \
    {                                                                                             \
        const __m512 all = _mm512_set1_ps(by[r]);                                                 \
        _mm512_mask_storeu_ps(to[r] + at, lanes(columns), _mm512_mul_ps(s##r##0, all));           \
        _mm512_mask_storeu_ps(to[r] + at + 16, lanes(columns - 16), _mm512_mul_ps(s##r##1, all)); \
    }

    EACH(BEGIN)
    for (int64_t i = low; i < high; i++) {
        const __m512 b0 = _mm512_loadu_ps(b + i * b_row), b1 = _mm512_loadu_ps(b + i * b_row + 16);
        EACH(STEP)
    }
    EACH(FINISH)
#undef EACH
#undef BEGIN
#undef STEP
#undef FINISH
}

/* Where a token of a text stands. */
static int64_t row_of(const Attention *a, int64_t text, int64_t t)
{
    return a->path ? a->path[text * a->length + t] - a->base : text * a->length + t;
}

/* A token's row of the tables, if there are any. */
#define COS(t) (a->cos ? a->cos + (t) * a->dim : NULL)
#define SIN(t) (a->sin ? a->sin + (t) * a->dim : NULL)

/* Some of the texts' key heads. */
TARGET static void attention(const void *work, int64_t part, int64_t parts)
{
    const Attention *a = work;
    const int64_t all = a->batch * a->kv_heads;
    const int64_t begin = all * part / parts, end = all * (part + 1) / parts;
    const int64_t dim = a->dim, wide = up_to(dim, 32), most = a->before + a->length;
    /* An odd number of cache lines apart, or all lines of a column would want the same places. */
    const int64_t width = up_to(most, KEYS) + 16;
    const int64_t shared = a->heads / a->kv_heads;
    float *room = aligned_alloc(64, sizeof(float) * up_to((dim + ROWS) * width + most * wide +
                                                              (ROWS + 1) * dim, 16));
    if (!room) {
        atomic_store(a->failed, 1);
        return;
    }
    float *keys = room, *scores = keys + dim * width, *values = scores + ROWS * width;
    float *queries = values + most * wide, *one = queries + ROWS * dim;
    float ones[ROWS], *of_row[ROWS];
    for (int r = 0; r < ROWS; r++) {
        ones[r] = 1;
        of_row[r] = scores + r * width;
    }
    for (int64_t i = begin; i < end; i++) {
        const int64_t text = i / a->kv_heads, kv_head = i % a->kv_heads;
        const int64_t length = a->path ? a->lengths[text] : a->length, total = a->before + length;
        const int64_t done = a->path ? a->shared[text] : 0, rows = (length - done) * shared;
        for (int64_t j = 0; j < total; j++) {
            const int64_t t = j - a->before;
            const int64_t there = (j * a->kv_heads + kv_head) * dim;
            const float *key = one, *value;
            if (t < 0) {
                key = a->first_keys + there;
                value = a->first_values + there;
            } else {
                const int64_t at = row_of(a, text, t);
                turned(a->keys + at * a->key_stride + kv_head * dim, dim, COS(t), SIN(t), 1, one, 0);
                value = a->values + at * a->value_stride + kv_head * dim;
            }
            for (int64_t d = 0; d < dim; d++)
                keys[d * width + j] = key[d];
            memcpy(values + j * wide, value, dim * sizeof(float));
            memset(values + j * wide + dim, 0, (wide - dim) * sizeof(float));
        }
        /* What happens to lie after them could be numbers too small for float32's usual form, which
         * Intel's processors multiply a hundred times slower. */
        for (int64_t d = 0; d < dim; d++)
            memset(keys + d * width + total, 0, (up_to(total, KEYS) - total) * sizeof(float));
        /* The heads that share a key head stand in one product: a token's, then the next's. */
        for (int64_t first = 0; first < rows; first += ROWS) {
            int64_t from[ROWS], to[ROWS], low = total, high = 0;
            float by[ROWS], *into[ROWS];
            for (int r = 0; r < ROWS; r++) {
                /* Past the end the last row is computed again, into the same place. */
                const int64_t row = first + r < rows ? first + r : rows - 1;
                const int64_t t = done + row / shared, head = kv_head * shared + row % shared;
                const int64_t at = row_of(a, text, t), here = a->before + t;
                from[r] = a->window && here - a->window + 1 > 0 ? here - a->window + 1 : 0;
                to[r] = a->causal ? here + 1 : total;
                if (!a->causal && a->window && here + a->window < total)
                    to[r] = here + a->window;
                low = from[r] < low ? from[r] : low;
                high = to[r] > high ? to[r] : high;
                into[r] = a->y + (at * a->heads + head) * dim;
                turned(a->queries + at * a->query_stride + head * dim, dim, COS(t), SIN(t),
                       a->scale, queries + r * dim, 0);
            }
            for (int64_t j = low / KEYS * KEYS; j < high; j += KEYS)
                strip(queries, dim, keys + j, width, 0, dim, ones, of_row, j, KEYS);
            for (int r = 0; r < ROWS; r++)
                by[r] = softened(of_row[r], low, high, from[r], to[r]);
            for (int64_t column = 0; column < dim; column += 32)
                strip(scores, width, values + column, wide, low, high, by, into, column,
                      dim - column);
        }
    }
    free(room);
}

/* Softmax attention: (batch, length, heads * dim). Whether there was memory for it. */
EXPORT int attend(const Attention *given, float *y, int64_t threads)
{
    atomic_int failed = 0;
    Attention work = *given;
    work.y = y;
    work.failed = &failed;
    const int64_t all = work.batch * work.kv_heads, keys = work.before + work.length;
    const int64_t worth = work.batch * work.length * work.heads * keys * work.dim / WORTH;
    const int64_t most = all < threads ? all : threads;
    share(attention, &work, worth < most ? worth : most, threads);
    return !atomic_load(&failed);
}

/* How many texts are taken up together, so many that threads are busy, and how many rows they have.
 * A text that has rows of earlier ones is taken up with them. */
static int64_t together(const Attention *a, int64_t busy, int64_t *rows)
{
    int64_t texts = 0;
    *rows = 0;
    while (texts < a->batch) {
        const int64_t done = a->path ? a->shared[texts] : 0;
        const int64_t more = (a->path ? a->lengths[texts] : a->length) - done;
        if (texts >= busy && !done && *rows + more > CHUNK)
            break;
        *rows += more;
        texts++;
    }
    return texts;
}

/* Queries, keys and values of x (batch, length, in), or of rows (.., in), attention, and what follows
 * it, plus what is ``added``, or none: y as x. Some texts at a time, so that what is between stays in
 * cache. ``given`` says all but where they are. */
EXPORT int self_attention(const float *x, const Attention *given, const Layer *qkv,
                          const Layer *out, const float *added, float *y, int64_t threads)
{
    Attention a = *given;
    const int64_t wide = a.heads * a.dim, between_each = qkv->out + wide;
    const int64_t busy = (threads + a.kv_heads - 1) / a.kv_heads; /* texts that keep threads busy */
    const int64_t end = a.batch;
    int64_t room = 0, row = 0, here;
    float *between = NULL;
    int done = 1;
    a.query_stride = a.key_stride = a.value_stride = qkv->out;
    for (int64_t first = 0; done && first < end; first += a.batch, row += here) {
        a.batch = end - first;
        if (a.path) {
            a.path = given->path + first * a.length;
            a.lengths = given->lengths + first;
            a.shared = given->shared + first;
        }
        a.batch = together(&a, busy, &here);
        if (here > room) {
            free(between);
            room = here > CHUNK ? here : CHUNK;
            between = aligned_alloc(64, up_to(sizeof(float) * room * between_each, 64));
            if (!between)
                return 0;
        }
        float *attended = between + room * qkv->out;
        a.queries = between;
        a.keys = between + wide;
        a.values = a.keys + a.kv_heads * a.dim;
        a.base = row;
        const int64_t at = row * out->out;
        done = linear(x + row * qkv->in, here, qkv, NULL, between, threads) &&
               attend(&a, attended, threads) &&
               linear(attended, here, out, added ? added + at : NULL, y + at, threads);
    }
    free(between);
    return done;
}

/* A transformer layer of such layers: attention and MLP, each added to what came in. */
typedef struct {
    Attention attention;
    const Layer *qkv, *out, *into, *from;
} Block;

/* n rows x through one block after the other: y as x. ``between``: room for as much. */
EXPORT int run_blocks(const float *x, int64_t n, const Block *blocks, int64_t count, float *between,
                      float *y, int64_t threads)
{
    int done = 1;
    for (const Block *b = blocks; done && b < blocks + count; b++, x = y)
        done = self_attention(x, &b->attention, b->qkv, b->out, x, between, threads) &&
               chain(between, n, b->into, b->from, between, y, threads);
    return done;
}

#else

EXPORT int version(void)
{
    return 0;
}

#endif
