/* window.cpp - readers in turn and a writer that keeps a history, where memory is weaker than x86's.
 *
 * Follows: the writer's W1 to W11 and the reader of the window, R0 to R6, of billiards_shm.h.
 *
 * Modelled
 *   A writer publishes FRAMES frames into TOKENS + 2 + HISTORY slots. Each reader owns a token from the start and reads
 *   every frame in turn, with a pin. A pixel is a plain variable, on which Relacy finds data races.
 *
 * Checked, in random schedules of C11's memory, with stale loads
 *   promise 1   the pinned frame is the requested one, and the writer does not touch it while it is pinned
 *   promise 2   the writer finds a slot in one pass
 *   a frame that is not found has left the window
 *
 *     c++ -w -DFRAMES=7 -DNO_R0 window.cpp && ./a.out 100000
 */
#include <relacy/relacy.hpp>

#include <cstdio>
#include <cstdlib>

#ifndef HISTORY
#define HISTORY 1
#endif
#ifndef TOKENS
#define TOKENS 1
#endif
#ifndef FRAMES
#define FRAMES 7
#endif
#ifdef R1_RELAXED
#define R1 rl::mo_relaxed
#else
#define R1 rl::mo_acquire
#endif
#ifdef R6_RELAXED
#define R6 rl::mo_relaxed
#else
#define R6 rl::mo_release
#endif
#ifdef W3_AND_W5_WEAK /* either alone is enough */
#define W3 rl::mo_relaxed
#define W5 rl::mo_release
#else
#define W3 rl::mo_acquire
#define W5 rl::mo_seq_cst
#endif

typedef unsigned long long word;

static const unsigned SLOTS = TOKENS + 2 + HISTORY;
static const word TOKEN_MASK = (1ull << TOKENS) - 1;
static const word WRITING = 1ull << 63;
static const int LOOKS = 8;

struct window : rl::test_suite<window, 1 + TOKENS> {
    rl::atomic<word> latest, seq[SLOTS], pin[SLOTS];
    rl::var<word> pixel[SLOTS];
    unsigned order[SLOTS], kept; /* the writer's own */

    void before()
    {
        latest($) = 0;
        kept = 0;
        for (unsigned s = 0; s < SLOTS; s++) {
            seq[s]($) = 0;
            pin[s]($) = 0;
            pixel[s]($) = 0;
            order[s] = s;
        }
    }

    int claim()
    {
        for (unsigned i = kept; i < SLOTS; i++) {
            word was = pin[order[i]].load(rl::mo_relaxed, $); /* W2 */
            if (!(was & TOKEN_MASK) &&
                pin[order[i]].compare_exchange_strong(was, WRITING, W3, $, rl::mo_relaxed, $)) /* W3 */
                return static_cast<int>(order[i]);
        }
        return -1;
    }

    void move_to_front(unsigned slot)
    {
        unsigned moved = slot;
        for (unsigned at = 0; at == 0 || moved != slot; at++)
            std::swap(order[at], moved);
        kept += kept <= HISTORY;
    }

    void publish(word n)
    {
        int claimed = claim();
        RL_ASSERT(claimed >= 0);
        unsigned s = static_cast<unsigned>(claimed);
        seq[s].store(2 * n - 1, rl::mo_relaxed, $);    /* W4 */
        rl::atomic_thread_fence(W5, $);                /* W5 */
        pixel[s]($) = n;                               /* W6 */
        rl::atomic_thread_fence(rl::mo_seq_cst, $);    /* W7 */
        seq[s].store(2 * n, rl::mo_release, $);        /* W8 */
        pin[s].fetch_and(~WRITING, rl::mo_release, $); /* W9 */
        latest.store(n << 6 | s, rl::mo_release, $);   /* W10 */
#ifndef NO_W11
        rl::atomic_thread_fence(rl::mo_seq_cst, $);
#endif
        move_to_front(s);
    }

    unsigned find(word m)
    {
        unsigned s = 0;
        while (s < SLOTS && seq[s].load(rl::mo_relaxed, $) != 2 * m)
            s++;
        return s;
    }

    void check_that_it_left(word m)
    {
        rl::atomic_thread_fence(rl::mo_acquire, $);
        RL_ASSERT(m + HISTORY < latest.load(rl::mo_acquire, $) >> 6);
    }

    /* True: it was read, or has left the window. */
    bool read(word m, unsigned s, word token)
    {
        bool had = false;
        pin[s].fetch_or(token, rl::mo_acq_rel, $);         /* R2 */
        if (!(pin[s].load(rl::mo_acquire, $) & WRITING)) { /* R3 */
            word q = seq[s].load(rl::mo_acquire, $);       /* R4 */
#ifdef NO_R4
            had = q >= 2 * m;
#else
            had = q == 2 * m;
#endif
        }
        for (int look = 0; had && look < 2; look++)
            RL_ASSERT(pixel[s]($) == m);
        pin[s].fetch_and(~token, R6, $); /* R6 */
        return had;
    }

    void read_in_turn(word token)
    {
        word seen = 0;
        for (int look = 0; look < LOOKS; look++) {
#ifndef NO_R0
            rl::atomic_thread_fence(rl::mo_seq_cst, $);
#endif
            word n = latest.load(R1, $) >> 6;
            word first = n > HISTORY ? n - HISTORY : 1;
            word m = seen + 1 > first ? seen + 1 : first;
            if (m > n)
                continue;
            unsigned s = find(m);
            if (s == SLOTS)
                check_that_it_left(m);
            if (s == SLOTS || read(m, s, token))
                seen = m;
        }
    }

    void thread(unsigned index)
    {
        if (index > 0)
            read_in_turn(1ull << (index - 1));
        else
            for (word n = 1; n <= FRAMES; n++)
                publish(n);
    }
};

int main(int, char **arguments)
{
    rl::test_params parameters;
    parameters.iteration_count = std::strtoul(arguments[1], NULL, 10);
    parameters.search_type = rl::random_scheduler_type;
    return rl::simulate<window>(parameters) ? 0 : 1;
}
