// Containers that are lost, or held, as a whole: each names its blocks "lost NAME" or "held NAME".
// A lost one has one head, whatever it is made of; then it ends.
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "leave.h"

static const char *verdict, *name;

void *operator new(std::size_t size)
{
    void *block = fill(malloc(size), size);
    if (name)
        say(verdict, name, block, size);
    return block;
}

void operator delete(void *block) noexcept
{
    // What a container gave up while it grew: its blocks are printed before this.
    if (name)
        say("freed", name, block, 0);
    free(block);
}

void operator delete(void *block, std::size_t) noexcept
{
    operator delete(block);
}

struct Tree {
    std::unique_ptr<Tree> left, right;
    explicit Tree(int depth)
        : left(depth ? new Tree(depth - 1) : nullptr), right(depth ? new Tree(depth - 1) : nullptr)
    {
    }
};

struct Friend {
    std::shared_ptr<Friend> other;
    std::weak_ptr<Friend> watched;
    long payload[4] = {};
};

struct Left {
    long one = 1;
    virtual ~Left() = default;
};

struct Right {
    std::unique_ptr<long> owned{new long(2)};
    virtual ~Right() = default;
};

struct Joined : Left, Right {
    std::vector<long> numbers = std::vector<long>(20);
};

// For others to see: the compiler has to write it.
std::map<int, std::string> held_map;
std::shared_ptr<Friend> held_friend;
std::weak_ptr<Friend> held_watch;
Right *held_base;
std::string held_text;

template <class Make> static NOINLINE void lose(const char *what, Make make)
{
    verdict = "lost";
    name = what;
    make();
    name = nullptr;
}

static NOINLINE void lose_all()
{
    lose("tree", [] { new Tree(5); });
    lose("map", [] {
        auto &map = *new std::map<int, std::string>;
        for (int i = 0; i < 40; i++)
            map[i] = std::string(20 + i, 'm');
    });
    lose("list", [] { new std::list<int>(50, 7); });
    lose("vector", [] { new std::vector<std::string>(30, std::string(50, 'v')); });
    lose("hash", [] {
        auto &map = *new std::unordered_map<std::string, int>;
        for (int i = 0; i < 30; i++)
            map[std::string(30, 'a' + i)] = i;
    });
    lose("shared-cycle", [] {
        auto a = std::make_shared<Friend>();
        auto b = std::make_shared<Friend>();
        a->other = b;
        b->other = a;
        b->watched = a;
    });
    lose("separate-cycle", [] { // the object and its count are two blocks
        std::shared_ptr<Friend> a(new Friend), b(new Friend);
        a->other = b;
        b->other = a;
    });
    lose("joined", [] { new Joined; });
}

static NOINLINE void hold_all()
{
    verdict = "held";
    name = "reachable";
    for (int i = 0; i < 20; i++)
        held_map[i] = std::string(20 + i, 'h');
    held_friend = std::make_shared<Friend>();
    held_friend->other = std::make_shared<Friend>();
    held_friend->other->other = held_friend->other;
    {
        auto watched = std::make_shared<Friend>();
        held_watch = watched; // what is gone keeps its count
    }
    held_base = new Joined;
    held_text = std::string(100, 't');
    name = nullptr;
}

int main()
{
    lose_all();
    hold_all();
    leave();
}
