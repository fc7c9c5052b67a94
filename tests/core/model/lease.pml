/* lease.pml - leases and their tokens, with SIGKILL between any two shared accesses.
 *
 * Follows: protocol.h; the claim of writer.c (claim_backed, finish_frame, cancel_lent); the tokens of attachment.c
 * (bshm_token_take, lock_new_token, bshm_token_release, destroy); the pins of frame.c (share_pin, pin_newest,
 * fill_pinned, bshm_frame_release) and its unpinned copies (bshm_attachment_find, bshm_frame_copy).
 *
 * Modelled
 *   One writer publishes FRAMES frames and cancels any number of loans. READERS reader processes acquire frames to
 *   hold or to copy, share a pin, release, close and attach again, forever; each keeps up to LEASES tokens, and
 *   takes transient ones for copies. COPIERS read without a pin.
 *   `latest` is one word, so one atomic step reads or writes both its halves. A pin word is `pins` (token bits) and
 *   `writing` (bit 63). R2 is two accesses, as in ordering.h: the bit is set, then the word is loaded. Pixels and
 *   descriptor are two cells. `owner[t]` is the kernel's lock on a token, released some time after its process died.
 *   A killed reader is followed by a new one. A killed writer takes no further step: such runs are explored like any
 *   others.
 *
 *   With HISTORY, readers ask for any frame of the window (bshm_attachment_pin_number, bshm_attachment_find_number): they
 *   load `latest`, then the seq of each slot. Here that search is one step: a slot is found, or none, by what all of
 *   them hold at that moment. A search that takes longer finds no other slot: a number is given to one slot only.
 *
 * Abstracted
 *   Memory order: every step is sequentially consistent (README.md says where weaker orders were checked). Growth:
 *   all slots have memory (availability.pml grows). `seen`, the plain load before R0, the limit of 8 attempts, the
 *   pause after a search without a free token: a reader here may treat a frame as new or as seen, and try at any time
 *   and forever, which is more than the code does. At most two frames share a pin. Numbers end at FRAMES, readers do
 *   not end.
 *
 * Checked
 *   promise 1   the writer never writes to a slot that has a lease; a frame handed out is whole and has its number
 *   promise 2   the writer finds a slot in one pass
 *   promise 4   both, under any kills; after the clear no slot carries the token; a token pins one slot at most
 *   history     the writer never claims a slot of the window; a frame of the window can always be read
 *   promise 6   R3, R4 and the check of a copy fail only when `latest` has moved on: the newest frame can always be
 *               read
 */
#ifndef HISTORY
#define HISTORY 0
#endif
#ifndef SLOTS
#define SLOTS (3 + HISTORY)
#endif
#ifndef READERS
#define READERS 2
#endif
#ifndef LEASES
#define LEASES 1
#endif
#ifndef FRAMES
#define FRAMES 4
#endif
#ifndef COPIERS
#define COPIERS 0
#endif
#if SLOTS > 4 + HISTORY
#error "between_calls knows of two tokens"
#endif
#define TOKENS  (SLOTS - 2 - HISTORY)
#define JUNK    99 /* what a cancelled loan leaves in the pixels */
#define BIT(t)  (1 << (t))

byte latest_n, latest_slot;
byte seq[SLOTS], top[SLOTS], bottom[SLOTS];
byte pins[SLOTS];
bit writing[SLOTS];
byte owner[TOKENS]; /* 0: none */
byte held[SLOTS];   /* not in the segment: the number of live views */

/* One shared access with the private work around it; or the process is killed instead. */
#define STEP(...) if :: atomic { __VA_ARGS__ } :: goto killed fi

/* ---------------------------------------------------------------- the writer */

#ifdef PINS_IGNORED
#define UNPINNED(word) true
#else
#define UNPINNED(word) ((word) == 0)
#endif
/* How many slots at the beginning of `order` hold the window: the newest frame and the history before it. */
#ifdef LATEST_IS_A_CANDIDATE
#define WINDOW 0
#elif defined(HISTORY_IS_A_CANDIDATE)
#define WINDOW (n > 1 -> 1 : 0)
#else
#define WINDOW (n - 1 > HISTORY -> HISTORY + 1 : n - 1)
#endif
#ifdef CLAIM_BY_STORE
#define CLAIM(s) writing[s] = 1; pins[s] = 0; claimed = 1
#else
#define CLAIM(s) if :: UNPINNED(pins[s]) -> writing[s] = 1; claimed = 1 :: else fi
#endif

/* Promise 1 is the assertion. */
#define WRITE(cell, value) atomic { assert(!held[s]); cell[s] = value }

#define W4  WRITE(seq, 2 * n - 1)
#define W6a WRITE(top, n)
#define W6b WRITE(bottom, n)
#define W8  WRITE(seq, 2 * n)
#define W9  writing[s] = 0
#define W10 atomic { latest_n = n; latest_slot = s }

proctype Writer()
{
    byte n = 1, s, i, word;
    bit claimed;
    byte order[SLOTS]; /* most recently published first */
    d_step { i = 0; do :: i < SLOTS -> order[i] = i; i++ :: else -> break od }

    do
    :: n <= FRAMES ->
        d_step { i = 0; claimed = 0; word = 0 }
        do
        :: claimed -> break
        :: !claimed ->
            assert(i < SLOTS); /* promise 2: one pass */
            s = order[i];
            i++;
            if
            :: i <= WINDOW
            :: else ->
                word = pins[s];                                    /* W2 */
                if
                :: !UNPINNED(word)
                :: else -> atomic { CLAIM(s) }                     /* W3 */
                fi
            fi
        od;
        /* the history is kept: n - 1 is the newest frame */
        assert((seq[s] & 1) || seq[s] == 0 || (seq[s] >> 1) + HISTORY < n - 1);
        if
        :: true ->
#ifdef SEQ_AFTER_PIXELS
            W6a; W6b; W4; W8;
#elif defined(COMPLETE_BEFORE_PIXELS)
            W4; W8; W6a; W6b;
#else
            W4; W6a; W6b; W8;
#endif
#ifdef LET_GO_AFTER_SHOWN
            W10; W9;
#else
            W9; W10;
#endif
            d_step { /* move_to_front, and the next number */
#ifndef LATEST_IS_A_CANDIDATE
                i = 0;
                do :: order[i] != s -> i++ :: else -> break od;
                do :: i > 0 -> order[i] = order[i - 1]; i-- :: else -> break od;
                order[0] = s;
#endif
                n++
            }
        :: true -> /* the loan is cancelled half filled: seq stays odd, n is not used up */
            W4;
            WRITE(top, JUNK);
            W9
        fi
    :: else -> break
    od
}

/* ---------------------------------------------------------------- a reader with leases */

/* A frame of the window can always be read: a failure is excused only if `latest` has moved on. */
#define MOVED_ON assert(latest_n > n + HISTORY)

/* After R1: frame n, or an earlier one of the window, `back` frames before. Its slot is the one whose seq says so. */
#if HISTORY > 0
#define FORGET back = 0
#define CHOOSE_NUMBER                                                                                                  \
    back = 0;                                                                                                          \
    do                                                                                                                 \
    :: back < HISTORY && n > 1 -> n--; back++                                                                          \
    :: break                                                                                                           \
    od
#define FIND_SLOT                                                                                                      \
    if                                                                                                                 \
    :: back > 0 -> s = 0; do :: s < SLOTS && seq[s] != 2 * n -> s++ :: else -> break od                                \
    :: else                                                                                                            \
    fi;                                                                                                                \
    if :: s == SLOTS -> MOVED_ON :: else fi
#define R4_REFUSES ((q & 1) || q < 2 * n || (back > 0 && q != 2 * n))
#else
#define CHOOSE_NUMBER skip
#define FORGET        skip
#define R4_REFUSES    ((q & 1) || q < 2 * n)
#endif

#define NOT_MINE 0
#define KEPT     1
#define PASSING  2

/* Not an access: an invariant of all slots. */
inline no_slot_carries(t)
{
    k = 0;
    do :: k < SLOTS -> assert(!(pins[k] & BIT(t))); k++ :: else -> break od;
    k = 0
}

#define UNPIN(s, t)   pins[s] = pins[s] & ~BIT(t)
#define GIVE_UP(t)    owner[t] = 0; mine[t] = NOT_MINE
#define SEES_WRITING  failed = writing[s]

proctype Reader(byte me)
{
    byte n, s, q, t, k;
#if HISTORY > 0
    byte back;
#endif
    bit to_copy, failed;
    /* attachment->leases, by token */
    byte mine[TOKENS], slot[TOKENS], frames[TOKENS], number[TOKENS]; /* lease->seq is 2 * number */

between_calls:
    atomic { n = 0; s = 0; q = 0; t = 0; k = 0; to_copy = 0; failed = 0; FORGET }
    if
    :: goto acquire
    :: frames[0] > 0 -> t = 0; goto release
#if TOKENS > 1
    :: frames[1] > 0 -> t = 1; goto release
    :: frames[0] == 0 && frames[1] == 0 -> goto close
#else
    :: frames[0] == 0 -> goto close
#endif
    :: goto killed
    fi;

release:
#ifdef FIRST_RELEASE_UNPINS
    STEP(UNPIN(slot[t], t);
         frames[t]--;
         if :: frames[t] == 0 -> held[slot[t]]--; slot[t] = 0; number[t] = 0 :: else fi);
#else
    if
    :: frames[t] > 1 -> frames[t]--; goto between_calls
    :: frames[t] == 1
    fi;
#ifdef GIVEN_UP_BEFORE_UNPINNED
    if :: mine[t] == PASSING -> STEP(GIVE_UP(t)) :: else fi;
#endif
    STEP(UNPIN(slot[t], t); held[slot[t]]--; frames[t] = 0; slot[t] = 0; number[t] = 0); /* R6 */
#endif
    if :: frames[t] == 0 && mine[t] == PASSING -> STEP(GIVE_UP(t)) :: else fi;
    goto between_calls;

acquire:
    if :: to_copy = 0 :: to_copy = 1 fi;
    /* share_pin: a frame that this reader has pinned already takes no token */
    STEP(n = latest_n; s = latest_slot; CHOOSE_NUMBER);
    if :: n == 0 -> goto between_calls :: n > 0 -> goto between_calls :: n > 0 fi; /* nothing new, perhaps */
#if HISTORY > 0
    STEP(FIND_SLOT);
#endif
    atomic {
        t = 0;
        do :: t < TOKENS && !(frames[t] > 0 && slot[t] == s && number[t] == n) -> t++ :: else -> break od
    }
    if
    :: t < TOKENS && frames[t] < 2 -> STEP(q = seq[s]; assert(q == 2 * n); frames[t]++); goto between_calls
    :: t < TOKENS && frames[t] == 2 -> goto between_calls
    :: else
    fi;
    /* bshm_token_take: one of its own tokens that pins nothing, or a new one */
    atomic {
        FORGET;
        n = 0;
        s = 0;
        k = 0; /* kept */
        t = 0;
        do
        :: t < TOKENS && mine[t] == KEPT && frames[t] == 0 -> break
        :: t < TOKENS && !(mine[t] == KEPT && frames[t] == 0) -> k = k + (mine[t] == KEPT -> 1 : 0); t++
        :: else -> break
        od
    }
    if
    :: t < TOKENS -> k = 0
    :: else ->
        if :: k >= LEASES -> to_copy = 1 :: else fi;
        atomic { k = 0; t = 0 };
        do
        :: t < TOKENS ->
            STEP(if :: owner[t] == 0 -> owner[t] = me; k = 1 :: else -> t++ fi);
            if :: k == 1 -> break :: else fi
        :: else -> goto between_calls                                /* an unpinned copy: Copier */
        od;
        k = 0;
#ifndef TOKEN_NOT_CLEARED
        do :: k < SLOTS -> STEP(pins[k] = pins[k] & ~BIT(t); k++) :: else -> break od;
        atomic { no_slot_carries(t) }
#endif
        mine[t] = (to_copy -> PASSING : KEPT)
    fi;

again: /* pin_newest */
    STEP(n = latest_n; s = latest_slot; CHOOSE_NUMBER);              /* R1 */
    if :: n == 0 -> goto not_pinned :: n > 0 -> goto not_pinned :: n > 0 fi;
#if HISTORY > 0
    STEP(FIND_SLOT);
    if :: s == SLOTS -> goto failed_attempt :: else fi;
#endif
#ifdef LOOK_BEFORE_PIN
    STEP(q = seq[s]);
    if :: (q & 1) || q < 2 * n -> goto failed_attempt :: else fi;
#endif
#ifdef LOOK_FOR_WRITING_BEFORE_PIN
    STEP(SEES_WRITING);
#endif
    STEP(no_slot_carries(t); pins[s] = pins[s] | BIT(t));            /* R2: the bit, */
#ifndef NO_R3
#ifndef LOOK_FOR_WRITING_BEFORE_PIN
    STEP(SEES_WRITING);                                              /* then the load */
#endif
    if
    :: failed -> STEP(MOVED_ON; UNPIN(s, t)); goto failed_attempt    /* R3 */
    :: else
    fi;
#endif
#ifdef LOOK_BEFORE_PIN
    STEP(held[s]++);
#elif defined(NO_R4)
    STEP(q = 2 * n; held[s]++);
#else
    STEP(q = seq[s]; if :: R4_REFUSES -> failed = 1 :: else -> held[s]++ fi); /* R4 */
    if
    :: failed -> STEP(MOVED_ON; UNPIN(s, t)); goto failed_attempt
    :: else
    fi;
#endif
    atomic { /* fill_pinned: whole, and with this number; that it stays so is asserted in the writer */
        slot[t] = s;
        number[t] = q >> 1;
        frames[t] = 1;
        assert(top[s] == number[t] && bottom[s] == number[t])
    }
#ifdef LOCK_DROPPED_UNDER_A_VIEW
    owner[t] = 0;
#endif
    goto between_calls;

failed_attempt:
    atomic { failed = 0; n = 0; s = 0; q = 0; FORGET };
    if :: goto again :: goto not_pinned fi;
not_pinned:
    if :: mine[t] == PASSING -> STEP(GIVE_UP(t)) :: else fi;
    goto between_calls;

close:
    /* destroy: no view is left, nothing is pinned */
    t = 0;
    do
    :: t < TOKENS && mine[t] == NOT_MINE -> t++
    :: t < TOKENS && mine[t] != NOT_MINE -> STEP(GIVE_UP(t); t++)
    :: else -> break
    od;
    goto between_calls;

killed:
    /* The kernel has released its memory, and so its views, then its locks. Its pins stay. */
    atomic {
        t = 0;
        do
        :: t < TOKENS ->
            if :: frames[t] > 0 -> held[slot[t]]--; frames[t] = 0; slot[t] = 0; number[t] = 0 :: else fi;
            if :: owner[t] == me -> owner[t] = 0 :: else fi;
            mine[t] = NOT_MINE;
            t++
        :: else -> break
        od
    }
    goto between_calls
}

/* ---------------------------------------------------------------- a reader without a pin */

proctype Copier()
{
    byte n, s, q, a, b;
#if HISTORY > 0
    byte back;
#endif
again:
    atomic { n = 0; s = 0; q = 0; a = 0; b = 0; FORGET }
    atomic { n = latest_n; s = latest_slot; CHOOSE_NUMBER };       /* R1 */
    if :: n == 0 -> goto again :: else fi;
#if HISTORY > 0
    atomic { FIND_SLOT };
    if :: s == SLOTS -> goto again :: else fi;
#endif
    atomic {
        q = seq[s];
        if :: R4_REFUSES -> MOVED_ON; goto again :: else fi
    }
    a = top[s];
    b = bottom[s];
#ifndef COPY_NOT_CHECKED
    if :: seq[s] != q -> goto again :: else fi;                    /* R5 */
#endif
    assert(a == q >> 1 && b == q >> 1);
    goto again
}

init {
    byte r;
    atomic {
        run Writer();
        do :: r < READERS -> r++; run Reader(r) :: else -> break od;
        r = 0;
        do :: r < COPIERS -> r++; run Copier() :: else -> break od
    }
}
