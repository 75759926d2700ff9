/* Threads with a block of the size of a later release's tcache, as good as empty, in their TLS. */
#include "known.h"

enum { THREADS = 4, SIZE = 760 };
static pthread_barrier_t barrier;
static __thread void *volatile kept;

static void *worker(void *unused)
{
    (void)unused;
    uint16_t *block = memset(malloc(SIZE), 0, SIZE);
    block[0] = 1;
    say("held", "lookalike", block, SIZE);
    kept = block;
    lose("thread", 100);
    block = NULL;
    scrub();
    pthread_barrier_wait(&barrier);
    scrub();
    for (;;)
        pause();
}

int main(void)
{
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker, NULL))
            return 1;
    }
    pthread_barrier_wait(&barrier);
    ready();
}
