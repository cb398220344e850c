/* A training step of a trained block of the Llama kind, the norm above it and a head, for one token of each
 * text: its logits, their loss, and from what is wanted of them a step of AdamW.
 *
 * ``trained_tail.py`` calls these and says what they are given. They are the calls that torch would make
 * one by one, in three goes: what lies between calls is a quarter of a step.
 */
#include <math.h>

#include "trained_block.h"

#ifdef CAN_BUILD

typedef struct {
    float *weight, *mean, *square;
    float kept, of_gradient, of_square, step, of_root, eps; /* as a Step has them */
} Moved;

enum { ATTN_NORM, QKV, OUT, MLP_NORM, INTO, DOWN, NORM, HEAD, BIAS, MOVED };

typedef struct {
    Block block;
    Wanted of; /* of the block */
    float norm_eps;
    int64_t classes;
    float *state, *state_by, *logits; /* normed: (batch, size), (batch,); (batch, classes) */
    const float *of_logits;           /* what is wanted of them */
    float *of_state, *of_norm, *of_bias;
    Moved moved[MOVED]; /* in the order above */
} Tail;

/* How much memory, in numbers, all that comes about takes; where there is ``room``, it is put there. */
EXPORT int64_t tail_room(Tail *t, float *room)
{
    Block *b = &t->block;
    Wanted *of = &t->of;
    const OneToken *a = &b->seen;
    const int64_t n = a->starts[a->batch], rows = a->batch * a->size, wide = a->heads * a->dim;
    const int64_t kv_wide = a->kv_heads * a->dim, opened = b->gated ? 2 * b->inner : b->inner;
    const int64_t halves = b->tiled ? up_to(n, FULL) * up_to(a->size, FULL) / 2 : 0;
    const struct {
        float **which;
        int64_t numbers;
    } each[] = {
        {&b->here, rows}, {&b->here_by, a->batch}, {&b->asked, rows},
        {&b->queries, a->batch * wide}, {&b->plain, n * a->size}, {&b->keys, n * kv_wide},
        {&b->shares, n * a->heads}, {&b->means, a->heads * rows}, {&b->scaled, a->heads * rows},
        {&b->values, a->batch * wide}, {&b->middle, rows}, {&b->middle_by, a->batch},
        {&b->read, rows}, {&b->opened, a->batch * opened}, {&b->closed, a->batch * b->inner},
        {&b->y, rows},
        {&t->state, rows}, {&t->state_by, a->batch}, {&t->logits, a->batch * t->classes},
        {&t->of_state, rows}, {&t->of_norm, a->size}, {&t->of_bias, t->classes},
        {(float **)&of->y, rows}, {&of->closed, a->batch * b->inner},
        {&of->opened, a->batch * opened}, {&of->middle, rows}, {&of->values, a->batch * wide},
        {&of->queries, a->batch * wide}, {&of->key_weight, kv_wide * a->size},
        {&of->attn_norm, a->size}, {&of->mlp_norm, a->size},
        {(float **)&b->states, halves}, {&b->plain_by, b->tiled ? n : 0},
    };
    int64_t taken = 0;
    for (size_t i = 0; i < sizeof(each) / sizeof(*each); i++) {
        if (room)
            *each[i].which = room + taken;
        taken += up_to(each[i].numbers, 16);
    }
    return taken;
}

/* Fills in the logits, and what comes about on the way. As ``block_at`` says whether that went well. */
EXPORT int tail_logits(Tail *t, int64_t threads)
{
    Block *b = &t->block;
    const int64_t batch = b->seen.batch, size = b->seen.size;
    const float *bias = t->moved[BIAS].weight;
    b->attn_norm = t->moved[ATTN_NORM].weight;
    b->qkv = t->moved[QKV].weight;
    b->out = t->moved[OUT].weight;
    b->mlp_norm = t->moved[MLP_NORM].weight;
    b->into = t->moved[INTO].weight;
    b->down = t->moved[DOWN].weight;
    const int done = block_at(b, threads);
    if (done < 1)
        return done;
    rms_norm(b->y, t->moved[NORM].weight, batch, size, t->norm_eps, t->state, t->state_by);
    times(t->state, batch, t->moved[HEAD].weight, size, t->classes, t->logits, 0, threads);
    for (int64_t i = 0; i < batch * t->classes; i++)
        t->logits[i] += bias[i % t->classes];
    return 1;
}

/* The loss of a text's logits, each times its weight, and the slope of ``share`` times that: softmax
 * cross-entropy of the one label that it has. */
static double of_one_label(const float *z, int64_t classes, int64_t label, double weight, double share,
                           float *slope)
{
    double most = z[0], total = 0;
    for (int64_t i = 1; i < classes; i++)
        if (z[i] > most)
            most = z[i];
    for (int64_t i = 0; i < classes; i++)
        total += exp(z[i] - most);
    for (int64_t i = 0; i < classes; i++)
        slope[i] = (float)(share * weight * (exp(z[i] - most) / total - (i == label)));
    return weight * (log(total) + most - z[label]);
}

/* The same of one of several labels, which it has or not: binary cross-entropy. */
static double of_an_answer(double z, int has, double weight, double share, float *slope)
{
    const double small = exp(-fabs(z)), likely = (z > 0 ? 1 : small) / (1 + small);
    *slope = (float)(share * weight * (likely - has));
    return weight * (log1p(small) + (z > 0 ? z : 0) - z * has);
}

/* Mean cross-entropy (nats) of logits (n, classes), and its slope by each of them. Texts have a label
 * each, or, where there is ``has``, any of several, (n, classes); weights are (n, wide), wide 1 or
 * ``classes``, or none. Whether there is such a label. */
EXPORT int cross_entropy(const float *logits, int64_t n, int64_t classes, const int64_t *labels,
                         const uint8_t *has, const double *weights, int64_t wide, double *loss,
                         float *slope)
{
    const double share = 1.0 / (double)(has ? n * classes : n);
    double sum = 0;
    for (int64_t text = 0; text < n; text++) {
        const int64_t at = text * classes;
        if (!has) {
            if (labels[text] < 0 || labels[text] >= classes)
                return 0;
            sum += of_one_label(logits + at, classes, labels[text], weights ? weights[text] : 1, share,
                                slope + at);
            continue;
        }
        for (int64_t i = 0; i < classes; i++) {
            const double weight = weights ? weights[text * wide + (wide > 1 ? i : 0)] : 1;
            sum += of_an_answer(logits[at + i], has[at + i], weight, share, slope + at + i);
        }
    }
    *loss = share * sum;
    return 1;
}

/* So many rows of a weight from ``first`` on. */
static Step step_of(const Moved *m, int64_t first, int64_t in, int64_t out, const float *gradient,
                    const Factors *factors)
{
    const int64_t at = first * in;
    return (Step){m->weight + at, m->mean + at, m->square + at, gradient, factors, factors != NULL,
                  in, out, m->kept, m->of_gradient, m->of_square, m->step, m->of_root, m->eps};
}

/* Takes the step, down what is wanted of the logits. Whether there was memory for it. */
EXPORT int tail_step(Tail *t, int64_t threads)
{
    Block *b = &t->block;
    Wanted *of = &t->of;
    const OneToken *a = &b->seen;
    const Moved *m = t->moved;
    const int64_t batch = a->batch, size = a->size, dim = a->dim, classes = t->classes;
    const int64_t wide = a->heads * dim, kv_wide = a->kv_heads * dim, shared = a->heads / a->kv_heads;
    const int64_t opened = b->gated ? 2 * b->inner : b->inner;
    Step *steps = malloc((MOVED + 1 + a->kv_heads) * (sizeof(Step) + sizeof(Factors)));
    if (!steps)
        return 0;
    Factors *factors = (Factors *)(steps + MOVED + 1 + a->kv_heads);

    memset(t->of_bias, 0, classes * sizeof(float));
    for (int64_t i = 0; i < batch * classes; i++)
        t->of_bias[i % classes] += t->of_logits[i];
    times(t->of_logits, batch, m[HEAD].weight, size, classes, t->of_state, 1, threads);
    rms_norm_back(b->y, m[NORM].weight, t->state_by, t->of_state, batch, size, (float *)of->y,
                  t->of_norm);
    if (!block_at_back(b, of, threads)) {
        free(steps);
        return 0;
    }

    const struct {
        int which;
        int64_t in, out;
        const float *errors, *inputs;
    } products[] = {
        {QKV, size, wide, of->queries, b->asked}, {OUT, wide, size, of->middle, b->values},
        {INTO, size, opened, of->opened, b->read}, {DOWN, b->inner, size, of->y, b->closed},
        {HEAD, size, classes, t->of_logits, t->state},
    };
    const struct {
        int which;
        int64_t first, in, out;
        const float *gradient;
    } written[] = {
        {QKV, wide, size, kv_wide, of->key_weight}, {ATTN_NORM, 0, size, 1, of->attn_norm},
        {MLP_NORM, 0, size, 1, of->mlp_norm}, {NORM, 0, size, 1, t->of_norm},
        {BIAS, 0, classes, 1, t->of_bias},
    };
    int64_t count = 0;
    for (size_t i = 0; i < sizeof(products) / sizeof(*products); i++) {
        const int64_t in = products[i].in, out = products[i].out;
        factors[count] = (Factors){products[i].errors, products[i].inputs, batch, out, in, 1, 0, 0};
        steps[count] = step_of(m + products[i].which, 0, in, out, NULL, factors + count);
        count++;
    }
    for (int64_t head = 0; head < a->kv_heads; head++) {
        factors[count] = (Factors){of->values + head * shared * dim, b->scaled + head * shared * size,
                                   batch, wide, a->heads * size, shared, dim, size};
        steps[count] = step_of(m + QKV, wide + kv_wide + head * dim, size, dim, NULL, factors + count);
        count++;
    }
    for (size_t i = 0; i < sizeof(written) / sizeof(*written); i++)
        steps[count++] = step_of(m + written[i].which, written[i].first, written[i].in,
                                 written[i].out, written[i].gradient, NULL);
    adamw(steps, count, threads);
    free(steps);
    return 1;
}

#endif
