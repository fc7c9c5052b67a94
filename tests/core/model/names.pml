/* names.pml - creation, take-over, replacement, close, `clean`, and a reader that follows the name.
 *
 * Follows: bshm_segment_create, reclaim_from_predecessor, publish_name, bshm_segment_end of segment.c;
 * bshm_predecessor_take, lock_predecessor, bshm_predecessor_retire, bshm_remove_stale of names.c; replace_segment,
 * ensure_segment of writer.c; open_once, open_control of attachment.c; check_for_successor of reader.c.
 *
 * Modelled
 *   WRITERS writers start at any time. Each creates (early check, temporary, rename without replacing, take-over
 *   lock, check that the name still leads there, rename, RETIRED), replaces itself REPLACEMENTS times, and closes or
 *   stays. One run of `clean`; one READER. Each may be killed before any system call or shared store; the kernel then
 *   drops the locks. START_DEAD: the object of a dead writer has the name at first.
 *   RM: an outsider removes the name once, under no lock, but not while another process is between its check and its
 *   action; RM_AT_ANY_TIME: even then. Each living writer's check, once a second, comes once more after all this.
 *
 * Abstracted
 *   An object is its number, its state word and its writer lock. A temporary gets its lock in the step that creates
 *   it (temporary.pml splits that). Time: a creator waits until the lock or the name changes, or gives up if the
 *   object's own living writer has the lock (200 ms); others hold a lock only for a moment. A writer that replaces its
 *   own segment gives up whoever has the lock (20 ms). Notification: wakeup.pml.
 *
 * Checked
 *   promise 4   a process that replaces or removes a name holds the lock of the object that it leads to; two writers
 *               never have it; no process, and not `clean`, takes it from a living writer; RM: in the end a living
 *               writer has it again
 *               RETIRED is set only where a successor has the name; a writer that removes its own name leaves CLOSED
 *               behind
 *               a writer that was refused its name never has it again
 *               CLOSED becomes RETIRED where a writer was killed before it removed the name: readers go on
 *               a reader's pins are in the object that its pixels are in, and in the end in the one that has the name
 *               no lock stays after its purpose; LASTING (no process dies or closes): one gets the name, none waits
 *               forever
 */
#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef REPLACEMENTS
#define REPLACEMENTS 1
#endif
#ifdef RM_AT_ANY_TIME
#define RM
#endif
#ifdef RM
#define OBJECTS (1 + WRITERS * (2 + REPLACEMENTS))
#else
#define OBJECTS (1 + WRITERS * (1 + REPLACEMENTS))
#endif
#define CLEANER (WRITERS + 1)
#define GONE    (WRITERS + 2) /* the writer of the object that has the name at first */

mtype:state = { LIVE, RETIRED, CLOSED };

byte name;    /* the object it leads to; 0: none */
byte objects; /* created so far */
byte lock[OBJECTS + 1];
mtype:state state[OBJECTS + 1];
byte finished;
/* Not shared memory: what the checks need to know. */
byte maker[OBJECTS + 1];
bit has_it[GONE + 1]; /* create has returned, close has not begun */
bit lost_it[GONE + 1]; /* it was refused its own name */
bit removed_by_maker[OBJECTS + 1];
byte acting;   /* processes that may still change something */
byte deciding; /* a bit for each process between its check of the name and its action */

#ifdef LASTING
#define OR_KILLED
#else
#define OR_KILLED :: goto killed
#endif
#define STEP(...) if :: atomic { __VA_ARGS__ } OR_KILLED fi

#ifdef RM /* the outsider leaves a writer without a name: another may take it before the first one checks */
#define NO_OUTSIDER(condition) skip
#else
#define NO_OUTSIDER(condition) assert(condition)
#endif
#define BIT(i)        (1 << (i))
#define DECIDES(yes)  if :: yes -> deciding = deciding | BIT(me) :: else fi
#define DECIDED       deciding = deciding & ~BIT(me)
#ifdef RM_AT_ANY_TIME
#define MAY_TAKE_AWAY skip
#define OUTSIDER_MAY  true
#else
#define MAY_TAKE_AWAY                                                                                                  \
    assert(name == 0 || lock[name] == me); NO_OUTSIDER(name == 0 || maker[name] == me || !has_it[maker[name]])
#define OUTSIDER_MAY  deciding == 0
#endif

inline gets_it()
{
    assert(!lost_it[me]);
    has_it[me] = 1;
    k = 1;
    do :: k <= WRITERS -> NO_OUTSIDER(k == me || !has_it[k]); k++ :: else -> break od;
    k = 0
}

inline let_all_locks_go()
{
    k = 1;
    do :: k <= OBJECTS -> if :: lock[k] == me -> lock[k] = 0 :: else fi; k++ :: else -> break od;
    k = 0
}

#ifdef GIVES_UP_AT_ONCE
#define MAY_GIVE_UP lock[cur] != 0
#else
#define MAY_GIVE_UP (lock[cur] == maker[cur] || (segment != 0 && lock[cur] != 0))
#endif
#ifdef TAKE_OVER_WITHOUT_LOCK
#define TRY_LOCK got = 1
#else
#define TRY_LOCK if :: lock[cur] == 0 -> lock[cur] = me; got = 1 :: else -> got = 0 fi
#endif
#define UNLOCK(o) if :: lock[o] == me -> lock[o] = 0 :: else fi

/* bshm_predecessor_take: afterwards `cur` is the predecessor, locked; or 0: the name is free; or `own` is set: the
 * caller's own object has it; or `refused`. */
inline take(mine)
{
    cur = 0; own = 0; refused = 0;
    do
    :: true ->
        STEP(cur = name; DECIDES(cur != 0 && cur == mine));         /* lstat */
        if
        :: cur == 0 -> break
        :: cur != 0 && cur == mine -> own = 1; cur = 0; break
        :: else
        fi;
        STEP(cur = name);                                          /* open, which may meet another object */
        if
        :: cur == 0
        :: else ->
            do
            :: true -> /* lock_predecessor */
                STEP(TRY_LOCK);
#ifdef NAME_NOT_CHECKED_AGAIN
                same = 1;
#else
                STEP(same = (name == cur); DECIDES(same && got));
#endif
                if
                :: !same -> STEP(UNLOCK(cur); cur = 0); break
                :: same && got -> break
                :: same && !got ->
                    if
                    :: atomic { MAY_GIVE_UP -> refused = 1; cur = 0 }; break
                    :: lock[cur] == 0 || name != cur               /* looked at again every 2 ms */
                    OR_KILLED
                    fi
                fi
            od;
            if :: cur != 0 || refused -> break :: else fi
        fi
    od;
    got = 0; same = 0
}

proctype Writer(byte me)
{
    byte segment, fresh, cur, k, replaced;
    bit own, refused, got, same;
create:
    /* A living writer is found before any memory is taken. */
    take(segment);
    if :: refused -> goto refused_the_name :: else fi;
    if
    :: cur != 0 -> STEP(UNLOCK(cur); cur = 0; DECIDED)
    :: cur != 0                                                    /* reclaim_from_predecessor keeps it while it tries again */
    :: else -> atomic { own = 0; DECIDED }
    fi;
    STEP(objects++; fresh = objects; maker[fresh] = me; lock[fresh] = me; state[fresh] = LIVE);

    do /* publish_name */
    :: own || cur != 0 ->
#ifdef RETIRED_BEFORE_RENAME
        if
        :: own -> STEP(state[segment] = RETIRED)
        :: else -> STEP(state[cur] = RETIRED)
        fi;
#endif
#ifdef OWN_LOCK_LET_GO_BEFORE_RENAME
        if :: own -> STEP(UNLOCK(segment)) :: else fi;
#endif
        STEP(MAY_TAKE_AWAY; name = fresh; gets_it(); DECIDED);              /* rename */
        break
    :: else ->
#ifdef RENAME_ALWAYS_REPLACES
        STEP(MAY_TAKE_AWAY; name = fresh; gets_it(); DECIDED);
        break
#else
        STEP(if :: name == 0 -> name = fresh; got = 1; gets_it() :: else fi); /* renameat2, RENAME_NOREPLACE */
        if :: got -> got = 0; break :: else fi;
        take(segment);
        if :: refused -> goto refused_the_name :: else fi
#endif
    od;

    if
    :: cur != 0 -> /* bshm_predecessor_retire */
        STEP(state[cur] = RETIRED);
        STEP(UNLOCK(cur); cur = 0)
    :: else
    fi;
    if
    :: segment != 0 -> /* bshm_segment_end, by replace_segment */
        STEP(state[segment] = RETIRED);
        STEP(UNLOCK(segment))
    :: else
    fi;
    atomic { segment = fresh; fresh = 0; own = 0 };

live:
    if
    OR_KILLED
    :: replaced < REPLACEMENTS -> replaced++; goto create          /* a larger frame */
#ifndef LASTING
    :: goto close
#endif
    :: goto look
    fi;

look: /* ensure_segment, once a second: here, once more after all that others do */
#ifdef RM
    acting--;
    if
    :: atomic { acting == 0 && name == segment -> acting++ }
    :: atomic { acting == 0 && name != segment -> acting++ }; goto create
    :: atomic { true -> acting++ }; goto killed
    fi;
#endif
    atomic { finished++; acting-- };
    goto end;

refused_the_name:
    atomic { refused = 0; if :: fresh != 0 -> lock[fresh] = 0; fresh = 0 :: else fi };
    NO_OUTSIDER(segment == 0);
    if
    :: segment != 0 ->
        lost_it[me] = 1;
#ifdef REFUSED_GOES_ON
        goto live
#endif
    :: else
    fi;
    goto killed;                                                   /* RM: every later call reports it */

close:
#ifdef UNLOCKED_BEFORE_UNLINK
    STEP(lock[segment] = 0);
#endif
#ifdef UNLINKED_BEFORE_CLOSED
    has_it[me] = 0;
    STEP(MAY_TAKE_AWAY; removed_by_maker[segment] = 1; name = 0);
    STEP(state[segment] = CLOSED);
#else
    STEP(has_it[me] = 0; state[segment] = CLOSED);
#ifdef CLOSE_DOES_NOT_LOOK
    STEP(MAY_TAKE_AWAY; name = 0);
#else
    STEP(same = (name == segment); DECIDES(same));
    if :: same -> STEP(MAY_TAKE_AWAY; removed_by_maker[segment] = 1; name = 0) :: else fi;
#endif
#endif
killed: /* or closed: the kernel drops the locks, by close or by exit */
    atomic {
        has_it[me] = 0;
        let_all_locks_go();
        segment = 0; fresh = 0; cur = 0; own = 0; got = 0; same = 0;
        finished++;
        acting--;
        DECIDED
    };
end:
    skip
}

/* bshm_remove_stale: `take` with timeout 0 */
proctype Cleaner()
{
    byte cur, k;
    bit got, same;
    byte me = CLEANER;
    STEP(cur = name);
    if :: cur == 0 -> goto killed :: else fi;
    STEP(if :: lock[cur] == 0 -> lock[cur] = me; got = 1 :: else fi);
#ifdef CLEAN_DOES_NOT_CHECK_AGAIN
    same = 1;
#else
    STEP(same = (name == cur); DECIDES(same && got));
#endif
    if :: !got || !same -> goto killed :: else fi;                 /* in the code: starts over, or says "lives" */
    STEP(MAY_TAKE_AWAY; name = 0);
killed:
    atomic { let_all_locks_go(); cur = 0; got = 0; same = 0; finished++; acting--; DECIDED }
}

proctype Reader()
{
    byte data, control, next, k;
    mtype:state seen;
    bit over;
    do
    :: over -> break
    :: !over ->
        atomic { over = (finished == WRITERS + 1); seen = 0 };
        if
        :: data != 0 ->
            atomic { /* the two loads cannot mislead: RETIRED is final, and so is the loss of a name */
                seen = state[data];
                NO_OUTSIDER(seen != RETIRED || name != data)
            }
        :: else
        fi;
        if
#ifdef CLOSED_IS_TAKEN_FOR_THE_END
        :: data != 0 && seen == CLOSED
#endif
        :: data != 0 && name == data                               /* has_name: it stays */
        :: else -> /* open_once */
            do
            :: next = name;
               if
               :: next == 0 -> break                               /* keeps its attachment */
               :: else
               fi;
               control = name;
#ifndef SECOND_OPENING_NOT_COMPARED
               if :: control != 0 && control != next -> next = 0; control = 0 :: else -> break fi
#else
               break
#endif
            od;
            atomic {
                if :: next != 0 -> data = next :: else fi;
                assert(control == 0 || next == 0 || control == data);
                next = 0;
                control = 0
            }
        fi
    od;
    assert(name == 0 || data == name)
}

#ifdef RM
proctype Outsider()
{
    if :: atomic { OUTSIDER_MAY -> name = 0 } :: skip fi;
    acting--
}
#endif

init {
    byte k, living;
    atomic {
#ifdef START_DEAD
        objects = 1; name = 1; maker[1] = GONE; state[1] = LIVE;
#endif
        k = 1;
        do :: k <= WRITERS -> run Writer(k); k++ :: else -> break od;
        run Cleaner();
        acting = WRITERS + 1;
#ifdef RM
        run Outsider();
        acting++;
#endif
#ifdef READER
        run Reader();
#endif
        k = 0
    }
    atomic {
        finished == WRITERS + 1;
        k = 1;
        do :: k <= WRITERS -> if :: has_it[k] -> living++ :: else fi; k++ :: else -> break od;
        assert(living <= 1);
        assert(living == 0 || (name != 0 && has_it[maker[name]] && lock[name] == maker[name] && state[name] == LIVE));
#ifdef LASTING
        assert(living == 1);
#endif
        k = 1;
        do
        :: k <= OBJECTS ->
            assert(lock[k] == 0 || k == name);
            assert(!removed_by_maker[k] || state[k] == CLOSED);
            k++
        :: else -> break
        od
    }
}
