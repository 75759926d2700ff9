// C++ objects and containers: each block is announced with what it is ("~" stands for a space),
// "class:" before what only a virtual table tells, "vector:" before the elements of a buffer.
#include "known.h"

#include <deque>
#include <list>
#include <map>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

static const char *verdict, *current = "other";

static void *announced(size_t size)
{
    const char *name = current;
    if (!strcmp(name, "std::deque~map") && size == 512)
        name = "std::deque~buffer";
    void *block = fill(malloc(size), size);
    say(verdict ? verdict : "held", name, block, size);
    return block;
}

void *operator new(size_t size) { return announced(size); }
void *operator new[](size_t size) { return announced(size); }
static void gone(void *block)
{
    if (block)
        say("freed", "x", block, 0);
    free(block);
}
void operator delete(void *block) noexcept { gone(block); }
void operator delete(void *block, size_t) noexcept { gone(block); }
void operator delete[](void *block) noexcept { gone(block); }
void operator delete[](void *block, size_t) noexcept { gone(block); }

struct A { virtual ~A() {} long a = 1; };
struct B { virtual ~B() {} long b = 2; };
struct Two : A, B { long c = 3; };
struct Virtual : virtual A { long v = 4; };
struct Plain { int x = 1; };
struct OnlyBase : virtual Plain { long q = 2; };
struct WithString : A { std::string text; };
namespace app {
template <class T> struct Box : A { T held{}; };
namespace { struct Hidden : A {}; }
struct Inner { struct Deep : B { char more[100] = {}; }; };
}
struct alignas(16) Aligned : A { double more[3] = {}; };
struct Cycle { virtual ~Cycle() {} std::shared_ptr<Cycle> self; };

static void *volatile kept[1000];
static unsigned number;

template <class T> static void keep(T *made)
{
    if (!strcmp(verdict, "held"))
        kept[number++] = made;
}

#define OBJECT(name, type) (current = "class:" name, keep(new type))

static NOINLINE void objects(void)
{
    struct Local : A {};
    for (int i = 0; i < 3; i++) {
        OBJECT("A", A);
        OBJECT("Two", Two);
        OBJECT("Virtual", Virtual);
        OBJECT("OnlyBase", OnlyBase);
        OBJECT("WithString", WithString);
        OBJECT("app::Box<int>", app::Box<int>);
        OBJECT("app::Box<std::vector<std::string>>", app::Box<std::vector<std::string>>);
        OBJECT("app::(anonymous)::Hidden", app::Hidden);
        OBJECT("app::Inner::Deep", app::Inner::Deep);
        OBJECT("objects()::Local", Local);
    }
    for (int n : {1, 2, 3, 4, 7, 100, 3000}) {
        current = "class:A[]";
        keep(new A[n]);
        current = "class:Two[]";
        keep(new Two[n]);
        current = "class:Aligned[]";
        keep(new Aligned[n]);
        current = "class:app::Inner::Deep[]";
        keep(new app::Inner::Deep[n]);
    }
    current = "class:std::make_shared<Cycle>";
    auto one = std::make_shared<Cycle>();
    current = "class:Cycle";
    auto *raw = new Cycle;
    current = "class:std::shared_ptr<Cycle>~count";
    std::shared_ptr<Cycle> other(raw);
    one->self = other;
    other->self = one;
    keep(raw);
}

static NOINLINE void linked(void)
{
    current = "std::list";
    auto *numbers = new std::list<size_t>;
    auto *texts = new std::list<std::string>;
    keep(numbers), keep(texts);
    current = "std::list~node";
    for (size_t i = 0; i < 100; i++)
        numbers->push_back(i * 7);
    for (int i = 0; i < 10; i++)
        texts->emplace_back();
    current = "std::string~buffer";
    for (auto &text : *texts)
        text.assign(50, 'a');
    current = "std::map/set";
    auto *map = new std::map<int, long>;
    auto *set = new std::set<size_t>;
    auto *lines = new std::multimap<int, std::string>;
    keep(map), keep(set), keep(lines);
    current = "std::map/set~node";
    for (int i = 0; i < 200; i++)
        (*map)[i * 71 % 1009] = i;
    for (size_t i = 0; i < 50; i++)
        set->insert(i);
    for (int i = 0; i < 30; i++)
        lines->emplace(i / 3, std::string());
    current = "std::string~buffer";
    for (auto &line : *lines)
        line.second.assign(20 + (size_t)line.first * 10, 'b');
}

static NOINLINE void buffers(void)
{
    for (size_t i = 1; i < 6; i++) {
        current = "std::vector";
        auto *numbers = new std::vector<int>;
        auto *things = new std::vector<Two>;
        keep(numbers), keep(things);
        current = "std::vector~buffer";
        numbers->resize(i * 33);
        current = "vector:Two";
        things->resize(i);
        current = "std::string";
        auto *text = new std::string;
        keep(text);
        current = "std::string~buffer";
        text->append(i * 40, 'c');
        current = "std::unordered_map/set";
        auto *table = new std::unordered_map<int, long>;
        auto *names = new std::unordered_set<std::string>;
        keep(table), keep(names);
        current = "std::unordered_map/set~buckets";
        table->reserve(i * 100);
        names->reserve(i * 10);
        current = "std::unordered_map/set~node";
        for (size_t k = 0; k < i * 90; k++)
            (*table)[(int)(k * k)] = (long)k;
        for (size_t k = 0; k < i * 5; k++)
            names->insert(std::string(1 + k, 'd').substr(0, 15));
        current = "std::deque";
        void *room = operator new(sizeof(std::deque<long>));
        current = "std::deque~map";
        auto *queue = new (room) std::deque<long>;
        keep(queue);
        for (size_t k = 0; k < i * 150; k++)
            queue->push_back((long)k);
        for (size_t k = 0; k < i * 20; k++)
            queue->pop_front();
    }
    current = "std::vector~buffer";
    static std::vector<char> global;
    verdict = "held";
    global.resize(100000);
}

static NOINLINE void all(const char *what)
{
    verdict = what;
    objects();
    linked();
    buffers();
}

int main(void)
{
    all("lost");
    all("held");
    // What a FILE has of its buffer looks like a vector.
    static FILE *file = fopen("/dev/null", "w");
    fputs("text", file);
    say("held", "class:", file->_IO_buf_base, 4096);
    verdict = "held";
    current = "other";
    ready();
}
