/* Thirty-two threads, each with freed chunks in its own tcache, one block held, one lost. */
#include "known.h"

enum { THREADS = 32, SIZES = 12, EACH = 9 };
static pthread_barrier_t barrier;
static __thread void *volatile kept;

static NOINLINE void churn(void)
{
    /* Seven of each size fit into a tcache, the rest goes to fastbins and bins. */
    uint64_t hidden[SIZES][EACH];
    for (int s = 0; s < SIZES; s++)
        for (int i = 0; i < EACH; i++)
            hidden[s][i] = (uint64_t)fill(malloc(24 + 48 * (size_t)s), 24 + 48 * (size_t)s) ^ MASK;
    kept = known("held", "thread-tls", 100);
    lose("thread", 100);
    for (int s = 0; s < SIZES; s++)
        for (int i = 0; i < EACH; i++) {
            say("freed", i < 7 ? "tcache" : "bins", (void *)(hidden[s][i] ^ MASK), 0);
            free((void *)(hidden[s][i] ^ MASK));
        }
}

static void *worker(void *unused)
{
    (void)unused;
    /* Not before the last thread was made: that takes memory, of the freed perhaps. */
    pthread_barrier_wait(&barrier);
    churn();
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
    churn();
    pthread_barrier_wait(&barrier);
    ready();
}
