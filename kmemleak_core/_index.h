/* The rank bitmap: finds the object that holds an address with one cache miss.
 *
 * The address range is cut into granules, of the size to which every object is aligned. A line of
 * 64 bytes describes 128 of them: where objects start, which granules lie wholly inside one, which
 * only in part (no granule is both); and how many objects start before each half of the line. The object of an address
 * is that rank plus the starts up to its granule, less one.
 *
 * A table with an entry for each region of 2 MiB leads to the lines. A region that nobody uses
 * leads to line 0, which is empty; one that a single object covers leads to a line of its own; so
 * a span of terabytes costs what is in it.
 */
#ifndef KMEMLEAK_INDEX_H
#define KMEMLEAK_INDEX_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "_memory.h"

#define KML_NONE 0xFFFFFFFFu
#define KML_ROW_BITS 30
#define KML_ROW_MASK ((1u << KML_ROW_BITS) - 1)
#define KML_INTERIOR (1u << KML_ROW_BITS)
#define KML_REGION_SHIFT 21
#define KML_LINE_SHIFT 6 /* a line is so many granules, as a power of two */
/* Values are resolved so many at a time: their cache misses overlap instead of adding up. */
#define KML_BATCH 1024

typedef struct {
    uint32_t rank; /* objects that start before the line */
    uint64_t start;
    uint64_t full;
    uint64_t partial;
} kml_line;

typedef struct {
    uint32_t line; /* of the region's first granule */
    uint32_t mask; /* applied to a line's number in the region: 0 where one line is all there is */
} kml_region;

typedef struct {
    const uint64_t *starts;
    const uint64_t *sizes;
    size_t count;
    uint64_t base;      /* address of the first region */
    size_t regions;     /* one more entry follows, for whatever lies beyond */
    kml_region *top;
    kml_line *lines;
    size_t line_count;
    unsigned shift;     /* a granule's bytes are 1 << shift */
    int inclusive_end;  /* the address past an object's end is the object's */
    int interior;       /* addresses behind an object's start are the object's */
} kml_ranks;

static inline size_t kml_lines_in_region(const kml_ranks *ranks) {
    return (size_t)1 << (KML_REGION_SHIFT - KML_LINE_SHIFT - ranks->shift);
}

/* The first value after row i that is not the row's, less the base. */
static inline uint64_t kml_limit(const kml_ranks *ranks, size_t i) {
    uint64_t start = ranks->starts[i] - ranks->base, size = ranks->sizes[i];
    return size ? start + size + (unsigned)ranks->inclusive_end : start + 1;
}

/* Lays the regions out: each that an object lies in gets its lines, or shares one. Returns how
 * many lines there are; with no table, only counts them. */
static inline size_t kml_lay_out(kml_ranks *ranks) {
    const size_t block = kml_lines_in_region(ranks);
    size_t lines = 1, known = 0; /* line 0 is empty; regions below `known` are laid out */
    for (size_t i = 0; i < ranks->count; i++) {
        uint64_t limit = kml_limit(ranks, i);
        size_t first = (ranks->starts[i] - ranks->base) >> KML_REGION_SHIFT;
        size_t last = (limit - 1) >> KML_REGION_SHIFT;
        if (last < known) continue;
        if (first >= known) {
            if (ranks->top) ranks->top[first] = (kml_region){(uint32_t)lines, (uint32_t)block - 1};
            lines += block;
            known = first + 1;
        }
        if (last < known) continue;
        /* Regions behind the object's first, all its own but for the last perhaps. */
        uint64_t end = ranks->starts[i] - ranks->base + ranks->sizes[i];
        size_t whole = (size_t)(end >> KML_REGION_SHIFT);
        if (whole > known) {
            if (ranks->top) {
                kml_line *line = &ranks->lines[lines];
                line->rank = (uint32_t)i + 1;
                line->full = UINT64_MAX;
                for (size_t r = known; r < whole; r++)
                    ranks->top[r] = (kml_region){(uint32_t)lines, 0};
            }
            lines += 1;
            known = whole;
        }
        if (last >= known) {
            if (ranks->top) ranks->top[last] = (kml_region){(uint32_t)lines, (uint32_t)block - 1};
            lines += block;
            known = last + 1;
        }
    }
    return lines;
}

static inline kml_line *kml_line_of(const kml_ranks *ranks, uint64_t granule) {
    kml_region region = ranks->top[granule >> (KML_REGION_SHIFT - ranks->shift)];
    return &ranks->lines[region.line + ((uint32_t)(granule >> KML_LINE_SHIFT) & region.mask)];
}

/* The first row, at or after `row`, that shares no line with one before it. */
static inline size_t kml_split(const kml_ranks *ranks, size_t row) {
    const unsigned line_shift = ranks->shift + KML_LINE_SHIFT;
    for (; row > 0 && row < ranks->count; row++) {
        uint64_t start = ranks->starts[row] - ranks->base;
        if ((kml_limit(ranks, row - 1) - 1) >> line_shift < start >> line_shift) break;
    }
    return row;
}

/* Describes rows [first, last) in their lines; parts made by kml_split go in any order. */
static inline void kml_describe(const kml_ranks *ranks, size_t first, size_t last) {
    const unsigned shift = ranks->shift, region_shift = KML_REGION_SHIFT - shift;
    kml_line *line = NULL;
    uint64_t number = UINT64_MAX; /* of that line */
    for (size_t i = first; i < last; i++) {
        const uint64_t start = ranks->starts[i] - ranks->base;
        const uint64_t solid = (start + ranks->sizes[i]) >> shift; /* the first granule not full */
        const uint64_t end = (kml_limit(ranks, i) - 1) >> shift;    /* the last one touched */
        uint64_t granule = start >> shift;
        if (granule >> KML_LINE_SHIFT != number) {
            number = granule >> KML_LINE_SHIFT;
            line = kml_line_of(ranks, granule);
            line->rank = (uint32_t)i;
        }
        line->start |= 1ull << (granule & 63);
        for (;;) {
            const uint64_t next = (granule | 63) + 1; /* the next line's first granule */
            if (solid > granule) {
                const uint64_t run = (solid < next ? solid : next) - granule;
                const uint64_t bits = (UINT64_MAX >> (64 - run)) << (granule & 63);
                line->full |= bits;
                /* Where the object before ends: a value there is this one's. */
                line->partial &= ~bits;
            }
            if (end == solid && solid >= granule && solid < next)
                line->partial |= 1ull << (solid & 63);
            if (end < next) break;
            /* Regions that are the object's alone were described when they were laid out. */
            granule = next;
            while (granule <= end && ranks->top[granule >> region_shift].mask == 0)
                granule += 1ull << region_shift;
            if (granule > end) {
                number = UINT64_MAX;
                break;
            }
            number = granule >> KML_LINE_SHIFT;
            line = kml_line_of(ranks, granule);
            line->rank = (uint32_t)i + 1;
        }
    }
}

static inline uint64_t kml_least(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* The number of bits set, where the processor may have no instruction for it. */
static inline unsigned kml_count_bits(uint64_t bits) {
    bits -= bits >> 1 & 0x5555555555555555ull;
    bits = (bits & 0x3333333333333333ull) + (bits >> 2 & 0x3333333333333333ull);
    return (unsigned)(((bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0Full) * 0x0101010101010101ull >> 56);
}

/* The line of a value, which is asked for: it is read later. */
static inline const kml_line *kml_expect_line(const kml_ranks *ranks, uint64_t value) {
    const uint64_t at = value - ranks->base;
    const kml_region *region = ranks->top + kml_least(at >> KML_REGION_SHIFT, ranks->regions);
    const uint32_t number = (uint32_t)(at >> (ranks->shift + KML_LINE_SHIFT));
    const kml_line *line = ranks->lines + (region->line + (number & region->mask));
    __builtin_prefetch(line, 0, 3);
    return line;
}

/* Turns values into targets, as _index.pyi describes them, but for those that the lines alone do
 * not decide: their positions go to `open`, the row to judge by to `targets`. Returns how many these
 * are. There is at least one value. */
typedef size_t (*kml_resolver)(const kml_ranks *ranks, const uint64_t *values, uint32_t *targets,
                               uint16_t *open, size_t count);

__attribute__((always_inline)) static inline size_t
kml_resolve_with(const kml_ranks *ranks, const uint64_t *values, uint32_t *targets, uint16_t *open,
                 size_t count, unsigned (*count_bits)(uint64_t)) {
    const kml_line *line_of[KML_BATCH];
    const uint64_t base = ranks->base;
    const unsigned shift = ranks->shift;
    const uint64_t within = ((uint64_t)1 << shift) - 1;
    /* What is put to the row: for a granule that is nobody's, one that is full, and, where the row
     * is all there is to tell, for a start and for what is left to judge. */
    const uint32_t kind[4] = {KML_NONE, ranks->interior ? KML_INTERIOR : KML_NONE, 0, 0};
    uint16_t *end = open;
    size_t i = 0;
    do line_of[i] = kml_expect_line(ranks, values[i]);
    while (++i < count);
    /* Without a branch: what a word points to is what nobody can foretell. A shift by `granule` is
     * one by its lowest six bits, for the processor too. */
    i = 0;
    do {
        const uint64_t at = values[i] - base, granule = at >> shift;
        const kml_line *line = line_of[i];
        const uint64_t start = line->start;
        const uint32_t row = line->rank + count_bits(start << (~granule & 63)) - 1;
        const size_t full = line->full >> (granule & 63) & 1;
        const size_t partial = line->partial >> (granule & 63) & 1;
        const size_t first = start >> (granule & 63) & !(at & within);
        targets[i] = row | kind[full + 2 * (first | partial)];
        *end = (uint16_t)i;
        end += partial & ~first;
    } while (++i < count);
    return (size_t)(end - open);
}

static inline unsigned kml_count_bits_at_once(uint64_t bits) {
    return (unsigned)__builtin_popcountll(bits);
}

static inline size_t kml_resolve_plain(const kml_ranks *ranks, const uint64_t *values, uint32_t *targets,
                                uint16_t *open, size_t count) {
    return kml_resolve_with(ranks, values, targets, open, count, kml_count_bits);
}

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
__attribute__((target("popcnt,bmi,bmi2"))) static inline size_t
kml_resolve_counting(const kml_ranks *ranks, const uint64_t *values, uint32_t *targets,
                     uint16_t *open, size_t count) {
    return kml_resolve_with(ranks, values, targets, open, count, kml_count_bits_at_once);
}
#endif

/* The resolver to use: `plain` is the one that every processor has. */
static inline kml_resolver kml_choose_resolver(int plain) {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    __builtin_cpu_init();
    if (!plain && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi2"))
        return kml_resolve_counting;
#elif defined(__aarch64__)
    if (!plain) return kml_resolve_plain;
#endif
    (void)plain;
    return kml_resolve_plain;
}

#endif
