/* Threads on several arenas (M_ARENA_TEST, M_ARENA_MAX), one of them longer than one heap. */
#include "known.h"

enum { THREADS = 6 };
static pthread_barrier_t barrier;
static void **volatile kept[THREADS];

static NOINLINE void allocate(int number)
{
    void **table = malloc(2000 * sizeof *table);
    memset(table, 0, 2000 * sizeof *table);
    kept[number] = table;
    say("held", "table", table, 2000 * sizeof *table);
    for (int i = 0; i < 2000; i++) {
        size_t size = 16 + (size_t)(i * 37 % 1200);
        if (i % 20 == 7)
            lose("block", size);
        else
            table[i] = fill(malloc(size), size);
    }
    /* 64 MiB is the most that one heap of an arena holds. */
    if (number == 0)
        for (int i = 0; i < 700; i++) {
            if (i % 100 == 50)
                lose("second-heap", 100000);
            else if (table[i])
                free(table[i]), table[i] = malloc(100000);
        }
}

static void *worker(void *number)
{
    allocate((int)(intptr_t)number);
    scrub();
    pthread_barrier_wait(&barrier);
    scrub();
    for (;;)
        pause();
}

int main(int count, char **arguments)
{
    mallopt(M_ARENA_TEST, count > 1 ? atoi(arguments[1]) : 2);
    mallopt(M_ARENA_MAX, count > 2 ? atoi(arguments[2]) : 16);
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker, (void *)(intptr_t)i))
            return 1;
    }
    pthread_barrier_wait(&barrier);
    ready();
}
