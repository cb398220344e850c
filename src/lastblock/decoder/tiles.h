/* What products through matrix tiles (AMX) have in common. */
#ifndef LASTBLOCK_TILES_H
#define LASTBLOCK_TILES_H

#include "kernels.h"

/* A register holds so many rows of 64 bytes; eight are all there are. Sums are those of two registers'
 * rows and two's columns. */
enum { SIDE = 16, SQUARE = 2 * SIDE };

/* setup.py says NO_TILES where the compiler knows them and its assembler does not. */
#if defined(CAN_BUILD) && !defined(NO_TILES) && defined(__linux__) &&                             \
    (__GNUC__ >= 11 || (defined(__clang__) && __clang_major__ >= 12))
#define CAN_BUILD_TILES 1

#define TILED                                                                                     \
    __attribute__((target(                                                                        \
        "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,prfchw,amx-tile,amx-int8,amx-bf16")))

/* All eight whole, till ``_tile_release``. */
static inline TILED void begin_tiles(void)
{
    static const struct {
        uint8_t palette, start, nothing[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&shape);
}

#endif
#endif
