/* sequence.pml - one number, one frame, over killed writers and replaced segments.
 *
 * Follows: highest_sequence, read_predecessor, bshm_predecessor_reclaim of names.c; bshm_segment_create, publish_name
 * (base_sequence, series) of segment.c; replace_segment, finish_frame, cancel_lent of writer.c; pin_newest of
 * frame.c; check_for_successor, use_attachment, count_skipped of reader.c.
 *
 * Modelled
 *   Any number of writers, one after another (names.pml shows that there is never more than one), each killed
 *   before any shared store. A writer takes over from the dead one, perhaps after punching slots out to make room,
 *   creates a segment (and starts over if its temporary was removed before the rename), publishes, cancels loans,
 *   replaces itself. One reader with a lease follows the name; a new one may take its place at any time.
 *   Any number of segments, of which two are kept: `segment[NEWEST]` has the name, `segment[OLD]` is an older one
 *   that the reader is still attached to. A rename moves the newest there, or drops it.
 *
 * Abstracted
 *   Which of the free slots is taken: the first, so that one is soon used again; or any (ANY_SLOT), which is more
 *   than W1 allows. The dead writer's words are read in one step: its lock is held, so only pins can change. One
 *   token, three slots. Each run watches one number, which can be any. Killed readers: lease.pml. Segments that were
 *   closed, after which numbers begin at 1 again. History, and readers of every frame.
 *
 * Checked
 *   promise 4   a number that a reader was shown is never given to another frame; for a reader numbers only rise
 *               the series is kept wherever the count goes on, so that skipped frames can be counted
 *               the last frame of a segment is read before its successor's first
 */
#ifndef FRAMES
#define FRAMES 4 /* highest number */
#endif
#define SLOTS   3
#define DETACHED  0
#define NEWEST  1
#define OLD     2
#define NOWHERE 255

typedef Slot { byte seq; bit pinned; bit writing };
typedef Segment { Slot slot[SLOTS]; byte latest_n; byte latest_slot; byte base };

Segment segment[3];
bool named;     /* a writer has had the name */
byte attached;  /* the reader: DETACHED, NEWEST or OLD */
byte at;        /* ... and the slot it deals with */
/* Not shared memory. */
byte watched;   /* a number, and where the frame is that a reader got with it; 0: no frame yet */
byte shown;

#define STEP(...) if :: atomic { __VA_ARGS__ } :: goto killed fi
/* A complete frame by its place: a slot of one segment never has the same number for two frames. */
#define FRAME_IN(g, s) (4 * (g) + (s))

inline forget(g)
{
    i = 0;
    do
    :: i < SLOTS ->
        segment[g].slot[i].seq = 0;
        segment[g].slot[i].pinned = 0;
        segment[g].slot[i].writing = 0;
        i++
    :: else -> break
    od;
    i = 0;
    segment[g].latest_n = 0;
    segment[g].latest_slot = 0;
    segment[g].base = 0;
    if :: shown > 0 && shown >> 2 == g -> shown = NOWHERE :: else fi
}

/* The newest becomes the old one. Only the slots of it that the reader may still use are kept. */
inline set_aside()
{
    i = 0;
    do
    :: i < SLOTS ->
        if
        :: i == segment[NEWEST].latest_slot || i == at ->
            segment[OLD].slot[i].seq = segment[NEWEST].slot[i].seq;
            segment[OLD].slot[i].pinned = segment[NEWEST].slot[i].pinned;
            segment[OLD].slot[i].writing = segment[NEWEST].slot[i].writing
        :: else
        fi;
        i++
    :: else -> break
    od;
    segment[OLD].latest_n = segment[NEWEST].latest_n;
    segment[OLD].latest_slot = segment[NEWEST].latest_slot;
    if :: shown > 0 && shown >> 2 == NEWEST -> shown = shown + 4 * (OLD - NEWEST) :: else fi;
    attached = OLD
}

#define NEW segment[NEWEST]

#ifdef ODD_ROUNDED_DOWN
#define NUMBER_OF(seq) ((seq) >> 1)
#else
#define NUMBER_OF(seq) (((seq) + 1) >> 1)
#endif

inline highest_sequence()
{
#ifdef BEGINS_AT_ONE
    highest = 0;
#else
    highest = NEW.latest_n;
#ifndef LATEST_ALONE
    s = 0;
    do
    :: s < SLOTS -> highest = (NUMBER_OF(NEW.slot[s].seq) > highest -> NUMBER_OF(NEW.slot[s].seq) : highest); s++
    :: else -> break
    od;
    s = 0;
#endif
#ifndef BASE_FORGOTTEN
    highest = (NEW.base > highest -> NEW.base : highest);
#endif
#endif
}

/* W3: any slot but `latest`'s that is not pinned. */
#define IS_LATEST(i) (NEW.latest_n > 0 && NEW.latest_slot == i)
#define CAN_CLAIM(i) (!NEW.slot[i].pinned && !IS_LATEST(i))
inline claim()
{
#ifdef ANY_SLOT
    if :: CAN_CLAIM(0) -> s = 0 :: CAN_CLAIM(1) -> s = 1 :: CAN_CLAIM(2) -> s = 2 fi;
#else
    if :: CAN_CLAIM(0) -> s = 0 :: else -> if :: CAN_CLAIM(1) -> s = 1 :: else -> s = 2 fi fi;
#endif
    NEW.slot[s].writing = 1
}

proctype Writers()
{
    byte s, i;
    byte n;        /* *sequence */
    byte highest;  /* predecessor->sequence; 0: none, or its own segment */
    bit same;      /* `series` is the one that the name led to so far */
    bit replacing; /* itself */
    bool reclaimed;
born:
    if
    :: named ->
        atomic { highest_sequence() };
        if
        :: atomic { !reclaimed -> reclaimed = true }; goto reclaim
        :: true
        fi
    :: else
    fi;
create: /* bshm_segment_create */
#ifdef REPLACEMENT_BEGINS_AT_ONE
    n = 0;
#endif
    same = replacing;
attempt: /* publish_name */
    atomic { if :: highest > n -> n = highest; same = 1 :: else fi };
    if
    :: atomic { /* rename */
           assert(n == 0 || same);
           if :: attached == NEWEST -> set_aside() :: else fi;
           forget(NEWEST);
           NEW.base = n;
           named = true;
           highest = 0;
           same = 0;
           replacing = 1
       }
#ifdef SERIES_LOST_WITH_THE_TEMPORARY
    :: goto create
#else
    :: goto attempt                                                /* ENOENT: the temporary was removed */
#endif
    :: goto killed
    fi;
live:
    atomic { s = 0; reclaimed = false };
    if
    :: n < FRAMES -> goto publish
    :: n < FRAMES -> goto cancel
    :: goto create                                                 /* a larger frame; n goes on */
    :: goto killed
    fi;

publish:
    STEP(claim(); n++);                                            /* W3 */
    STEP(NEW.slot[s].seq = 2 * n - 1);                             /* W4, W6 */
    STEP(NEW.slot[s].seq = 2 * n);                                 /* W8 */
    STEP(NEW.slot[s].writing = 0);                                 /* W9 */
    STEP(NEW.latest_n = n; NEW.latest_slot = s);                   /* W10 */
    goto live;

cancel:
    STEP(claim());
    STEP(NEW.slot[s].seq = 2 * n + 1);
    STEP(NEW.slot[s].writing = 0);
    goto live;

reclaim: /* bshm_predecessor_reclaim: the slot stays a hole, which is never read as a frame */
    s = 0;
    do
    :: s < SLOTS && IS_LATEST(s) -> s++
    :: s < SLOTS && !IS_LATEST(s) ->
        STEP(if :: NEW.slot[s].pinned -> goto next :: else -> NEW.slot[s].writing = 1 fi);
#ifdef HOLE_FORGETS_ITS_NUMBER
        STEP(NEW.slot[s].seq = 1);
#else
        STEP(if :: NEW.slot[s].seq > 0 -> NEW.slot[s].seq = 2 * NUMBER_OF(NEW.slot[s].seq) - 1 :: else fi);
#endif
next:
        s++
    :: s == SLOTS -> break
    od;
    s = 0;
    goto create;

killed:
    atomic { s = 0; n = 0; highest = 0; same = 0; replacing = 0 };
    goto born
}

#define G segment[attached]
#define S segment[attached].slot[at]
proctype Reader()
{
    byte n, q, seen, last, i;
    bit busy;
poll:
    atomic { at = 0; n = 0; q = 0; busy = 0 };
    if
    :: attached == DETACHED -> atomic { named -> attached = NEWEST }; goto poll
    :: attached != DETACHED -> /* take_newest */
        atomic { n = G.latest_n; at = G.latest_slot };             /* R1 */
        if :: n <= seen -> goto nothing_new :: else fi
    :: atomic { /* another reader, which starts here */
           attached != DETACHED && last > 0;
           if :: attached == OLD -> forget(OLD) :: else fi;
           attached = DETACHED;
           seen = 0;
           last = 0
       };
       goto poll
    fi;
    atomic { S.pinned = 1; busy = S.writing };                     /* R2 */
    if :: busy -> S.pinned = 0; goto poll :: else fi;              /* R3 */
    q = S.seq;                                                     /* R4 */
    if :: (q & 1) || q < 2 * n -> S.pinned = 0; goto poll :: else fi;
    atomic {
        n = q >> 1;
        assert(n > last);
        if
        :: n == watched ->
            assert(shown == 0 || shown == FRAME_IN(attached, at));
            shown = FRAME_IN(attached, at)
        :: else
        fi;
        seen = n;
        last = n
    };
    S.pinned = 0;                                                  /* R6, sooner or later or never */
    goto poll;

nothing_new: /* check_for_successor */
    at = 0;
#ifdef NEWS_LOOKED_FOR_BEFORE_THE_NAME
    if :: G.latest_n > seen -> goto poll :: else fi;
    if :: attached == NEWEST -> goto poll :: else fi;
#else
    if :: attached == NEWEST -> goto poll :: else fi;
    if :: G.latest_n > seen -> goto poll :: else fi;
#endif
    atomic { assert(G.latest_n <= seen); forget(OLD); attached = NEWEST; seen = 0 };
    goto poll
}

init {
    atomic {
        watched = 1;
        do :: watched < FRAMES -> watched++ :: break od;
        run Writers();
        run Reader()
    }
}
