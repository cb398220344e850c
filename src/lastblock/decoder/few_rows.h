/* What is computed of few rows, or from one token of each text, in float32; see few_rows.c. */
#ifndef LASTBLOCK_FEW_ROWS_H
#define LASTBLOCK_FEW_ROWS_H

#include "keys.h"

#ifdef CAN_BUILD

/* So many products: x (n, in) and y (n, out), rows some numbers apart and each product's further on; the
 * weight (out, in), in one piece, which some products in a row share before the next one's. */
typedef struct {
    const float *x, *weight;
    float *y;
    int64_t n, in, out, x_row, y_row, count, x_next, y_next, shared;
} Product;

/* Of each text the tokens ``first`` to ``first + starts[text + 1] - starts[text]`` are seen, whose keys
 * and states stand text by text; see few_rows.py. */
typedef struct {
    const float *queries, *keys, *states; /* (batch, heads, dim), (n, kv_heads, dim), (n, size) */
    const int64_t *starts, *first, *position;
    const float *cos, *sin; /* (length, dim), or none */
    int64_t batch, heads, kv_heads, dim, size;
    float scale;
} OneToken;

/* A part of a gradient: errors (n, out)^T times inputs (n, in), so many times, each further on. */
typedef struct {
    const float *errors, *inputs;
    int64_t n, errors_row, inputs_row, count, errors_next, inputs_next;
} Factors;

/* A weight (out, in), its moments, and its gradient: what is written down of it (out, in), if anything
 * is, and so many products. */
typedef struct {
    float *weight, *mean, *square;
    const float *gradient;
    const Factors *factors;
    int64_t count, in, out;
    /* What a step leaves of a weight; what it takes of the gradient and of its square; the step, as
     * large as the mean is to be multiplied by; what the root is to be multiplied by; and epsilon. */
    float kept, of_gradient, of_square, step, of_root, eps;
} Step;

/* A row of ``size`` numbers, of float32 or, where ``half``, of bfloat16. */
INLINE void widened(const void *x, int64_t row, int64_t size, int half, float *y)
{
    if (!half) {
        memcpy(y, (const float *)x + row * size, size * sizeof(float));
        return;
    }
    const uint16_t *from = (const uint16_t *)x + row * size;
    for (int64_t i = 0; i < size; i += 16) {
        const __m256i v = _mm256_maskz_loadu_epi16(lanes(size - i), from + i);
        const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16);
        _mm512_mask_storeu_ps(y + i, lanes(size - i), _mm512_castsi512_ps(wide));
    }
}

EXPORT void multiply(const Product *given, int back, int64_t threads);
EXPORT void rms_norm(const float *x, const float *factor, int64_t n, int64_t size, float eps, float *y,
                     float *by);
EXPORT void rms_norm_back(const float *x, const float *factor, const float *by, const float *wanted,
                          int64_t n, int64_t size, float *of_x, float *of_factor);
EXPORT void activate(const float *x, const float *wanted, int64_t n, int64_t size, int activation,
                     int gated, float *y, int64_t threads);
EXPORT void normed(const float *x, int64_t x_text, const OneToken *of, float eps, int centred, float *y,
                   int64_t threads);
EXPORT void adamw(const Step *given, int64_t count, int64_t threads);
/* The same of texts that lie anywhere, each row by row, in float32 or ``half`` of that: bfloat16. The
 * ``same`` rows as they are, of bfloat16, and what each was multiplied by, are put down too, if wanted. */
__attribute__((visibility("hidden"))) void normed_texts(const void *const *texts, int half,
                                                          const OneToken *of, float eps, float *y,
                                                          const States *same, int64_t threads);
EXPORT int attend_from(const OneToken *of, float *shares, float *means, int64_t threads);
EXPORT int attend_from_back(const OneToken *of, float *shares, const float *wanted, float *of_queries,
                            float *of_keys, int64_t threads);

#endif
#endif
