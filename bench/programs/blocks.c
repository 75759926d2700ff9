/* blocks N: a binary tree of N blocks of 16 to 4096 bytes, every tenth freed again, every
 * hundredth dropped. Prints "ready" and waits to be dumped. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t state = 88172645463325252ULL;

static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void **root;

int main(int argc, char **argv) {
    long count = argc > 1 ? atol(argv[1]) : 1000;
    void **freed = calloc((size_t)count, sizeof *freed);
    for (long i = 0; i < count; i++) {
        size_t size = 16 + (next() % 32 ? next() % 240 : next() % 4080);
        void **block = malloc(size);
        memset(block, 0, size);
        if (i % 100 == 0) continue; /* dropped */
        if (i % 10 == 1) {
            freed[i] = block;
            continue;
        }
        void ***place = &root; /* a random leaf of the tree */
        while (*place) place = (void ***)&(*place)[next() & 1];
        *place = block;
    }
    for (long i = 0; i < count; i++) free(freed[i]);
    free(freed);
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}
