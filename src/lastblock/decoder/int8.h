/* Products of 8-bit integers; see int8.c. */
#ifndef LASTBLOCK_INT8_H
#define LASTBLOCK_INT8_H

#include "kernels.h"

#ifdef CAN_BUILD

/* Rows whose integers are kept together, so that they and a panel of the weight stay in cache. */
enum { CHUNK = 192 };

/* A layer's weight and what it is given with; see ``Packed`` in kernels.py. */
typedef struct {
    const int8_t *panels;  /* some columns after the others, as ``Packed`` lays them out */
    const int32_t *begin;  /* without tiles: what takes ZERO's part away from each column's sum */
    const float *scale, *bias, *factor;
    float eps;
    int32_t activation, gated, tiled;
    int64_t in, out; /* ``out``: columns of the result */
} Layer;

EXPORT int linear(const float *x, int64_t n, const Layer *layer, const float *added, float *y,
                  int64_t threads);
EXPORT int chain(const float *x, int64_t n, const Layer *into, const Layer *from,
                 const float *added, float *y, int64_t threads);

#endif
#endif
