/* What is computed of few rows, or from one token of each text, in float32; see few_rows.c. */
#ifndef LASTBLOCK_FEW_ROWS_H
#define LASTBLOCK_FEW_ROWS_H

#include "kernels.h"

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

EXPORT void multiply(const Product *given, int back, int64_t threads);
EXPORT void rms_norm(const float *x, const float *factor, int64_t n, int64_t size, float eps, float *y,
                     float *by);
EXPORT void rms_norm_back(const float *x, const float *factor, const float *by, const float *wanted,
                          int64_t n, int64_t size, float *of_x, float *of_factor);
EXPORT void activate(const float *x, const float *wanted, int64_t n, int64_t size, int activation,
                     int gated, float *y, int64_t threads);
EXPORT void normed(const float *x, int64_t x_text, const OneToken *of, float eps, int centred, float *y,
                   int64_t threads);
EXPORT int attend_from(const OneToken *of, float *shares, float *means, int64_t threads);
EXPORT int attend_from_back(const OneToken *of, float *shares, const float *wanted, float *of_queries,
                            float *of_keys, int64_t threads);

#endif
#endif
