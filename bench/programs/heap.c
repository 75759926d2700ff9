/* heap N MEAN SHARE: builds a heap of N objects out of a seed, then has it searched for leaks.
 *
 * Sizes are log-normal around MEAN bytes; SHARE per cent of the words point to random objects'
 * starts; every hundredth object is referred to by nobody. 64 roots lead to the rest. It is the
 * same heap, link by link, whoever allocates it: this file is compiled once for each of
 *
 *   (nothing)         malloc; prints "ready" and waits to be dumped
 *   WITH_VALGRIND     Memcheck's leak check, asked for by a client request
 *   WITH_LSAN         LeakSanitizer's check (-fsanitize=leak)
 *   WITH_BOEHM        a mark by the Boehm-Demers-Weiser collector (-lgc; GC_MARKERS=1: one thread)
 *   WITH_GPERFTOOLS   gperftools' heap checker (C++, -ltcmalloc)
 *
 * and prints, one a line, the seconds of the search and what it found.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if defined(WITH_VALGRIND)
#include <valgrind/memcheck.h>
#elif defined(WITH_LSAN)
#include <sanitizer/lsan_interface.h>
#elif defined(WITH_BOEHM)
#include <gc/gc.h>
#define malloc(size) GC_malloc(size)
#elif defined(WITH_GPERFTOOLS)
#include <gperftools/heap-checker.h>
#endif

#define ROOTS 64
static uint64_t *volatile roots[ROOTS];

static uint64_t state = 88172645463325252ULL;

static uint64_t draw(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static double uniform(void) { return (double)(draw() >> 11) / 9007199254740992.0; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Memory that no allocator knows of, and that is gone before the search. */
static void *borrow(size_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) abort();
    return p;
}

static uint32_t draw_words(double mean) {
    double normal = sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform());
    double size = exp(log(mean) - 0.5 + normal);
    return (uint32_t)((size < 24 ? 24 : size > 4096 ? 4096 : size) / 8);
}

__attribute__((noinline)) static void build(size_t n, double mean, double share) {
    uint64_t **object = (uint64_t **)borrow(n * sizeof *object);
    uint32_t *words = (uint32_t *)borrow(n * sizeof *words);
    uint64_t limit = (uint64_t)(share / 100 * 4294967296.0);
    for (size_t i = 0; i < n; i++) {
        words[i] = draw_words(mean);
        object[i] = (uint64_t *)malloc(words[i] * 8);
        if (!object[i]) abort();
    }
    for (size_t i = 0; i < n; i++) {
        for (uint32_t w = 0; w < words[i]; w++) {
            uint64_t drawn = draw();
            size_t target = (size_t)(drawn >> 32) * n >> 32;
            int points = (drawn & 0xffffffff) < limit && target % 100 != 99;
            object[i][w] = points ? (uint64_t)object[target] : drawn & 0xfffff;
        }
    }
    for (size_t i = 0; i < ROOTS && i < n; i++) roots[i] = object[i];
    munmap(object, n * sizeof *object);
    munmap(words, n * sizeof *words);
}

/* So that nothing of the above is left on the stack. */
__attribute__((noinline)) static void wipe(void) {
    volatile char stack[16384];
    for (size_t i = 0; i < sizeof stack; i++) stack[i] = 0;
}

#ifdef WITH_BOEHM
static double mark_began, mark_seconds;

static void on_event(GC_EventType event) {
    if (event == GC_EVENT_MARK_START) mark_began = now();
    if (event == GC_EVENT_MARK_END) mark_seconds += now() - mark_began;
}
#endif

int main(int argc, char **argv) {
    size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    double mean = argc > 2 ? atof(argv[2]) : 195, share = argc > 3 ? atof(argv[3]) : 23;
#ifdef WITH_BOEHM
    GC_INIT();
    GC_disable();
    GC_set_on_collection_event(on_event);
#endif
    if (n == 0 || n > UINT32_MAX) return 2;
    build(n, mean, share);
    wipe();
    double began = now();
#if defined(WITH_VALGRIND)
    VALGRIND_DO_LEAK_CHECK;
    double seconds = now() - began;
    unsigned long leaked = 0, dubious = 0, reachable = 0, suppressed = 0;
    VALGRIND_COUNT_LEAK_BLOCKS(leaked, dubious, reachable, suppressed);
    printf("leaks %lu\n", leaked + dubious);
#elif defined(WITH_LSAN)
    __lsan_do_recoverable_leak_check();
    double seconds = now() - began;
#elif defined(WITH_BOEHM)
    GC_enable();
    GC_gcollect();
    double seconds = mark_seconds;
    printf("whole collection %.6f\n", now() - began);
#elif defined(WITH_GPERFTOOLS)
    HeapLeakChecker::NoGlobalLeaks();
    double seconds = now() - began;
#else
    double seconds = 0;
    (void)began;
    puts("ready");
    fflush(stdout);
    for (;;) pause();
#endif
    printf("seconds %.6f\n", seconds);
    fflush(stdout);
    _exit(0); /* without the search that some do at the end */
}
