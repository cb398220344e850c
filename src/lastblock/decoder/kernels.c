/* Attention, and frozen blocks as a whole, of it and of int8.c's products; the threads that all kernels
 * borrow. For processors with AVX-512 and VNNI: others, and other compilers, get a library in which
 * ``version`` is 0.
 *
 * ``kernels.py`` calls these through ctypes and says what each is given; what they compute is what
 * ``layers.Block`` computes with torch, to float32 rounding.
 *
 * Built when the package is installed, if there is a C compiler. Knows no Python and no torch: takes
 * plain addresses, allocates what it needs, and borrows threads.
 */
#include "int8.h"

#ifdef CAN_BUILD

#include <cpuid.h>

/* Rows of a product within attention: with two columns of lanes, 12 sums, which stay in registers. */
enum { ROWS = 6 };
/* Keys that scores are computed for at a time: the columns of a strip. */
enum { KEYS = 32 };

/* Of what these functions are given, as kernels.py has it too; 0 if this processor cannot run them. */
EXPORT int version(void)
{
    __builtin_cpu_init();
    const int can = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vnni");
    return can ? 13 : 0;
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
