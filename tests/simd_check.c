/* Compares every level of the word filter with a plain loop, on random and on extreme input.
 *
 * Each run of words ends where memory begins that may not be read, and the results' arrays are no
 * longer than promised. Built as a library, it lets Python call a level by its name.
 */
#include "_simd.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define ROOM (KML_PIECE + KML_SLACK)
#define CANARY 0x5AFE5AFE5AFE5AFEu

size_t filter_by_name(const char *name, const kml_filter *f, const uint8_t *p, size_t count,
                      uint64_t *values, uint32_t *positions) {
    const char *chosen;
    return kml_choose(name, &chosen)(f, p, count, values, positions);
}

size_t slack_of_results(void) { return KML_SLACK; }

static uint64_t draw(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint64_t among(const uint64_t *choices, size_t count) { return choices[draw() % count]; }
#define AMONG(...) \
    among((const uint64_t[]){__VA_ARGS__}, sizeof((const uint64_t[]){__VA_ARGS__}) / 8)

static kml_filter draw_filter(void) {
    const uint64_t most = UINT64_MAX;
    kml_filter f = {
        .low = AMONG(0, 1, 0x1000, 0x80000000, UINT32_MAX - 15, UINT32_MAX, 0x7f0000000000,
                     (uint64_t)1 << 63, most - 100, most),
        .span = AMONG(0, 1, draw() % 400, draw() >> draw() % 64, UINT32_MAX, (uint64_t)1 << 63,
                      most - 1, most),
        .mask = AMONG(most, most, most, 0xFFFFFFFFFFFF, 0xFFFFFFF8, 0xFFu << 24, 0),
        .step = 1u << draw() % 4,
        .word_size = draw() % 2 ? 8 : 4,
        .swapped = (int)(draw() % 2),
    };
    f.low += AMONG(0, 0, draw() % 300, -(draw() % 300));
    return f;
}

/* Writes words near the range's ends into noise or zeros, here and there or everywhere. */
static void draw_bytes(const kml_filter *f, uint8_t *p, size_t length) {
    const size_t size = (size_t)f->word_size, rarity = AMONG(1, 3, 20, 200, 5000);
    const int noise = draw() % 4 == 0;
    for (size_t i = 0; i < length; i++) p[i] = noise ? (uint8_t)draw() : 0;
    for (size_t i = 0; i + size <= length; i++) {
        if (draw() % rarity) continue;
        uint64_t value = AMONG(f->low, f->low, f->low + f->span, 0) + AMONG(0, 1, UINT64_MAX);
        for (size_t b = 0; b < size; b++)
            p[i + (f->swapped ? size - 1 - b : b)] = (uint8_t)(value >> 8 * b);
    }
}

static size_t filter_plainly(const kml_filter *f, const uint8_t *p, size_t count, uint64_t *values,
                             uint32_t *positions) {
    const size_t size = (size_t)f->word_size;
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t value = 0;
        for (size_t b = 0; b < size; b++)
            value |= (uint64_t)p[i * f->step + (f->swapped ? size - 1 - b : b)] << 8 * b;
        value &= f->mask;
        if ((uint64_t)(value - f->low) > f->span) continue;
        values[found] = value;
        positions[found++] = (uint32_t)i;
    }
    return found;
}

int main(int argc, char **argv) {
    static uint64_t wanted_values[ROOM], values[ROOM + 1];
    static uint32_t wanted_positions[ROOM], positions[ROOM + 1];
    const size_t rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000, page = 65536;
    uint8_t *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                           0);
    if (memory == MAP_FAILED || mprotect(memory + page, page, PROT_NONE)) return perror("mmap"), 2;
    const char *name;
    for (size_t i = 0; (name = kml_level_name(i)); i++) printf("%s ", name);
    for (size_t round = 0; round < rounds; round++) {
        const kml_filter f = draw_filter();
        const size_t count = draw() % (draw() % 4 ? 65 : KML_PIECE + 1);
        const size_t length = count ? (count - 1) * f.step + (size_t)f.word_size : 0;
        uint8_t *p = memory + page - length;
        draw_bytes(&f, p, length);
        const size_t wanted = filter_plainly(&f, p, count, wanted_values, wanted_positions);
        for (size_t i = 0; (name = kml_level_name(i)); i++) {
            values[count + KML_SLACK] = CANARY;
            positions[count + KML_SLACK] = (uint32_t)CANARY;
            const size_t found = filter_by_name(name, &f, p, count, values, positions);
            if (found == wanted && !memcmp(values, wanted_values, found * sizeof *values) &&
                !memcmp(positions, wanted_positions, found * sizeof *positions) &&
                values[count + KML_SLACK] == CANARY &&
                positions[count + KML_SLACK] == (uint32_t)CANARY)
                continue;
            printf("\n%s, round %zu: %zu words of %d bytes by %u, swapped %d, low %llx, span %llx, "
                   "mask %llx: %zu pass, %zu found\n",
                   name, round, count, f.word_size, f.step, f.swapped, (unsigned long long)f.low,
                   (unsigned long long)f.span, (unsigned long long)f.mask, wanted, found);
            return 1;
        }
    }
    printf("agree in %zu rounds\n", rounds);
    return 0;
}
