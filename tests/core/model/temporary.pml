/* temporary.pml - a creator and its temporary, with `clean` and outside cleaners around.
 *
 * Follows: build_temporary, open_again, publish_name, try_create, bshm_segment_create of segment.c;
 * bshm_remove_stale_temporary of names.c; bshm_os_create, bshm_os_rename, bshm_posix_rename_by_link of platform/posix.c
 * and platform/linux.c.
 *
 * Modelled
 *   One creator, which starts over when its temporary is removed, up to ATTEMPTS times, each time under another name,
 *   and may be killed anywhere. `clean`, CLEANINGS times: it finds a temporary, finds it old enough, opens it, locks
 *   it, unlinks it. OUTSIDER: a cleaner that takes no lock, once. A creator may be stopped for more than ten seconds
 *   between any two calls, or the clock may jump: so any temporary may be found old enough. BY_LINK: where no rename
 *   refuses to replace, the temporary is linked to the name, and removed then; the object has two names in between.
 *   An attempt is one file: `linked` says that its temporary name refers to it, `lock` which process has its writer
 *   lock.
 *
 * Abstracted
 *   Names and take-over: names.pml. The rename succeeds whenever the temporary is there.
 *
 * Checked
 *   promise 4   a living creator gets the name, whatever cleaners do, and then has the lock
 *               `clean` never removes a temporary whose creator has locked it, unless that has its name already; only
 *               a killed creator leaves one behind
 */
#ifndef CLEANINGS
#define CLEANINGS 2
#endif
#define ATTEMPTS  8
#define FREE      0
#define CREATOR   1
#define CLEANER   2

bit linked[ATTEMPTS + 1];
byte lock[ATTEMPTS + 1];
byte newest;   /* attempt */
byte named;    /* the attempt that got the name */
bit locked_once[ATTEMPTS + 1]; /* not shared: the creator has had the lock, and lives */
bit creator_done, creator_killed;
byte cleaned;

#define STEP(...) if :: atomic { __VA_ARGS__ } :: goto killed fi

active proctype Creator()
{
    byte file;
    bit ok;
attempt:
    assert(file < ATTEMPTS);
    STEP(newest++; file = newest; linked[file] = 1);               /* bshm_os_create: O_EXCL, a random name */
#ifndef CREATOR_DOES_NOT_LOCK
    STEP(if :: lock[file] == FREE -> lock[file] = CREATOR; locked_once[file] = 1; ok = 1 :: else -> ok = 0 fi);
#ifdef GIVES_UP_WHEN_REFUSED
    assert(ok);
#endif
    if :: !ok -> goto begin_again :: else fi;                      /* EAGAIN: a cleaner has it */
#endif
    STEP(ok = linked[file]);                                       /* open_again */
#ifdef GIVES_UP_BEFORE_THE_RENAME
    assert(ok);
#endif
    if :: !ok -> goto begin_again :: else fi;                      /* ENOENT */
    skip;                                                          /* memory, mappings, header */
#ifdef BY_LINK
#ifdef REMOVED_BEFORE_LINKED
    STEP(linked[file] = 0);
#endif
    STEP(if :: linked[file] -> named = file; ok = 1 :: else -> ok = 0 fi); /* link */
#ifndef NEVER_REMOVED
    if :: ok -> STEP(linked[file] = 0) :: else fi;                 /* unlink; an outsider may have been faster */
#endif
#else
    STEP(if :: linked[file] -> linked[file] = 0; named = file; ok = 1 :: else -> ok = 0 fi); /* rename */
#endif
#ifdef GIVES_UP_AT_THE_RENAME
    assert(ok);
#endif
    if :: !ok -> goto begin_again :: else fi;                      /* ENOENT */
    assert(lock[file] == CREATOR);
    goto end;

begin_again: /* try_create: unlink, close */
    STEP(linked[file] = 0);
    STEP(locked_once[file] = 0; if :: lock[file] == CREATOR -> lock[file] = FREE :: else fi);
    goto attempt;

killed:
    atomic {
        if :: file > 0 && lock[file] == CREATOR -> lock[file] = FREE :: else fi;
        locked_once[file] = 0;
        creator_killed = 1
    }
end:
    creator_done = 1
}

active proctype Cleaner()
{
    byte file;
    do
    :: cleaned < CLEANINGS ->
        file = newest;                                             /* readdir; it is older than ten seconds */
        if
        :: file > 0 && linked[file] ->                             /* lstat, open */
            if
            :: atomic { lock[file] == FREE -> lock[file] = CLEANER }
            :: else -> goto next
            fi;
#ifdef CLEANER_DOES_NOT_LOCK
            atomic { if :: lock[file] == CLEANER -> lock[file] = FREE :: else fi };
#endif
            atomic { assert(!linked[file] || !locked_once[file]); linked[file] = 0 };
            atomic { if :: lock[file] == CLEANER -> lock[file] = FREE :: else fi }
        :: else
        fi;
next:
        cleaned++
    :: else -> break
    od
}

#ifdef OUTSIDER
active proctype Outsider()
{
    if :: linked[newest] = 0 :: skip fi
}
#endif

active proctype Afterwards()
{
    byte file;
    atomic {
        creator_done && cleaned == CLEANINGS;
        assert(creator_killed || named > 0);
        file = 1;
        do
        :: file <= ATTEMPTS ->
            assert(!linked[file] || (creator_killed && file == newest && lock[file] == FREE));
            file++
        :: else -> break
        od
    }
}
