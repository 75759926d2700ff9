// Trees, lists, shared ownership and cycles, of which the program itself knows which block refers
// to which; prints "ready", and of each block
//   STRUCTURE ADDRESS BYTES COUNT STEPS
// what it alone keeps alive, its own with it, found by taking it away; and how many references
// the shortest way from a variable to it has (0: nothing leads to it, and the first two numbers
// are of what only it leads to).
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <list>
#include <malloc.h>
#include <memory>
#include <string>
#include <unistd.h>

// Not nameless: the compiler must not see that nobody reads the variables.
namespace app {

const uint64_t mask = 0x5a5a5a5a5a5a5a5aUL;

// What the program knows: blocks by number, addresses masked. It takes no memory from the heap:
// what a block was before would lie in the next that is made of it.
struct Known {
    const char *structure;
    uint64_t masked;
    size_t size;
    int refers[8], references;
    bool held;  // by a variable
};
const int most = 256;
Known known[most];
int blocks;

int block(const char *structure, const void *p, bool held = false)
{
    auto masked = (uint64_t)p ^ mask;
    int i = 0;
    while (i < blocks && known[i].masked != masked)
        i++;
    if (i == most)
        abort();
    if (i == blocks)
        known[blocks++] = {structure, masked, malloc_usable_size((void *)p), {}, 0, false};
    known[i].held |= held;
    return i;
}

void edge(const char *structure, const void *from, const void *to)
{
    int source = block(structure, from), target = block(structure, to);
    if (known[source].references == 8)
        abort();
    known[source].refers[known[source].references++] = target;
}

// Counts the steps from the variables (or from `first`) to each block, as if one were not there;
// 0 where nothing leads.
void steps(int *found, int without, int first = -1)
{
    int queue[most], end = 0;
    for (int i = 0; i < blocks; i++) {
        found[i] = i != without && (first < 0 ? known[i].held : i == first);
        if (found[i])
            queue[end++] = i;
    }
    for (int at = 0; at < end; at++) {
        const Known &from = known[queue[at]];
        for (int k = 0; k < from.references; k++) {
            int next = from.refers[k];
            if (next != without && !found[next]) {
                found[next] = found[queue[at]] + 1;
                queue[end++] = next;
            }
        }
    }
}

void tell()
{
    int all[most], left[most], reached[most];
    steps(all, -1);
    for (int i = 0; i < blocks; i++) {
        size_t bytes = 0, count = 0;
        if (all[i])
            steps(left, i);
        else
            steps(reached, -1, i);
        for (int k = 0; k < blocks; k++)
            if (all[i] ? all[k] && !left[k] : reached[k] && !all[k]) {
                bytes += known[k].size;
                count++;
            }
        printf("%s %lx %zu %zu %d\n", known[i].structure,
               (unsigned long)(known[i].masked ^ mask), bytes, count, all[i]);
    }
}

struct Tree {
    long value;
    Tree *left, *right, *parent;
    char padding[40];
};
Tree *tree;

Tree *grow(int depth, Tree *parent)
{
    auto made = new Tree{depth, nullptr, nullptr, parent, {}};
    block("tree", made);
    if (parent)
        edge("tree", made, parent);
    if (depth > 0) {
        made->left = grow(depth - 1, made);
        edge("tree", made, made->left);
        if (depth % 2) {
            made->right = grow(depth - 2, made);
            edge("tree", made, made->right);
        }
    }
    return made;
}

struct Link {
    Link *next, *before;
    long value[5];
};
Link *chain;
std::list<std::string> strings;

void lists()
{
    for (int i = 0; i < 12; i++) {
        auto made = new Link{chain, nullptr, {}};
        if (chain) {
            chain->before = made;
            edge("list", made, chain);
            edge("list", chain, made);
        }
        chain = made;
    }
    block("list", chain, true);
    for (int i = 0; i < 5; i++)
        strings.emplace_back(30 + 20 * i, 'x');
    // Its nodes are a ring through the variable, so that no two neighbours need one another.
    const void *last = nullptr;
    for (auto &text : strings) {
        auto node = (const char *)&text - 2 * sizeof(void *);
        edge("std::list", node, text.data());
        if (last) {
            edge("std::list", last, node);
            edge("std::list", node, last);
        }
        last = node;
    }
    block("std::list", (const char *)&strings.front() - 2 * sizeof(void *), true);
    block("std::list", (const char *)&strings.back() - 2 * sizeof(void *), true);
}

struct Thing {
    long value[9];
};
struct Owner {
    std::shared_ptr<Thing> thing;
    Owner *other;
};
Owner *owners[3];
std::shared_ptr<Thing> *holder;

template <class T> const void *control(const std::shared_ptr<T> &pointer)
{
    return ((void *const *)&pointer)[1];
}

void sharing()
{
    // Two owners of a thing with a block of its own for the counts, one of a thing with them in it.
    owners[0] = new Owner{std::shared_ptr<Thing>(new Thing{}), nullptr};
    owners[1] = new Owner{owners[0]->thing, nullptr};
    owners[2] = new Owner{std::make_shared<Thing>(), nullptr};
    for (int i = 0; i < 2; i++) {
        block("shared", owners[i], true);
        edge("shared", owners[i], owners[i]->thing.get());
        edge("shared", owners[i], control(owners[i]->thing));
    }
    edge("shared", control(owners[0]->thing), owners[0]->thing.get());
    block("make_shared", owners[2], true);
    edge("make_shared", owners[2], control(owners[2]->thing));
    holder = new std::shared_ptr<Thing>(new Thing{});
    block("one owner", holder, true);
    edge("one owner", holder, holder->get());
    edge("one owner", holder, control(*holder));
    edge("one owner", control(*holder), holder->get());
}

Link *entry;

void ring(bool lost)
{
    const char *name = lost ? "lost ring" : "ring";
    Link *ring[6];
    for (auto &link : ring)
        link = new Link{};
    for (int i = 0; i < 6; i++) {
        ring[i]->next = ring[(i + 1) % 6];
        edge(name, ring[i], ring[i]->next);
    }
    auto tail = new Link{};
    ring[3]->before = tail;
    edge(name, ring[3], tail);
    if (!lost) {
        entry = ring[2];
        block(name, entry, true);
    }
}

}  // namespace app

using namespace app;

int main()
{
    setvbuf(stdout, nullptr, _IOFBF, 65536);
    puts("ready");
    tree = grow(7, nullptr);
    block("tree", tree, true);
    lists();
    sharing();
    ring(false);
    ring(true);
    tell();
    fflush(stdout);
    for (;;)
        pause();
}
