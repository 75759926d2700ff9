/* Threads that ended: their cached stacks still hold pointers, and are nobody's. */
#include "known.h"

enum { THREADS = 8, EACH = 6 };
static pthread_barrier_t barrier;

static NOINLINE void hold(void *volatile *places)
{
    for (int i = 0; i < EACH; i++)
        places[i] = known("lost", "ended-thread-stack", 40 + 16 * (size_t)i);
}

static void *worker(void *unused)
{
    (void)unused;
    void *volatile places[EACH];
    hold(places);
    pthread_barrier_wait(&barrier);
    return (void *)(places[0] == NULL);
}

int main(void)
{
    pthread_t threads[THREADS];
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, worker, NULL))
            return 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    ready();
}
