/* A trained block of the Llama kind, asked for one token of each text, over states that are frozen: its
 * output there, and what of its weights for what is wanted of that.
 *
 * ``trained_block.py`` calls these and says what they are given. They are the calls of few_rows.c that
 * ``layers.Block`` makes one by one, in one go: what torch takes to go from one to the next is a third
 * of a step.
 */
#include "trained_block.h"

#ifdef CAN_BUILD

/* Means of each head times its value head's weight, or ``back``. */
static void values(const Block *b, const float *x, float *y, int back, int64_t threads)
{
    const OneToken *a = &b->seen;
    const int64_t in = a->size, out = a->dim, x_size = back ? out : in, y_size = back ? in : out;
    const float *weight = b->qkv + (a->heads + a->kv_heads) * a->dim * a->size;
    const Product work = {x, weight, y, a->batch, in, out, a->heads * x_size, a->heads * y_size,
                          a->heads, x_size, y_size, a->heads / a->kv_heads};
    multiply(&work, back, threads);
}

static const float *key_weight(const Block *b)
{
    return b->qkv + b->seen.heads * b->seen.dim * b->seen.size;
}

/* ---------------------------------------------------------------------- what lies between products */

typedef struct {
    const float *x, *factor;
    float *y;
    int64_t rows, columns;
} Turn;

/* y (columns, rows) = x (rows, columns), each column times its factor, if there are any. */
TARGET static void some_turned(const void *work, int64_t part, int64_t parts)
{
    const Turn *t = work;
    const int64_t blocks = (t->columns + 15) / 16, step = t->columns;
    const __m512i along = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        _mm512_set1_epi32((int)step));
    for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; block++) {
        const int64_t end = block * 16 + 16 < t->columns ? block * 16 + 16 : t->columns;
        for (int64_t r = 0; r < t->rows; r += 16) {
            const __mmask16 some = lanes(t->rows - r);
            for (int64_t c = block * 16; c < end; c++) {
                __m512 v = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), some, along,
                                                    t->x + r * step + c, sizeof(float));
                if (t->factor)
                    v = _mm512_mul_ps(v, _mm512_set1_ps(t->factor[c]));
                _mm512_mask_storeu_ps(t->y + c * t->rows + r, some, v);
            }
        }
    }
}

static void turn_round(const float *x, int64_t rows, int64_t columns, const float *factor, float *y,
                       int64_t threads)
{
    const Turn work = {x, factor, y, rows, columns};
    share(some_turned, &work, 16 * rows * columns > WORTH ? threads : 1, threads);
}

typedef struct {
    const float *x, *factor;
    float *y, *of_factor;
    int64_t rows, columns;
} Factored;

/* y (rows, columns) = x, each column times its factor. */
TARGET static void some_factored(const void *work, int64_t part, int64_t parts)
{
    const Factored *f = work;
    const int64_t first = f->rows * part / parts, end = f->rows * (part + 1) / parts;
    for (int64_t at = first * f->columns; at < end * f->columns; at += f->columns) {
        for (int64_t c = 0; c < f->columns; c += 16) {
            const __mmask16 some = lanes(f->columns - c);
            const __m512 v = _mm512_maskz_loadu_ps(some, f->x + at + c);
            _mm512_mask_storeu_ps(f->y + at + c, some,
                                  _mm512_mul_ps(v, _mm512_maskz_loadu_ps(some, f->factor + c)));
        }
    }
}

/* y, what is wanted of that, -> what of x; and to what of the factors it adds. */
TARGET static void some_factored_back(const void *work, int64_t part, int64_t parts)
{
    const Factored *f = work;
    const int64_t blocks = (f->columns + 15) / 16;
    for (int64_t c = blocks * part / parts * 16; c < blocks * (part + 1) / parts * 16; c += 16) {
        const __mmask16 some = lanes(f->columns - c);
        const __m512 factor = _mm512_maskz_loadu_ps(some, f->factor + c);
        __m512 sum = _mm512_maskz_loadu_ps(some, f->of_factor + c);
        for (int64_t at = c; at < f->rows * f->columns; at += f->columns) {
            const __m512 wanted = _mm512_maskz_loadu_ps(some, f->y + at);
            sum = _mm512_fmadd_ps(wanted, _mm512_maskz_loadu_ps(some, f->x + at), sum);
            _mm512_mask_storeu_ps(f->y + at, some, _mm512_mul_ps(wanted, factor));
        }
        _mm512_mask_storeu_ps(f->of_factor + c, some, sum);
    }
}

static void factored(Factored work, int64_t threads)
{
    const Part part = work.of_factor ? some_factored_back : some_factored;
    share(part, &work, 16 * work.rows * work.columns > WORTH ? threads : 1, threads);
}

TARGET static void add(const float *x, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i += 16) {
        const __m512 v = _mm512_maskz_loadu_ps(lanes(n - i), x + i);
        _mm512_mask_storeu_ps(y + i, lanes(n - i),
                              _mm512_add_ps(_mm512_maskz_loadu_ps(lanes(n - i), y + i), v));
    }
}

static float *room_for(int64_t n)
{
    return aligned_alloc(64, up_to(sizeof(float) * n + 1, 64));
}

/* ------------------------------------------------------------------------------ keys of all tokens */

static States states_of(const Block *b)
{
    return (States){b->states, b->plain_by, b->seen.starts[b->seen.batch], b->seen.size};
}

/* Whether there was memory for it. */
static int keys_of_all(const Block *b, int64_t threads)
{
    const OneToken *a = &b->seen;
    const int64_t size = a->size, kv_wide = a->kv_heads * a->dim;
    if (b->tiled) {
        const States states = states_of(b);
        return keys_of(&states, key_weight(b), b->attn_norm, kv_wide, b->keys, threads);
    }
    float *turned = room_for(size * kv_wide);
    if (!turned)
        return 0;
    turn_round(key_weight(b), kv_wide, size, b->attn_norm, turned, threads);
    times(b->plain, a->starts[a->batch], turned, kv_wide, size, b->keys, 1, threads);
    free(turned);
    return 1;
}

/* What is wanted of the keys -> what of their weight, but for its factors. Whether there was memory. */
static int back_to_key_weight(const Block *b, const float *of_keys, float *of_weight, int64_t threads)
{
    const OneToken *a = &b->seen;
    const int64_t n = a->starts[a->batch], size = a->size, kv_wide = a->kv_heads * a->dim;
    if (b->tiled) {
        const States states = states_of(b);
        return keys_back(&states, of_keys, kv_wide, of_weight, threads);
    }
    float *turned = room_for(n * kv_wide);
    if (!turned)
        return 0;
    turn_round(of_keys, n, kv_wide, NULL, turned, threads);
    times(turned, kv_wide, b->plain, size, n, of_weight, 1, threads);
    free(turned);
    return 1;
}

/* ---------------------------------------------------------------------------------- the block */

/* Fills in what comes about. 0 if there was no memory for it, -1 if a text has no such token. */
EXPORT TARGET int block_at(Block *b, int64_t threads)
{
    OneToken *a = &b->seen;
    const int64_t size = a->size, wide = a->heads * a->dim;
    const int64_t opened = b->gated ? 2 * b->inner : b->inner;
    for (int64_t text = 0; text < a->batch; text++) {
        int64_t at = a->position[text];
        at += at < 0 ? b->length : 0; /* from the end, as torch has it */
        if (at < 0 || at >= b->length)
            return -1;
        widened(b->texts[text], at, size, b->half, b->here + text * size);
    }
    rms_norm(b->here, b->attn_norm, a->batch, size, b->attn_eps, b->asked, b->here_by);
    times(b->asked, a->batch, b->qkv, size, wide, b->queries, 0, threads);
    const States same = states_of(b);
    normed_texts(b->texts, b->half, a, b->attn_eps, b->plain, b->tiled ? &same : NULL, threads);
    if (!keys_of_all(b, threads))
        return 0;
    a->queries = b->queries;
    a->keys = b->keys;
    a->states = b->plain;
    if (!attend_from(a, b->shares, b->means, threads))
        return 0;
    factored((Factored){b->means, b->attn_norm, b->scaled, NULL, a->batch * a->heads, size}, threads);
    values(b, b->scaled, b->values, 0, threads);
    times(b->values, a->batch, b->out, wide, size, b->middle, 0, threads);
    add(b->here, a->batch * size, b->middle);
    rms_norm(b->middle, b->mlp_norm, a->batch, size, b->mlp_eps, b->read, b->middle_by);
    times(b->read, a->batch, b->into, size, opened, b->opened, 0, threads);
    activate(b->opened, NULL, a->batch, b->inner, b->activation, b->gated, b->closed, threads);
    times(b->closed, a->batch, b->down, b->inner, size, b->y, 0, threads);
    add(b->middle, a->batch * size, b->y);
    return 1;
}

/* Fills in what is wanted of what came about. Whether there was memory for it. */
EXPORT int block_at_back(const Block *b, const Wanted *of, int64_t threads)
{
    const OneToken *a = &b->seen;
    const int64_t n = a->starts[a->batch], size = a->size, wide = a->heads * a->dim;
    const int64_t kv_wide = a->kv_heads * a->dim, opened = b->gated ? 2 * b->inner : b->inner;
    const int64_t rows = a->batch * size;
    float *room = room_for(2 * rows + size + a->heads * rows + n * kv_wide);
    if (!room)
        return 0;
    float *of_read = room, *of_asked = room, *of_here = room + rows, *of_factor = of_here + rows;
    float *of_means = of_factor + size, *of_keys = of_means + a->heads * rows;

    times(of->y, a->batch, b->down, b->inner, size, of->closed, 1, threads);
    activate(b->opened, of->closed, a->batch, b->inner, b->activation, b->gated, of->opened, threads);
    times(of->opened, a->batch, b->into, size, opened, of_read, 1, threads);
    rms_norm_back(b->middle, b->mlp_norm, b->middle_by, of_read, a->batch, size, of->middle,
                  of->mlp_norm);
    add(of->y, rows, of->middle);

    times(of->middle, a->batch, b->out, wide, size, of->values, 1, threads);
    values(b, of->values, of_means, 1, threads);
    memset(of->attn_norm, 0, size * sizeof(float));
    factored((Factored){b->means, b->attn_norm, of_means, of->attn_norm, a->batch * a->heads, size},
             threads);
    const int done = attend_from_back(a, b->shares, of_means, of->queries, of_keys, threads) &&
                     back_to_key_weight(b, of_keys, of->key_weight, threads);
    factored((Factored){key_weight(b), b->attn_norm, of->key_weight, of->attn_norm, kv_wide, size},
             threads);
    times(of->queries, a->batch, b->qkv, size, wide, of_asked, 1, threads);
    rms_norm_back(b->here, b->attn_norm, b->here_by, of_asked, a->batch, size, of_here, of_factor);
    add(of_factor, size, of->attn_norm);
    free(room);
    return done;
}

#endif
