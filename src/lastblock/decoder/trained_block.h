/* A trained block of the Llama kind, asked for one token of each text; see trained_block.c. */
#ifndef LASTBLOCK_TRAINED_BLOCK_H
#define LASTBLOCK_TRAINED_BLOCK_H

#include "few_rows.h"

#ifdef CAN_BUILD

typedef struct {
    OneToken seen;                                   /* queries, keys and states are ``queries``, ... */
    const void *const *texts;                        /* of each its states, (its length, size) */
    const float *attn_norm, *qkv, *out, *mlp_norm, *into, *down; /* weights */
    int64_t length, inner;                           /* of the longest text, of the MLP */
    int32_t activation, gated, half;                 /* ``half``: states are bfloat16, not float32 */
    int32_t tiled;                                   /* keys of such states go through matrix tiles */
    float attn_eps, mlp_eps;
    /* What comes about on the way: a row each text, or each of the n tokens that are seen. */
    float *here, *here_by, *asked;                   /* the token's states, normed: (batch, size) */
    float *queries;                                  /* (batch, heads * dim) */
    float *plain, *keys;                             /* (n, size), without factors; (n, kv_heads * dim) */
    float *shares;                                   /* (n, heads) */
    float *means, *scaled;                           /* (batch, heads, size), without factors and with */
    float *values;                                   /* (batch, heads * dim) */
    float *middle, *middle_by, *read;                /* after attention, normed: (batch, size) */
    float *opened, *closed;                          /* (batch, inner or twice that), (batch, inner) */
    float *y;                                        /* (batch, size) */
    uint16_t *states; /* where ``tiled``: what ``plain`` was, filled up as keys.h has it, */
    float *plain_by;  /* and what its rows were multiplied by */
} Block;

typedef struct {
    const float *y;                                  /* what is wanted, (batch, size) */
    float *closed, *opened, *middle, *values, *queries; /* of what comes about, as that */
    float *key_weight;                               /* (kv_heads * dim, size) */
    float *attn_norm, *mlp_norm;                     /* (size,) */
} Wanted;

EXPORT int block_at(Block *b, int64_t threads);
EXPORT int block_at_back(const Block *b, const Wanted *of, int64_t threads);

/* x (n, in) times the transpose of a weight (out, in); or where ``back``, x (n, out) times the weight. */
static inline void times(const float *x, int64_t n, const float *weight, int64_t in, int64_t out,
                         float *y, int back, int64_t threads)
{
    const Product work = {x, weight, y, n, in, out, back ? out : in, back ? in : out, 1, 0, 0, 1};
    multiply(&work, back, threads);
}

#endif
#endif
