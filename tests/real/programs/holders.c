/* One block held by each kind of place a program can keep a pointer in, and by nothing else. */
#include "known.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/shm.h>

#define SIZE 72

static void *volatile in_data = (void *)1;
static void *volatile in_bss;
static __thread void *volatile in_tls;
static pthread_key_t keys[40];
static pthread_barrier_t barrier;
/* For the asm below: the pointers, masked. */
static uint64_t masked[6];

static NOINLINE void hold_in_tls(const char *name) { in_tls = known("held", name, SIZE); }

static NOINLINE void hold_in_key(const char *name, int key)
{
    pthread_setspecific(keys[key], known("held", name, SIZE));
}

static NOINLINE void hold_in_mapping(const char *name, void *mapping)
{
    if (mapping == MAP_FAILED) {
        perror(name);
        _exit(5);
    }
    ((void **)mapping)[17] = known("held", name, SIZE);
}

static NOINLINE int open_file(const char *name)
{
    int file = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || ftruncate(file, 8192)) {
        perror(name);
        _exit(5);
    }
    return file;
}

static NOINLINE void *map(int flags, int file)
{
    void *mapping = mmap(NULL, 8192, PROT_READ | PROT_WRITE, flags, file, 0);
    if (file >= 0)
        close(file);
    return mapping;
}

static NOINLINE void hold_in_mappings(void)
{
    void *mapping;
    hold_in_mapping("anonymous-private", map(MAP_PRIVATE | MAP_ANONYMOUS, -1));
    hold_in_mapping("anonymous-shared", map(MAP_SHARED | MAP_ANONYMOUS, -1));
    hold_in_mapping("file-private", map(MAP_PRIVATE, open_file("private")));
    hold_in_mapping("file-shared", map(MAP_SHARED, open_file("shared")));
    int memory = memfd_create("memory", 0);
    if (memory < 0 || ftruncate(memory, 8192))
        _exit(5);
    hold_in_mapping("memfd-shared", map(MAP_SHARED, dup(memory)));
    hold_in_mapping("memfd-private", map(MAP_PRIVATE, memory));
    int segment = shmget(IPC_PRIVATE, 8192, IPC_CREAT | 0600);
    if (segment >= 0) {
        mapping = shmat(segment, NULL, 0);
        shmctl(segment, IPC_RMID, NULL);
        hold_in_mapping("sysv-shared", mapping);
    }
    mapping = map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
    hold_in_mapping("read-only", mapping);
    mprotect(mapping, 8192, PROT_READ);
}

static NOINLINE void mask_registers(void)
{
    static const char *const names[] = {"register-r12", "register-r13",   "register-r14",
                                        "register-r15", "vector-register", "vector-register-high"};
    for (int i = 0; i < 6; i++)
        masked[i] = (uint64_t)known("held", names[i], SIZE) ^ MASK;
}

static void *registers_thread(void *unused)
{
    (void)unused;
    mask_registers();
    scrub();
    pthread_barrier_wait(&barrier);
    scrub();
    __asm__ volatile(
        "mov 0(%0), %%r12; mov 8(%0), %%r13; mov 16(%0), %%r14; mov 24(%0), %%r15\n"
        "xor %1, %%r12; xor %1, %%r13; xor %1, %%r14; xor %1, %%r15\n"
        "mov 32(%0), %%rax; mov 40(%0), %%rcx; xor %1, %%rax; xor %1, %%rcx\n"
        "movq %%rax, %%xmm8; movq %%rcx, %%xmm9; punpcklqdq %%xmm9, %%xmm8\n"
        "pxor %%xmm9, %%xmm9; xor %%ecx, %%ecx; xor %1, %1\n"
        "1: mov $34, %%eax; syscall; jmp 1b\n"
        :
        : "r"(masked), "b"(MASK)
        : "r12", "r13", "r14", "r15", "rax", "rcx", "r11", "xmm8", "xmm9", "memory");
    return NULL;
}

static NOINLINE void hold_on_stack(void *volatile *place, const char *name)
{
    *place = known("held", name, SIZE);
}

static void *storing_thread(void *unused)
{
    (void)unused;
    void *volatile on_stack;
    hold_on_stack(&on_stack, "thread-stack");
    hold_in_tls("thread-tls");
    hold_in_key("thread-key-first-level", 3);
    hold_in_key("thread-key-second-level", 36);
    scrub();
    pthread_barrier_wait(&barrier);
    scrub();
    for (;;)
        pause();
    return on_stack;
}

static void exit_handler(int status, void *argument)
{
    (void)status;
    (void)argument;
}

static NOINLINE void hold_elsewhere(void)
{
    in_data = known("held", "data", SIZE);
    in_bss = known("held", "bss", SIZE);
    on_exit(exit_handler, known("held", "on-exit-argument", SIZE));
    /* Only a pointer into the middle, only one to the last byte. */
    static char *volatile middle, *volatile last;
    middle = (char *)known("held", "interior", SIZE) + 40;
    last = (char *)known("held", "last-byte", SIZE) + SIZE - 1;
    /* A chain: the global holds one block, it the next. */
    static void **volatile chain;
    chain = known("held", "chain", SIZE);
    chain[0] = known("held", "chain", SIZE);
    ((void **)chain[0])[8] = known("held", "chain", 300000);
}

static NOINLINE void lose_some(void)
{
    lose("alone", SIZE);
    lose("alone", 24);
    lose("mmapped", 300000);
    void **first = known("lost", "cycle", SIZE);
    first[3] = known("lost", "cycle", SIZE);
    ((void **)first[3])[1] = first;
    void **head = known("lost", "list", SIZE);
    head[0] = known("lost", "list", SIZE);
    ((void **)head[0])[0] = known("lost", "list", 300000);
    /* A pointer that only a freed block has kept. */
    void **freed = malloc(1032);
    fill(freed, 1032);
    freed[9] = known("lost", "held-by-freed", SIZE);
    say("freed", "freed", freed, 1032);
    free(freed);
}

int main(void)
{
    void *volatile on_stack;
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 3);
    for (int i = 0; i < 40; i++)
        pthread_key_create(&keys[i], NULL);
    hold_elsewhere();
    hold_in_mappings();
    hold_on_stack(&on_stack, "main-stack");
    hold_in_tls("main-tls");
    hold_in_key("main-key-first-level", 3);
    hold_in_key("main-key-second-level", 36);
    lose_some();
    scrub();
    pthread_create(&thread, NULL, registers_thread, NULL);
    pthread_create(&thread, NULL, storing_thread, NULL);
    pthread_barrier_wait(&barrier);
    ready();
    return on_stack == NULL;
}
