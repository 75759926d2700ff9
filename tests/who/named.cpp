// One block in each kind of variable of C++; prints "ready", and of each what a
// debugger would call its holder:
//   ADDRESS SYMBOL OFFSET NAME
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

static const uint64_t mask = 0x5a5a5a5a5a5a5a5aUL;

__attribute__((noinline)) static uint64_t made(const char *name)
{
    void *p = malloc(72);
    memset(p, 0x21, 72);
    printf("%lx - 0 %s\n", (unsigned long)p, name);
    return (uint64_t)p ^ mask;
}

static void told(const void *p, const char *name)
{
    printf("%lx - 0 %s\n", (unsigned long)p, name);
}

namespace app {

struct Base {
    virtual ~Base() {}
    void *of_base = nullptr;
};

struct Other {
    virtual ~Other() {}
    long before = 0;
    void *of_other = nullptr;
};

struct Derived : Base, Other {
    void *own = nullptr;
};

Derived derived;

struct Pool {
    long before = 1;
    void *head = nullptr;
    static Pool &instance()
    {
        static Pool pool;
        return pool;
    }
    static Pool shared;
};

Pool Pool::shared;

namespace {
std::vector<long> numbers;
}

std::unique_ptr<Pool> owned;
std::map<int, long> tree;
std::string text;

}  // namespace app

__attribute__((noinline)) static void fill()
{
    app::derived.of_base = (void *)(made("app::derived.of_base") ^ mask);
    app::derived.of_other = (void *)(made("app::derived.of_other") ^ mask);
    app::derived.own = (void *)(made("app::derived.own") ^ mask);
    app::Pool::instance().head = (void *)(made("app::Pool::instance()::pool.head") ^ mask);
    app::Pool::shared.head = (void *)(made("app::Pool::shared.head") ^ mask);
    app::numbers.assign(9, 1);
    told(app::numbers.data(), "app::(anonymous namespace)::numbers._M_impl._M_start");
    app::owned.reset(new app::Pool);
    told(app::owned.get(), "app::owned._M_t._M_t._M_head_impl");
    app::tree[1] = 1;
    told(&app::tree.begin()->first, "app::tree._M_t._M_impl._M_header._M_parent");
    app::text.assign(100, 'x');
    told(app::text.data(), "app::text._M_dataplus._M_p");
}

int main()
{
    setvbuf(stdout, (char *)malloc(4096), _IOFBF, 4096);
    puts("ready");
    fill();
    fflush(stdout);
    for (;;)
        pause();
}
