// Objects that only pointers into their middle hold, as C++ programs hold them; each announced as
// "held NAME" with what explains it; then it ends or, with any argument, waits. Compiled for the old std::string.
#include <new>
#include <string>

#include "leave.h"

#if _GLIBCXX_USE_CXX11_ABI
#error "this is about strings that share their characters: -D_GLIBCXX_USE_CXX11_ABI=0"
#endif

static const char *name = nullptr;

void *operator new(std::size_t size)
{
    void *block = fill(malloc(size), size);
    if (name)
        say("held", name, block, size);
    return block;
}

void *operator new[](std::size_t size)
{
    return operator new(size);
}

void operator delete(void *block) noexcept
{
    free(block);
}

void operator delete(void *block, std::size_t) noexcept
{
    free(block);
}

void operator delete[](void *block) noexcept
{
    free(block);
}

void operator delete[](void *block, std::size_t) noexcept
{
    free(block);
}

struct Element {
    long value[3];
    ~Element()
    {
        value[0] = 0;
    }
};

struct First {
    long one = 1;
    virtual ~First() = default;
};

struct Second {
    long two = 2;
    virtual ~Second() = default;
    virtual long get() const
    {
        return two;
    }
};

struct Both : First, Second {
    long more[4] = {};
    long get() const override
    {
        return one + two;
    }
};

struct Virtual : virtual Second {
    long three = 3;
    long get() const override
    {
        return three;
    }
};

// What holds each of them, for others to see: the compiler has to write it.
Element *arrays[4];
Second *bases[4];
char *lengths[4];
char *plain[4];
alignas(std::string) char memory[4][sizeof(std::string)];

static NOINLINE void make()
{
    for (int i = 0; i < 4; i++) {
        name = "stdstring";
        new (memory[i]) std::string(10 + 100 * i, 'x');
        name = "newarray";
        arrays[i] = new Element[2 + 30 * i];
        name = "multipleinheritance";
        if (i % 2)
            bases[i] = new Virtual;
        else
            bases[i] = new Both;
        name = "length64";
        std::size_t length = 40 + 1000 * i;
        char *block = static_cast<char *>(operator new(length + 8));
        memcpy(block, &length, 8);
        lengths[i] = block + 8;
        // What only such a block leads to comes along with it.
        void *held = known("held", "behind", 72);
        memcpy(lengths[i] + 8, &held, sizeof held);
        name = "unexplained";
        plain[i] = static_cast<char *>(operator new(72)) + 8;
    }
    name = nullptr;
}

int main(int argc, char **)
{
    make();
    if (argc > 1)
        ready();
    leave();
}
