/* availability.pml - the writer finds a slot in one pass, on a processor with store buffers.
 *
 * Follows: claim_slot, claim_backed, claim_unbacked of writer.c (W1 to W3); W9 to W11 and R0 to R2 of protocol.h;
 * lock_new_token, bshm_token_take and bshm_token_release of attachment.c; pin_newest of frame.c.
 *
 * Modelled
 *   The writer publishes forever. Each token in use is one process, which stands for all its owners, one after
 *   another. An owner pins and unpins forever, and may be killed before any access (or release an unpinned token,
 *   which looks the same). The next owner clears the token first.
 *   Store buffers as in x86-TSO: the writer's store of `latest` (W10) waits in a buffer that drains at any time, and
 *   is empty after a locked instruction (W3, W9) and after a fence (W11). One entry is enough: W3 empties it before
 *   the next W10. Every other shared access that matters here is a locked instruction or a load.
 *   RMW_IS_NO_FENCE: a processor whose atomic read-modify-writes do not empty the buffer (ARM). W3 does not wait for
 *   W10, and the clearing of a pin (R0, R3, R6) may become visible after later loads, up to the next fence (R0) or
 *   release (R2). Clears of one owner drain in any order, which is weaker than such processors are.
 *   Growth: BACKED slots have memory at first; giving another one memory may succeed or fail at any time.
 *
 *   History: `latest` is the set of the slots in the window {newest, ..., newest - HISTORY}, and an owner pins any of
 *   them. A reader knows less: it reads the number n, and takes the slot whose seq is 2m, n - HISTORY <= m <= n. That
 *   slot has been frame m's, so it is in the set that belongs to n.
 *
 * Abstracted
 *   No frame numbers, seq or pixels, so no R3, R4 and `seen`: an owner may unpin at once, or later, or never.
 *   Readers do less than that, and the number of states does not depend on the number of frames. A pin that two
 *   frames share is one pin for the writer.
 *
 * Checked
 *   promise 2   when all slots have memory, PASSES passes (1, as in the code) find one; a slot that just got memory
 *               is free
 *   promise 5   with HOLDERS tokens in use, no more than HOLDERS + 2 + HISTORY slots ever get memory
 */
#ifndef HISTORY
#define HISTORY 0
#endif
#ifndef SLOTS
#define SLOTS (3 + HISTORY)
#endif
#ifndef BACKED
#define BACKED (3 + HISTORY) /* BSHM_INITIAL_SLOTS and the history */
#endif
#ifdef ONE_TOKEN_TOO_MANY
#define HOLDERS (SLOTS - 1 - HISTORY)
#endif
#ifndef HOLDERS
#define HOLDERS (SLOTS - 2 - HISTORY)
#endif
#ifndef PASSES
#define PASSES 1
#endif
#define NONE   255
#ifdef OLDEST_FIRST /* any order will do */
#define AT(i) (backed - 1 - (i))
#else
#define AT(i) (i)
#endif
#define BIT(i) (1 << (i))

byte latest; /* the slots of the window, as memory has them; 0: no frame yet */
byte buffered = NONE; /* ... and as the writer's store buffer has it; NONE: empty */
byte pins[SLOTS];
bit writing[SLOTS];
byte clearing[HOLDERS]; /* slots whose pin this token's owner has cleared, but not visibly yet */

#define WRITER_BUFFER_EMPTY (buffered == NONE)

#ifdef RMW_IS_NO_FENCE
#define LOCKED_BY_WRITER true
#define CLEAR(s, t) clearing[t] = clearing[t] | (pins[s] & BIT(t) -> BIT(s) : 0)
#else
#define LOCKED_BY_WRITER WRITER_BUFFER_EMPTY
#define CLEAR(s, t) pins[s] = pins[s] & ~BIT(t)
#endif

/* ---------------------------------------------------------------- the writer */

proctype Writer()
{
    byte s, i, word, pass, backed = BACKED, window, slots_shown;
    bit claimed;
    byte order[SLOTS]; /* most recently published first; the first `window` are those of the window */
    d_step { i = 0; do :: i < SLOTS -> order[i] = i; i++ :: else -> break od }

frame:
    atomic { i = 0; pass = 1; claimed = 0; word = 0; s = 0 }
    do
    :: claimed -> break
    :: !claimed && i < backed ->
        s = order[AT(i)];
        i++;
        if
        :: AT(i - 1) < window
        :: else ->
            word = pins[s];                                                        /* W2: a plain load */
            if
            :: word != 0
            :: else ->
                atomic {
                    LOCKED_BY_WRITER -> /* W3 */
                    if
                    :: pins[s] == 0 -> writing[s] = 1; claimed = 1
                    :: else
                    fi
                }
#ifdef WEAK_CAS
                if :: claimed -> claimed = 0; writing[s] = 0 :: skip fi /* failed though it was free */
#endif
            fi
        fi
    :: !claimed && i == backed && backed < SLOTS ->
        if
        :: goto frame                                                              /* no memory: dropped and counted */
        :: s = backed;
           assert(backed < HOLDERS + 2 + HISTORY);                                 /* promise 5 */
           assert(pins[s] == 0);
           atomic {
               LOCKED_BY_WRITER -> writing[s] = 1; claimed = 1;
               backed++ /* order[s] is s: none but the slots before it have moved */
           }
        fi
    :: !claimed && i == backed && backed == SLOTS ->
        assert(pass < PASSES);                                                     /* promise 2 */
        pass++;
        i = 0
    od;
    atomic { WRITER_BUFFER_EMPTY -> writing[s] = 0 };                              /* W4 to W9; W9 is a release */
    atomic {
        i = 0;
        slots_shown = BIT(s);
        do :: i < window && i < HISTORY -> slots_shown = slots_shown | BIT(order[i]); i++ :: else -> break od;
        buffered = slots_shown;                                                    /* W10 */
        slots_shown = 0
    }
#ifndef NO_W11
    WRITER_BUFFER_EMPTY;                                                           /* W11 */
#endif
    atomic { /* move_to_front */
        if :: window <= HISTORY -> window++ :: else fi;
        i = 0;
        do :: order[i] != s -> i++ :: else -> break od;
        do :: i > 0 -> order[i] = order[i - 1]; i-- :: else -> break od;
        order[0] = s
    }
    goto frame
}

/* ---------------------------------------------------------------- the processors */

active proctype DrainLatest()
{
    do
    :: atomic { buffered != NONE -> latest = buffered; buffered = NONE }
    od
}

#ifdef RMW_IS_NO_FENCE
#define DRAIN(s) :: atomic { clearing[t] & BIT(s) -> pins[s] = pins[s] & ~BIT(t); clearing[t] = clearing[t] & ~BIT(s) }

proctype DrainPins(byte t)
{
    do
    DRAIN(0) DRAIN(1) DRAIN(2)
#if SLOTS > 3
    DRAIN(3)
#endif
#if SLOTS > 4
    DRAIN(4)
#endif
    od
}
#endif

/* ---------------------------------------------------------------- one token, from owner to owner */

#define ALL_CLEARED (clearing[t] == 0)

#ifdef PINS_OUTSIDE_THE_WINDOW
#define IN_WINDOW(s) true
#else
#define IN_WINDOW(s) (latest & BIT(s))
#endif
/* A loop over the slots, one of which it stops at. */
#define CHOOSE(place)                                                                                                  \
    place = 0;                                                                                                         \
    do                                                                                                                 \
    :: place < SLOTS && IN_WINDOW(place) -> break                                                                      \
    :: place < SLOTS && (!IN_WINDOW(place) || LATER(place)) -> place++                                                 \
    :: place == SLOTS -> place = NONE; break                                                                           \
    od
#define LATER(place) ((latest >> (place + 1)) != 0) /* there is another one to stop at */

proctype Token(byte t)
{
    byte s, k, next;
unpinned:
#ifndef NO_R0
    if :: ALL_CLEARED :: goto killed fi;                                           /* R0 */
#endif
    if :: atomic { CHOOSE(s) } :: goto killed fi;                                  /* R1 */
    if :: s == NONE -> s = 0; goto unpinned :: else fi;
#ifdef CHOICE_CARRIED_OVER_A_RELEASE
    atomic { CHOOSE(next) }
#endif
pin:
    if :: atomic { ALL_CLEARED -> pins[s] = pins[s] | BIT(t) } :: goto killed fi;  /* R2, a release */
#ifdef R1_BEFORE_THE_TOKEN_IS_FREE
    atomic { CHOOSE(next) }
#endif
#if defined(R1_BEFORE_THE_TOKEN_IS_FREE) || defined(CHOICE_CARRIED_OVER_A_RELEASE)
    if :: atomic { CLEAR(s, t); s = next; next = 0 } :: goto killed fi;
#ifdef CHOICE_CARRIED_OVER_A_RELEASE
    if :: atomic { s != NONE -> next = NONE } :: atomic { s == NONE -> s = 0; goto unpinned } fi;
#endif
    goto pin;
#endif
    if :: atomic { CLEAR(s, t); s = 0 } :: goto killed fi;                         /* R3, R4, R6 */
    goto unpinned;
killed:
    ALL_CLEARED; /* the kernel lets a process go with empty buffers */
    atomic { s = 0; k = 0; next = 0 };
#ifndef TOKEN_NOT_CLEARED
    do
    :: k < SLOTS -> if :: atomic { CLEAR(k, t); k++ } :: goto killed fi
    :: else -> break
    od;
    k = 0;
#endif
    goto unpinned
}

init {
    byte t;
    atomic {
        run Writer();
        do
        :: t < HOLDERS ->
            run Token(t);
#ifdef RMW_IS_NO_FENCE
            run DrainPins(t);
#endif
            t++
        :: else -> break
        od
    }
}
