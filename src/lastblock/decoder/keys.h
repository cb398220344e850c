/* Keys of frozen states in bfloat16, through matrix tiles; see keys.c. */
#ifndef LASTBLOCK_KEYS_H
#define LASTBLOCK_KEYS_H

#include "kernels.h"

#ifdef CAN_BUILD

/* Rows and columns of states are filled up with nought to multiples of this. */
enum { FULL = 32 };

/* States (n, size), filled up, and what a row is to be multiplied by. */
typedef struct {
    uint16_t *x; /* bfloat16 */
    float *by;
    int64_t n, size;
} States;

/* keys (n, out): states times the transpose of a weight (out, size), whose columns are multiplied by
 * ``factor`` (size,) first. Whether there was memory for it. */
__attribute__((visibility("hidden"))) int keys_of(const States *states, const float *weight,
                                                    const float *factor, int64_t out, float *keys,
                                                    int64_t threads);
/* The gradient of such a weight, but for its factors, (out, size), for that of the keys, (n, out). */
__attribute__((visibility("hidden"))) int keys_back(const States *states, const float *of_keys,
                                                      int64_t out, float *of_weight, int64_t threads);

#endif
#endif
