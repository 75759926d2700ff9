/* What the loops over chunks ask of the machine: words in either byte order, memory ahead of them. */

#ifndef KMEMLEAK_HEAP_H
#define KMEMLEAK_HEAP_H

#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__)
#error "GCC or clang is needed"
#endif

static inline uint64_t kmemleak_load(const uint8_t *p, int word, int swapped) {
    if (word == 8) {
        uint64_t wide;
        memcpy(&wide, p, 8);
        return swapped ? __builtin_bswap64(wide) : wide;
    }
    uint32_t narrow;
    memcpy(&narrow, p, 4);
    return swapped ? __builtin_bswap32(narrow) : narrow;
}

static inline void kmemleak_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }

#endif
