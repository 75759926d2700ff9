/* Reads memory and does nothing else: the limit that a scan is held against.
 *
 * Four independent chains of exclusive-or over 128 bytes a turn, so that only the memory is
 * waited for. (A sum or maximum by numpy reaches some 80 % of it; wider registers, prefetching
 * by hand and several streams at a time were tried and were no faster.)
 */
#include <stddef.h>
#include <stdint.h>

typedef uint64_t lanes __attribute__((vector_size(32), may_alias, aligned(8)));

#define READING(name)                                                     \
    uint64_t name(const uint8_t *p, size_t size) {                        \
        lanes a = {0}, b = a, c = a, d = a;                               \
        for (const uint8_t *end = p + size / 128 * 128; p != end; p += 128) { \
            const lanes *q = (const lanes *)p;                            \
            a ^= q[0];                                                    \
            b ^= q[1];                                                    \
            c ^= q[2];                                                    \
            d ^= q[3];                                                    \
        }                                                                 \
        a ^= b ^ c ^ d;                                                   \
        return a[0] ^ a[1] ^ a[2] ^ a[3];                                 \
    }

#ifdef __x86_64__
static READING(read_baseline)
__attribute__((target("avx2"))) static READING(read_avx2)

uint64_t read_all(const uint8_t *p, size_t size) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") ? read_avx2(p, size) : read_baseline(p, size);
}
#else
READING(read_all)
#endif
