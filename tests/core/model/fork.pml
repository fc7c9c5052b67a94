/* fork.pml - what a forked child has of its parent's files, locks and memory, and that it releases them.
 *
 * Follows: platform/fork.c; bshm_os_map of platform/posix.c; bshm_object_open, bshm_object_close of layout.c;
 * open_control, forget_attachment_in_child, bshm_attachment_drop_inherited_view, bshm_attachment_unreference,
 * bshm_addresses_release of attachment.c; bshm_reader_wait of reader.c. A writer's segment is the same without views (segment.c).
 *
 * Modelled
 *   A reader opens one object twice, locks a byte through the first description, maps the control region through it, in no
 *   child, and the pixels through the second. It may hold a view. Its waiting thread takes a reference, and drops it later;
 *   whoever drops the last one unlocks, closes and unmaps. A fork may happen whenever the fork mutex is free. The
 *   child has all that the parent had, without the other threads; its handler runs first. It may release a view later, and
 *   lives on. Parent and child may be killed anywhere. A number that was closed may be the application's next.
 *
 * Abstracted
 *   The kernel drops a lock when no process has the description any longer, neither open nor mapped. Two children: the
 *   second has less than the first.
 *
 * Checked
 *   promise 4   the lock is there as long as the parent has it, whatever the child does; and once the parent is gone, no
 *               child keeps it
 *   promise 5   a child keeps no memory but that of a view that it holds
 *               a child closes no file that is not the object's, and blanks no memory but what it had of the object
 *   promise 1   a view that was held at the fork keeps its pixels in the child
 */
#define PARENT  0
#define CHILD   1
#define NONE    0
#define LOCKING 1 /* what a number leads to */
#define READING 2
#define FOREIGN 3

bit locked, holds;            /* the kernel's lock; the parent has taken it and not released it */
byte locking[2], reading[2];  /* what the numbers of the two files lead to */
bit knows_locking[2], knows_reading[2]; /* the member in the list has the number */
bit control[2], pixels[2], knows_pixels[2];
bit not_in_child;
byte views[2];
byte references[2];
bit reader_has_one;
bit fork_mutex, attached, forked, parent_over, child_over;
byte threads_over;

#define DESCRIPTION_LIVES                                                                                              \
    (locking[PARENT] == LOCKING || locking[CHILD] == LOCKING || control[PARENT] || control[CHILD])
#define KERNEL_LOOKS locked = locked && DESCRIPTION_LIVES
#define CHECK        assert(!holds || locked)

#ifdef FORKS_WHENEVER
#define BLOCK_FORK skip
#define ALLOW_FORK skip
#else
#define BLOCK_FORK if :: atomic { !parent_over && fork_mutex == 0 -> fork_mutex = 1 } :: atomic { parent_over }; goto over fi
#define ALLOW_FORK fork_mutex = 0
#endif
#define STEP(...)                                                                                                      \
    if :: atomic { !parent_over -> __VA_ARGS__; KERNEL_LOOKS; CHECK } :: atomic { parent_over }; goto over fi

/* Of the parent; its threads stop with it. */
inline parent_is_killed()
{
    atomic {
        parent_over = 1; holds = 0;
        locking[PARENT] = NONE; reading[PARENT] = NONE; control[PARENT] = 0; pixels[PARENT] = 0; views[PARENT] = 0;
        fork_mutex = 0;
        KERNEL_LOOKS
    }
}

/* bshm_attachment_unreference: `last` is this thread's own. */
inline drop_reference()
{
    STEP(references[PARENT]--; last = (references[PARENT] == 0));
    if
    :: last ->
        STEP(holds = 0; locked = 0);                               /* give_up_locks */
        BLOCK_FORK;
        STEP(locking[PARENT] = NONE);                              /* bshm_object_close */
#ifndef NUMBER_NOT_FORGOTTEN
        STEP(knows_locking[PARENT] = 0);
#endif
        ALLOW_FORK;
        BLOCK_FORK;
        STEP(reading[PARENT] = NONE);
        STEP(knows_reading[PARENT] = 0);
        ALLOW_FORK;
        STEP(control[PARENT] = 0);                                 /* never in a child */
#ifndef UNMAPS_WHENEVER
        BLOCK_FORK;                                                /* bshm_addresses_release */
#endif
#ifdef FORGETS_FIRST
        STEP(knows_pixels[PARENT] = 0);
        ALLOW_FORK;
        STEP(pixels[PARENT] = 0)
#else
        STEP(pixels[PARENT] = 0);
        STEP(knows_pixels[PARENT] = 0);
        ALLOW_FORK
#endif
    :: else
    fi
}

active proctype Reader()
{
    bit last;
    references[PARENT] = 1;
    reader_has_one = 1;
    BLOCK_FORK;
    STEP(reading[PARENT] = READING);                               /* open */
    STEP(knows_reading[PARENT] = 1);                               /* the number is stored in the member */
    ALLOW_FORK;
    BLOCK_FORK;
    STEP(locking[PARENT] = LOCKING);
    STEP(knows_locking[PARENT] = 1);
    ALLOW_FORK;
    BLOCK_FORK;                                                    /* bshm_os_map */
    STEP(control[PARENT] = 1);
#ifndef MAPPED_IN_THE_CHILD
    STEP(not_in_child = 1);                                        /* MADV_DONTFORK */
#endif
    ALLOW_FORK;
    STEP(locked = 1; holds = 1);                                   /* a token */
    BLOCK_FORK;
    STEP(pixels[PARENT] = 1);
    STEP(knows_pixels[PARENT] = 1);
    ALLOW_FORK;
    STEP(attached = 1);
    if
    :: STEP(views[PARENT] = 1; references[PARENT]++)               /* a frame */
    :: skip
    fi;
    STEP(attached = 0; reader_has_one = 0);                        /* bshm_reader_close */
    drop_reference();
    if
    :: !parent_over && views[PARENT] > 0 -> STEP(views[PARENT] = 0); drop_reference() /* bshm_frame_release */
    :: else
    fi;
    if
    :: atomic { !parent_over && locking[PARENT] == NONE -> locking[PARENT] = FOREIGN } /* the number is used again */
    :: skip
    fi;
over:
    threads_over++
}

/* bshm_reader_wait */
active proctype Waiter()
{
    bit last;
    if
    :: atomic { attached && !parent_over -> references[PARENT]++ }; drop_reference()
    :: skip
    fi;
over:
    threads_over++
}

active proctype Killer()
{
    if :: parent_is_killed() :: skip fi
}

inline blank()
{
    pixels[CHILD] = 0; KERNEL_LOOKS
}

active proctype Child()
{
    if
    :: atomic { /* fork: its handlers take the mutex; the child gets whatever exists at this moment */
           !parent_over && fork_mutex == 0 ->
           forked = 1;
           locking[CHILD] = locking[PARENT]; reading[CHILD] = reading[PARENT];
           knows_locking[CHILD] = knows_locking[PARENT]; knows_reading[CHILD] = knows_reading[PARENT];
           control[CHILD] = control[PARENT] && !not_in_child;
           pixels[CHILD] = pixels[PARENT]; knows_pixels[CHILD] = knows_pixels[PARENT];
           views[CHILD] = views[PARENT]; references[CHILD] = references[PARENT]
       }
    :: goto no_fork
    fi;
    /* let_go_in_child */
    if
    :: knows_locking[CHILD] ->
#ifdef CHILD_UNLOCKS
        atomic { locked = 0; CHECK };
#endif
        atomic { assert(locking[CHILD] == LOCKING); locking[CHILD] = NONE; KERNEL_LOOKS; CHECK }
    :: else
    fi;
    if
    :: knows_reading[CHILD] -> atomic { assert(reading[CHILD] == READING); reading[CHILD] = NONE }
    :: else
    fi;
#ifdef LETS_GO_WITH_THE_LAST_REFERENCE
    if :: reader_has_one -> references[CHILD]-- :: else fi;        /* a frame has one; so has a thread not here */
    if :: references[CHILD] == 0 && knows_pixels[CHILD] -> blank() :: else fi;
#elif defined(LETS_GO_OF_VIEWS)
    blank();
#else
    if
    :: views[CHILD] == 0 && knows_pixels[CHILD] ->
        assert(pixels[CHILD]);                                     /* or it blanks whatever is there now */
        blank()
    :: else
    fi;
#endif
    assert(views[CHILD] == 0 || pixels[CHILD]);
    if
    :: views[CHILD] > 0 ->                                         /* bshm_attachment_drop_inherited_view */
        views[CHILD] = 0;
#ifdef LETS_GO_WITH_THE_LAST_REFERENCE
        references[CHILD]--;
        if :: references[CHILD] == 0 -> blank() :: else fi
#else
        blank()
#endif
    :: skip
    fi;
no_fork:
    child_over = 1
}

active proctype Afterwards()
{
    atomic {
        child_over && (parent_over || threads_over == 2);
        assert(locked == 0 || (!parent_over && holds));
        if
        :: forked ->
            assert(locking[CHILD] != LOCKING && reading[CHILD] != READING && !control[CHILD]);
            assert(!pixels[CHILD] || views[CHILD] > 0)
        :: else
        fi
    }
}
