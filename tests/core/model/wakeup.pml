/* wakeup.pml - no reader sleeps on after a frame, or after the end of the writer.
 *
 * Follows: bshm_step_store_latest, bshm_step_bump_notify, bshm_step_set_state of protocol.h; finish_frame of
 * writer.c; bshm_segment_end of segment.c; bshm_predecessor_retire of names.c; bshm_reader_wait of reader.c.
 *
 * Modelled
 *   A writer publishes up to FRAMES frames, then idles, or ends its segment (CLOSED or RETIRED), or is killed
 *   anywhere, also after CLOSED and before it has removed the name; after its death a successor may set RETIRED. WAITERS
 *   readers wait, each time with or without a look first, until they have seen the end. FUTEX_WAIT compares
 *   the word and goes to sleep in one step, FUTEX_WAKE wakes all sleepers.
 *   The timeout (slices of 100 ms) wakes a sleeper only when no process is left to do it: the writer was killed and
 *   no successor came. In every other run a lost wake-up is a sleeper that sleeps forever; in the code it would be a
 *   delay of 100 ms.
 *
 * Abstracted
 *   Frames are their numbers. `notify` does not wrap around during one sleep. Memory order: README.md.
 *
 * Checked
 *               a reader that sleeps while no process is about to wake it has seen the newest frame, and the writer
 *               lives
 *               every reader sees the last frame, and then the end
 */
#ifndef FRAMES
#define FRAMES 3
#endif
#ifndef WAITERS
#define WAITERS 2
#endif
#define LIVE 0
#define OVER 1

byte latest, notify, state;
bit asleep[WAITERS];
bit killed, succeeded; /* the writer; and a successor that has set RETIRED */
bit writer_done, idle; /* it lives, and publishes no more */

inline wake_all()
{
    d_step {
        i = 0;
        do
#ifdef WAKES_ONE
        :: i < WAITERS -> if :: asleep[i] -> asleep[i] = 0; break :: else fi; i++
#else
        :: i < WAITERS -> asleep[i] = 0; i++
#endif
        :: else -> break
        od;
        i = 0
    }
}

#define STEP(...) if :: atomic { __VA_ARGS__ } :: goto killed_here fi

/* ---------------------------------------------------------------- the writer */

#ifdef NOTIFY_BEFORE_LATEST
#define PUBLISH STEP(notify++); STEP(latest = n); STEP(wake_all())
#elif defined(WAKE_BEFORE_NOTIFY)
#define PUBLISH STEP(latest = n); STEP(wake_all()); STEP(notify++)
#else
#define PUBLISH STEP(latest = n); STEP(notify++); STEP(wake_all())  /* W10, W12 */
#endif
#ifdef STATE_AFTER_NOTIFY
#define END_IT STEP(notify++); STEP(state = OVER); STEP(wake_all())
#elif defined(STATE_DOES_NOT_NOTIFY)
#define END_IT STEP(state = OVER); STEP(wake_all())
#else
#define END_IT STEP(state = OVER); STEP(notify++); STEP(wake_all()) /* bshm_step_set_state */
#endif

proctype Writer()
{
    byte n, i;
    do
    :: n < FRAMES -> n++; PUBLISH
    :: idle = 1; goto end
    :: break
    od;
    END_IT;
    if
    :: goto end
    :: skip                                                        /* killed between CLOSED and unlink */
    fi;
killed_here:
    killed = 1;
    if
    :: succeeded = 1; state = OVER; notify++; wake_all()            /* bshm_predecessor_retire */
    :: skip                                                        /* no successor comes */
    fi;
end:
    writer_done = 1
}

/* ---------------------------------------------------------------- the readers */

#ifdef NOTIFY_LOADED_AFTER_LATEST
#define LOOK now = latest; word = notify; over = (state == OVER)
#elif defined(STATE_LOADED_BEFORE_NOTIFY)
#define LOOK over = (state == OVER); word = notify; now = latest
#else
#define LOOK word = notify; now = latest; over = (state == OVER)
#endif
#ifdef SLEEPS_UNASKED
#define FUTEX_WAIT asleep[me] = 1
#else
#define FUTEX_WAIT atomic { if :: notify == word -> asleep[me] = 1 :: else fi }
#endif

proctype Waiter(byte me)
{
    byte seen, word, now;
    bit over;
    do
    :: true ->
        if
        :: seen = latest                                           /* take_newest */
        :: skip                                                    /* it waits again, without a look */
        fi;
        if
        :: state == OVER -> if :: latest == seen -> goto end :: else fi /* bshm_reader_ended */
        :: else
        fi;
        LOOK;                                                      /* bshm_reader_wait */
        if
#ifdef WAITS_WITHOUT_LOADING_LATEST
        :: over
#else
        :: now > seen || over
#endif
        :: else ->
            FUTEX_WAIT;
            if
            :: !asleep[me]
            :: atomic { writer_done && idle && asleep[me] -> assert(seen == latest && state == LIVE) }; goto end
            :: atomic { writer_done && killed && !succeeded && asleep[me] -> asleep[me] = 0 }; /* the time limit */
               if :: state == OVER :: else -> goto end fi          /* the writer's lock shows the rest */
            fi
        fi;
        atomic { word = 0; now = 0; over = 0 }
    od;
end:
    skip
}

init {
    byte i;
    atomic {
        run Writer();
        do :: i < WAITERS -> run Waiter(i); i++ :: else -> break od
    }
}
