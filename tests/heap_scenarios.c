// Brings glibc's heap into one of several states and prints every block it knows of:
//   held|freed NAME ADDRESS SIZE
// then "ready", and waits to be dumped. The argument names the state.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST = 400000 };
struct record { void *address; size_t size; int freed; };
static struct record *records;
static int count;
static char *text;
static size_t length;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t state = 88172645463325252ULL;
static uint64_t rnd(void) { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return state; }

static void *note(void *p, size_t size) {
  if (!p) abort();
  memset(p, 0x21, size);  // small integers look like chunk sizes
  pthread_mutex_lock(&lock);
  if (count == MOST) abort();
  records[count++] = (struct record){p, size, 0};
  pthread_mutex_unlock(&lock);
  return p;
}

static void release(int from, int to, int every) {
  for (int i = from; i < to; i++)
    if (!records[i].freed && i % every == 0) { records[i].freed = 1; free(records[i].address); }
}

static void small(int n, size_t most) { for (int i = 0; i < n; i++) { size_t s = 1 + rnd() % most; note(malloc(s), s); } }

static void foreign_sbrk(void) {
  for (int round = 0; round < 5; round++) {
    small(3000, 600);
    size_t n = 5000 + 4096 * round;
    unsigned char *mine = sbrk(n);
    for (size_t i = 0; i < n; i++) mine[i] = i % 5 ? rnd() : 0;
    small(3000, 600);
  }
  release(0, count, 3);
}

static void blocked_break(void) {
  small(2000, 600);
  uintptr_t end = ((uintptr_t)sbrk(0) + 4095) & -4096UL;
  if (mmap((void *)end, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) abort();
  small(30000, 600);
  release(0, count, 3);
}

static void aligned(void) {
  for (size_t a = 16; a <= 1 << 22; a <<= 1)
    for (int k = 0; k < 6; k++) {
      size_t s = k < 3 ? 1 + rnd() % 3000 : 140000 + rnd() % 300000;
      void *p;
      if (posix_memalign(&p, a, s)) abort();
      note(p, s);
      small(3, 300);
    }
  release(0, count, 5);
}

static void mapped(void) {
  mallopt(M_MMAP_THRESHOLD, 3000);
  for (int i = 0; i < 500; i++) {
    size_t s = 1000 + rnd() % 20000;
    void *p = malloc(s);
    if (i % 3 == 0) p = realloc(p, s += rnd() % 100000);
    note(p, s);
  }
  release(0, count, 4);
}

static pthread_barrier_t barrier;
static void *worker(void *argument) {
  int mine[2000], n = 0;
  unsigned seed = (unsigned)(uintptr_t)argument;
  // No thread starts (and makes blocks of its own) once one has freed.
  if (seed < 1000) pthread_barrier_wait(&barrier);
  for (int i = 0; i < 2000; i++) {
    size_t s = 1 + rand_r(&seed) % 1500;
    void *p = malloc(s);
    if (!p) abort();
    memset(p, 0x21, s);
    pthread_mutex_lock(&lock);
    mine[n++] = count;
    records[count++] = (struct record){p, s, 0};
    pthread_mutex_unlock(&lock);
  }
  for (int i = 0; i < n; i += 3) {
    free(records[mine[i]].address);
    // Later threads' own blocks may take the place of what an ended thread freed.
    records[mine[i]].freed = seed < 1000 ? 1 : 2;
  }
  if ((uintptr_t)argument >= 1000) return 0;
  pthread_barrier_wait(&barrier);
  for (;;) pause();
  return 0;
}

static void threads(void) {
  pthread_t t;
  pthread_t ended[8];
  pthread_barrier_init(&barrier, 0, 33);
  for (uintptr_t i = 0; i < 8; i++) pthread_create(&ended[i], 0, worker, (void *)(1000 + i));
  for (int i = 0; i < 8; i++) pthread_join(ended[i], 0);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 256 << 10);  // not from the cache
  for (uintptr_t i = 1; i <= 32; i++) pthread_create(&t, i <= 30 ? &attributes : 0, worker, (void *)i);
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  release(0, count, 7);
}

__attribute__((noinline)) static void *grower(void *argument) {
  (void)argument;
  for (int i = 0; i < 60000; i++) { size_t s = 1 + rnd() % 4000; note(malloc(s), s); }
  // Most goes back: heaps shrink, some go away.
  release(count - 25000, count, 1);
  release(0, count, 2);
  pthread_barrier_wait(&barrier);
  for (;;) pause();
  return 0;
}

static void heaps(void) {
  pthread_t t;
  pthread_barrier_init(&barrier, 0, 2);
  pthread_create(&t, 0, grower, 0);
  pthread_barrier_wait(&barrier);
}

static void trimmed(void) {
  small(20000, 2000);
  release(5000, count, 1);
  malloc_trim(0);
  small(100, 2000);
}

static void nothing_freed(void) { small(1000, 500); }

static void two_libraries(void) {
  void *other = dlmopen(LM_ID_NEWLM, "libc.so.6", RTLD_NOW);
  if (!other) abort();
  void *(*their_malloc)(size_t) = (void *(*)(size_t))dlsym(other, "malloc");
  void (*their_free)(void *) = (void (*)(void *))dlsym(other, "free");
  int first = count;
  for (int i = 0; i < 3000; i++) { size_t s = 1 + rnd() % 700; note(their_malloc(s), s); }
  for (int i = first; i < count; i += 3) { records[i].freed = 1; their_free(records[i].address); }
  first = count;
  small(3000, 700);
  release(first, count, 4);
}

int main(int argc, char **argv) {
  struct { const char *name; void (*run)(void); } states[] = {
    {"foreign-sbrk", foreign_sbrk}, {"blocked-break", blocked_break}, {"aligned", aligned},
    {"mapped", mapped}, {"threads", threads}, {"heaps", heaps}, {"trimmed", trimmed},
    {"nothing-freed", nothing_freed}, {"two-libraries", two_libraries},
  };
  records = mmap(0, MOST * sizeof *records, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  text = mmap(0, MOST * 64L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (size_t i = 0; i < sizeof states / sizeof *states; i++)
    if (argc > 1 && !strcmp(argv[1], states[i].name)) {
      states[i].run();
      for (int k = 0; k < count; k++)
        if (records[k].freed < 2) length += sprintf(text + length, "%s block %lx %lu\n", records[k].freed ? "freed" : "held",
                          (unsigned long)records[k].address, (unsigned long)records[k].size);
      length += sprintf(text + length, "ready\n");
      for (size_t done = 0; done < length;) { ssize_t n = write(1, text + done, length - done); if (n <= 0) return 1; done += n; }
      for (;;) pause();
    }
  return 2;
}
