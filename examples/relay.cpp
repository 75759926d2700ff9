// A mail relay that loses memory in the ways that docs/reading.md tells of, prints "ready" and waits.
//
// What it loses: 30 messages that were sent and never deleted (or so many as its argument tells),
// each with its body and subject; a session and its log, which both lead to one name; two peers that
// point at each other. What it does not lose: a buffer of which only the place to read on from is
// known, a job whose pointer has a tag in its highest bits. What nobody finds: a receipt that is
// lost, but for a number that happens to be its address.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>
#include <vector>

namespace relay {

struct Message {
    explicit Message(int number) : id(number), body(600, 'x') {
        subject = "Your order number " + std::to_string(number);
    }
    virtual ~Message() = default;
    long id;
    std::string subject;
    std::vector<char> body;
};

struct Peer {
    virtual ~Peer() = default;
    Peer *other = nullptr;
};

struct Session {
    virtual ~Session() = default;
    char *name = nullptr;
    long since[6] = {};
};

struct Log {
    virtual ~Log() = default;
    char *name = nullptr;
};

struct Job {
    virtual ~Job() = default;
    long priority = 7;
    char text[48] = "deliver at night";
};

}  // namespace relay

// volatile: the compiler must not find out that nobody reads them.
static relay::Message *volatile queue[10];
static char *volatile read_on;
static volatile uintptr_t tagged_job;
static volatile long checksums[4];

__attribute__((noinline)) static void work(int messages) {
    for (int i = 0; i < messages + 10; i++)  // what was sent is overwritten, not deleted
        queue[i % 10] = new relay::Message(1000 + i);

    auto *volatile session = new relay::Session;
    auto *volatile log = new relay::Log;
    session->name = log->name = new char[100];
    strcpy(session->name, "mail.example.org");

    auto *volatile one = new relay::Peer, *volatile other = new relay::Peer;
    one->other = other;
    other->other = one;

    char *volatile buffer = new char[4000];
    memset(buffer, 0, 4000);
    strcpy(buffer, "MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\n");
    read_on = buffer + 27;  // the second line

    tagged_job = reinterpret_cast<uintptr_t>(new relay::Job) | uintptr_t{7} << 48;

    char *volatile receipt = new char[200];
    memset(receipt, 0, 200);
    strcpy(receipt, "250 2.0.0 Ok: queued");
    checksums[2] = reinterpret_cast<long>(receipt);
}

__attribute__((noinline)) static void scrub() {
    // What work() left below the stack pointer is overwritten, so that no stale word there holds
    // anything.
    volatile char frames[16384];
    for (char volatile &byte : frames) byte = 0;
}

int main(int count, char **arguments) {
    work(count > 1 ? atoi(arguments[1]) : 30);
    scrub();
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}
