/* killer.c - kills the driver at every instruction of a phase, and checks that all other processes work on.
 *
 *     killer DRIVER LIBRARY DIRECTORY [--every K] [--part I/N] [--enough N] [--instructions | --calls | --rivals]
 * [PHASE...]
 *
 * DIRECTORY is empty, on a tmpfs, for the segments. As root, a tmpfs is mounted over it, in a mount namespace,
 * so that memory can be accounted for to the byte. A phase ends after N failures.
 *
 * A phase is single-stepped once to find the instructions of LIBRARY that it executes. Then, for each (or every Kth)
 * of them: start a new driver, set a breakpoint there, check all other processes while the driver is stopped,
 * SIGKILL, check what follows. The same at a later execution of the instruction, if there is one, and at each
 * boundary of a system call.
 *
 * With --rivals nothing is killed: while the driver is stopped, another writer asks for the name, then the driver
 * continues. In the end one of them must have it, and it must not have been lost.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "picture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY         65534u
#define MODE           0644u
#define SECOND_NS      INT64_C(1000000000)
#define HANG_SECONDS   20
#define FAILURES_TOLD  20
#define LATER_HIT_MOST 24u
#define CALLS_DENSER   8u /* boundaries are sampled more densely than instructions, by this factor */
#define VIEWS_MOST     3
#define SLOTS_MOST     8u
#define SLOT_BYTES     ((uint64_t)BSHM_REGION_BYTES)
#define INITIAL_BYTES  (2 * SLOT_BYTES + BSHM_INITIAL_SLOTS * SLOT_BYTES)

enum kind { OF_WRITER, OF_READER, OF_CLEANER };

enum traits {
    NEEDS_DEAD = 1,   /* there is a segment whose writer was killed */
    NEEDS_FULL = 2,   /* and no room for another */
    LEAVES_FRAME = 4, /* late readers always get the newest frame */
    MAY_RESTART = 8,  /* the name may be free afterwards; numbers then begin again */
    HAS_RIVAL = 16,   /* assigns, takes or removes a name that another writer wants */
    KEEPS = 32        /* the segment has a history */
};

static const struct phase {
    const char *name;
    enum kind kind;
    unsigned traits;
} phases[] = {
    {"publish", OF_WRITER, LEAVES_FRAME},
    {"publish-history", OF_WRITER, LEAVES_FRAME | KEEPS},
    {"loan", OF_WRITER, LEAVES_FRAME},
    {"loan-history", OF_WRITER, LEAVES_FRAME | KEEPS},
    {"grow", OF_WRITER, LEAVES_FRAME},
    {"report", OF_WRITER, LEAVES_FRAME},
    {"replace", OF_WRITER, 0},
    {"close", OF_WRITER, MAY_RESTART | HAS_RIVAL},
    {"create", OF_WRITER, MAY_RESTART | HAS_RIVAL},
    {"take-over", OF_WRITER, NEEDS_DEAD | HAS_RIVAL},
    {"take-over-full", OF_WRITER, NEEDS_DEAD | NEEDS_FULL},
    {"attach", OF_READER, 0},
    {"acquire-release", OF_READER, 0},
    {"next", OF_READER, KEEPS},
    {"copy", OF_READER, 0},
    {"detach", OF_READER, 0},
    {"clean", OF_CLEANER, NEEDS_DEAD | MAY_RESTART | HAS_RIVAL},
};
#define PHASE_COUNT (sizeof phases / sizeof phases[0])

enum stop_kind { STOP_NOWHERE, STOP_COLLECTS, STOP_AT_INSTRUCTION, STOP_COUNTS_CALLS, STOP_AT_CALL };

struct stop {
    enum stop_kind kind;
    uint64_t at;  /* offset in LIBRARY, or number of a boundary */
    uint32_t hit; /* which execution of it */
};

static const char *driver_path;
static const char *library_path;
static const char *directory;
static char name[256];
static char temporary[512];
static bool own_tmpfs;

static uint32_t *hits; /* by offset in the text of LIBRARY */
static uint64_t text_bytes;
static uint64_t calls;

static const struct phase *phase; /* when the experiment began */
static struct stop stop;
static unsigned experiment;
static unsigned long failures;
static bshm_error error;

/* ---------------------------------------------------------------- saying what is wrong */

static void failed(const char *format, ...)
{
    va_list arguments;
    if (failures++ >= FAILURES_TOLD)
        return;
    printf("FAILED %s, stopped at ", phase->name);
    if (stop.kind == STOP_AT_INSTRUCTION)
        printf("instruction 0x%llx, hit %u: ", (unsigned long long)stop.at, stop.hit);
    else if (stop.kind == STOP_AT_CALL)
        printf("system call boundary %llu: ", (unsigned long long)stop.at);
    else
        printf("the end: ");
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    (void)putchar('\n');
    (void)fflush(stdout);
}

#define EXPECT(holds, ...) ((holds) ? (void)0 : failed(__VA_ARGS__))

static void give_up(const char *what)
{
    (void)fprintf(stderr, "killer: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* ---------------------------------------------------------------- what must be back where it was */

struct account {
    unsigned files;
    unsigned mappings;
    unsigned entries;
    uint64_t free_blocks;
};

static unsigned entries_of(const char *path)
{
    unsigned count = 0;
    DIR *entries = opendir(path);
    if (!entries)
        give_up(path);
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;)
        count += entry->d_name[0] != '.' || strlen(entry->d_name) > 2;
    (void)closedir(entries);
    return count;
}

static unsigned mappings_of_segments(void)
{
    char line[1024];
    unsigned count = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps)
        give_up("maps");
    while (fgets(line, sizeof line, maps))
        count += strstr(line, directory) != NULL;
    (void)fclose(maps);
    return count;
}

static struct account take_stock(void)
{
    struct statfs status;
    if (statfs(directory, &status) != 0)
        give_up(directory);
    return (struct account){.files = entries_of("/proc/self/fd"),
                            .mappings = mappings_of_segments(),
                            .entries = entries_of(directory),
                            .free_blocks = own_tmpfs ? (uint64_t)status.f_bfree : 0};
}

static void compare_stock(const struct account *before)
{
    struct account after = take_stock();
    EXPECT(after.files == before->files, "%u files are open, %u were", after.files, before->files);
    EXPECT(after.mappings == before->mappings, "%u mappings, %u before", after.mappings, before->mappings);
    EXPECT(after.entries == before->entries, "%u files in shared memory, %u before", after.entries, before->entries);
    EXPECT(after.free_blocks == before->free_blocks, "%llu pages of shared memory are free, %llu were",
           (unsigned long long)after.free_blocks, (unsigned long long)before->free_blocks);
}

/* ---------------------------------------------------------------- the driver, traced */

static void resume(pid_t driver, enum __ptrace_request request)
{
    if (ptrace(request, driver, NULL, NULL) != 0)
        give_up("resume");
}

/* The signal that stopped it (SIGTRAP | 0x80: a boundary of a system call); 0: it has ended. */
static int stopped_with(pid_t driver)
{
    int status;
    if (waitpid(driver, &status, 0) != driver)
        give_up("wait");
    return WIFSTOPPED(status) ? WSTOPSIG(status) : 0;
}

static pid_t start_driver(const char *phase_name)
{
    (void)fflush(stdout);
    pid_t driver = fork();
    if (driver < 0)
        give_up("fork");
    if (driver == 0) {
        (void)execl(driver_path, driver_path, phase_name, name, temporary, (char *)NULL);
        _exit(127);
    }
    return driver;
}

static void kill_driver(pid_t driver)
{
    int status;
    (void)kill(driver, SIGKILL);
    while (waitpid(driver, &status, 0) == driver && WIFSTOPPED(status))
        ;
}

static uint64_t text_of(pid_t driver)
{
    char path[64];
    char line[1024];
    char permissions[8];
    unsigned long long first, last, offset;
    (void)snprintf(path, sizeof path, "/proc/%d/maps", (int)driver);
    FILE *maps = fopen(path, "re");
    if (!maps)
        give_up(path);
    while (fgets(line, sizeof line, maps)) {
        if (!strstr(line, library_path) || sscanf(line, "%llx-%llx %7s %llx", &first, &last, permissions, &offset) != 4)
            continue;
        if (permissions[2] != 'x')
            continue;
        (void)fclose(maps);
        text_bytes = last - first;
        return first;
    }
    (void)fclose(maps);
    errno = ENOENT;
    give_up("text of the library");
    return 0;
}

static uint64_t instruction_of(pid_t driver)
{
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, driver, NULL, &registers) != 0)
        give_up("registers");
    return registers.rip;
}

static void collect(pid_t driver, uint64_t text)
{
    int signal_number;
    free(hits);
    hits = calloc(text_bytes, sizeof *hits);
    if (!hits)
        give_up("memory");
    do {
        uint64_t at = instruction_of(driver) - text;
        if (at < text_bytes)
            hits[at]++;
        resume(driver, PTRACE_SINGLESTEP);
        signal_number = stopped_with(driver);
    } while (signal_number == SIGTRAP);
    EXPECT(signal_number == SIGUSR1, "it did not come to its end while it was stepped through");
}

static long peek(pid_t driver, uint64_t address)
{
    errno = 0;
    long word = ptrace(PTRACE_PEEKTEXT, driver, address, NULL);
    if (errno != 0)
        give_up("peek");
    return word;
}

static void poke(pid_t driver, uint64_t address, long word)
{
    if (ptrace(PTRACE_POKETEXT, driver, address, word) != 0)
        give_up("poke");
}

/* At the breakpoint: sets it back to the instruction, which was not executed. */
static void step_back(pid_t driver)
{
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, driver, NULL, &registers) != 0)
        give_up("registers");
    registers.rip--;
    if (ptrace(PTRACE_SETREGS, driver, NULL, &registers) != 0)
        give_up("registers");
}

/* True: it is stopped there. False: the phase was over before. */
static bool run_to_instruction(pid_t driver, uint64_t address)
{
    long original = peek(driver, address);
    long breakpoint = (original & ~0xffL) | 0xcc;
    for (uint32_t hit = 1;; hit++) {
        poke(driver, address, breakpoint);
        resume(driver, PTRACE_CONT);
        int signal_number = stopped_with(driver);
        EXPECT(signal_number == SIGTRAP || signal_number == SIGUSR1, "it stopped with signal %d", signal_number);
        if (signal_number != SIGTRAP)
            return false;
        step_back(driver);
        poke(driver, address, original);
        if (hit == stop.hit)
            return true;
        resume(driver, PTRACE_SINGLESTEP);
        if (stopped_with(driver) != SIGTRAP)
            return false;
    }
}

static bool run_to_call(pid_t driver, uint64_t boundary)
{
    calls = 0;
    for (;;) {
        resume(driver, PTRACE_SYSCALL);
        int signal_number = stopped_with(driver);
        if (signal_number != (SIGTRAP | 0x80)) {
            EXPECT(signal_number == SIGUSR1, "it stopped with signal %d", signal_number);
            return false;
        }
        if (++calls == boundary)
            return true;
    }
}

static bool run_to_stop(pid_t driver)
{
    switch (stop.kind) {
    case STOP_COLLECTS:
        collect(driver, text_of(driver));
        return true;
    case STOP_AT_INSTRUCTION:
        return run_to_instruction(driver, text_of(driver) + stop.at);
    case STOP_COUNTS_CALLS:
        (void)run_to_call(driver, UINT64_MAX);
        return true;
    case STOP_AT_CALL:
        return run_to_call(driver, stop.at);
    default:
        return true;
    }
}

/* ---------------------------------------------------------------- survivors */

struct survivor {
    bshm_reader *reader;
    uint64_t seen;
    bool copies;
    bool observes; /* as a user who may only read */
    uint8_t generation[16];
};

static struct survivor poller;
static struct survivor copier;
static bshm_reader *holder;
static bshm_frame views[VIEWS_MOST];
static int view_count;
static bshm_writer *writer; /* the living one */

static bool is_root(void)
{
    return getuid() == 0;
}

static void become(const struct survivor *who)
{
    if (who->observes && seteuid(NOBODY) != 0)
        give_up("seteuid");
}

static void become_root(const struct survivor *who)
{
    if (who->observes && seteuid(0) != 0)
        give_up("seteuid");
}

static size_t bytes_of(const bshm_frame_info *info)
{
    bool known = info->width == PICTURE_SIDE && (info->height == PICTURE_SIDE || info->height == 2 * PICTURE_SIDE) &&
                 info->ndim == 2 && info->item_size == 1 && info->kind == 'u' && info->row_stride == PICTURE_SIDE;
    EXPECT(known, "a frame of %u x %u", info->height, info->width);
    return known ? (size_t)PICTURE_SIDE * info->height : 0;
}

/* True: a whole frame. */
static bool check_frame(const bshm_frame *frame)
{
    static uint8_t pixels[PICTURE_MOST_BYTES];
    size_t bytes = bytes_of(&frame->info);
    const void *seen = frame->pixels;
    if (bytes == 0)
        return false;
    if (frame->to_copy) {
        int rc = bshm_frame_copy(frame, pixels, sizeof pixels);
        EXPECT(rc == BSHM_OK || rc == BSHM_E_TORN, "a copy failed: %s", bshm_code_name(rc));
        if (rc != BSHM_OK)
            return false;
        seen = pixels;
    }
    EXPECT(picture_is_whole(seen, bytes, frame->info.sequence), "torn: frame %llu",
           (unsigned long long)frame->info.sequence);
    EXPECT(bshm_frame_intact(frame), "frame %llu is not intact", (unsigned long long)frame->info.sequence);
    return true;
}

static struct survivor new_survivor(uint32_t max_leases, bool copies, bool observes)
{
    struct survivor who = {.copies = copies, .observes = observes};
    bshm_reader_options options = {.max_leases = max_leases};
    become(&who);
    if (bshm_reader_create(&who.reader, name, &options, &error) < 0)
        give_up(error.message);
    become_root(&who);
    return who;
}

static void let_go(struct survivor *who)
{
    become(who);
    bshm_reader_free(who->reader);
    become_root(who);
    who->reader = NULL;
}

static bool keeps(void)
{
    return phase->traits & KEEPS;
}

/* Where there is a history, readers read every frame in turn: none falls out of the window here, and what a killed writer
 * did not publish is counted. */
static void check_turn(const struct survivor *who, const bshm_frame *frame)
{
    bool same = memcmp(who->generation, frame->generation, sizeof who->generation) == 0;
    uint64_t missed = who->seen > 0 ? frame->info.sequence - who->seen - 1 : 0;
    EXPECT(frame->skipped == missed, "frame %llu: %llu were skipped, and it says %llu",
           (unsigned long long)frame->info.sequence, (unsigned long long)missed, (unsigned long long)frame->skipped);
    EXPECT(missed == 0 || !same, "frame %llu came in turn after %llu", (unsigned long long)frame->info.sequence,
           (unsigned long long)who->seen);
}

/* Acquires once, as a polling reader does. Any result but a frame or nothing is a failure. */
static void poll(struct survivor *who)
{
    bshm_frame frame;
    uint32_t flags = who->copies ? BSHM_ACQUIRE_COPY : 0;
    become(who);
    int rc = keeps() ? bshm_reader_acquire_next(who->reader, flags, &frame, &error)
                     : bshm_reader_acquire(who->reader, flags, &frame, &error);
    EXPECT(rc >= 0, "a reader that polls was told: %s", error.message);
    if (rc == BSHM_FOUND) {
        uint64_t number = frame.info.sequence;
        if (keeps())
            check_turn(who, &frame);
        memcpy(who->generation, frame.generation, sizeof who->generation);
        EXPECT(number > who->seen || phase->traits & MAY_RESTART, "frame %llu came after %llu",
               (unsigned long long)number, (unsigned long long)who->seen);
        if (!check_frame(&frame))
            bshm_reader_give_back(who->reader, &frame);
        who->seen = number;
        bshm_frame_release(&frame);
    }
    become_root(who);
}

static void poll_all(void)
{
    poll(&poller);
    poll(&copier);
}

static void poll_until(struct survivor *who, uint64_t number)
{
    int64_t until = bshm_now_ns() + SECOND_NS;
    poll(who);
    while (who->seen != number && bshm_now_ns() < until) {
        become(who);
        if (phase->kind == OF_CLEANER)
            (void)bshm_reader_status(who->reader); /* moves on now; acquire would within 100 ms */
        bshm_reader_wait(who->reader, SECOND_NS / 1000);
        become_root(who);
        poll(who);
    }
    EXPECT(who->seen == number, "a reader did not get to frame %llu within a second: it is at %llu",
           (unsigned long long)number, (unsigned long long)who->seen);
}

/* The holder takes a view of what is newest now. */
static void hold_newest(void)
{
    if (view_count == VIEWS_MOST)
        return;
    int rc = bshm_reader_acquire(holder, 0, &views[view_count], &error);
    EXPECT(rc == BSHM_FOUND && views[view_count].pinned && !views[view_count].to_copy, "no view was available");
    view_count += rc == BSHM_FOUND;
}

static void check_views(const char *when)
{
    for (int i = 0; i < view_count; i++) {
        bool whole = picture_is_whole(views[i].pixels, bytes_of(&views[i].info), views[i].info.sequence);
        EXPECT(whole, "torn: a view of frame %llu %s", (unsigned long long)views[i].info.sequence, when);
        EXPECT(bshm_frame_intact(&views[i]), "a view is not intact %s", when);
    }
}

static void drop_views(void)
{
    while (view_count > 0)
        bshm_frame_release(&views[--view_count]);
}

/* Nothing is published in between, so the whole window can be read. */
static void check_window(const char *when)
{
    struct survivor late = new_survivor(1, false, false);
    bshm_frame frame;
    uint64_t newest = 0;
    if (bshm_reader_acquire(late.reader, 0, &frame, &error) == BSHM_FOUND) {
        newest = frame.info.sequence;
        bshm_frame_release(&frame);
    }
    EXPECT(newest > HISTORY, "the newest frame is number %llu %s", (unsigned long long)newest, when);
    for (uint64_t number = newest; number > 0 && number + HISTORY >= newest; number--) {
        int rc = bshm_reader_acquire_number(late.reader, number, 0, &frame, &error);
        EXPECT(rc == BSHM_FOUND, "frame %llu of the window of %llu is gone %s", (unsigned long long)number,
               (unsigned long long)newest, when);
        if (rc != BSHM_FOUND)
            continue;
        (void)check_frame(&frame);
        bshm_frame_release(&frame);
    }
    let_go(&late);
}

static void check_late_reader(void)
{
    struct survivor late = new_survivor(1, false, false);
    poll(&late);
    EXPECT(late.seen > 0, "a late reader did not get the newest frame");
    let_go(&late);
}

/* ---------------------------------------------------------------- living and dead writers */

static uint64_t put(void)
{
    uint64_t sequence = 0;
    int rc = picture_put(writer, PICTURE_SIDE, (uint64_t)getpid(), &sequence, &error);
    EXPECT(rc == BSHM_OK, "the living writer cannot write: %s", rc == BSHM_DROPPED ? "dropped" : error.message);
    return sequence;
}

static int ask_for_name(uint32_t slots)
{
    bshm_writer_options options = {
        .slot_capacity = PICTURE_BYTES, .slots = slots, .history = keeps() ? HISTORY : 0, .mode = MODE};
    return bshm_writer_create(&writer, name, &options, &error);
}

static bool new_writer(uint32_t slots)
{
    int rc = ask_for_name(slots);
    EXPECT(rc == BSHM_OK, "no new writer: %s", error.message);
    return rc == BSHM_OK;
}

static void leave_dead_segment(void)
{
    pid_t dead = start_driver("publish");
    int signal_number;
    while ((signal_number = stopped_with(dead)) == SIGSTOP)
        resume(dead, PTRACE_CONT);
    EXPECT(signal_number == SIGUSR2, "a writer to be killed did not start");
    kill_driver(dead);
}

static void path_in_directory(char *path, size_t bytes, const char *file_name)
{
    if (snprintf(path, bytes, "%s/%s", directory, file_name) >= (int)bytes)
        give_up("path");
}

static void age(const char *path)
{
    struct timespec times[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
    if (utimensat(AT_FDCWD, path, times, 0) != 0)
        give_up(path);
}

static void make_temporary(void)
{
    int file = open(temporary, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (file < 0)
        give_up(temporary);
    (void)close(file);
    age(temporary);
}

/* Leaves room for one slot only: a take-over is possible only with the dead segment's slots. */
static void fill_up(const char *ballast)
{
    struct statfs status;
    int file = open(ballast, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (file < 0 || statfs(directory, &status) != 0)
        give_up(ballast);
    uint64_t free_bytes = (uint64_t)status.f_bfree * (uint64_t)status.f_bsize;
    if (fallocate(file, 0, 0, (off_t)(free_bytes - (INITIAL_BYTES - SLOT_BYTES))) != 0)
        give_up("fallocate");
    (void)close(file);
}

/* Every token of the living writer's segment can be taken, and pins nothing after it was given back. */
static void check_tokens(uint32_t slots)
{
    bshm_reader_options options = {.max_leases = slots - 2};
    bshm_reader *greedy;
    bshm_frame held[SLOTS_MOST];
    uint32_t count = 0;
    if (bshm_reader_create(&greedy, name, &options, &error) < 0)
        give_up(error.message);
    while (count < slots - 2) {
        (void)put();
        int rc = bshm_reader_acquire(greedy, 0, &held[count], &error);
        EXPECT(rc == BSHM_FOUND && held[count].pinned && !held[count].to_copy, "lease %u of %u was not available",
               count + 1, slots - 2);
        if (rc != BSHM_FOUND)
            break;
        count++;
    }
    for (uint32_t i = 0; i < slots; i++)
        (void)put();
    for (uint32_t i = 0; i < count; i++) {
        (void)check_frame(&held[i]);
        bshm_frame_release(&held[i]);
    }
    int file = open(name, O_RDONLY | O_CLOEXEC);
    for (uint32_t slot = 0; slot < slots + (keeps() ? HISTORY : 0); slot++) {
        uint64_t word = 0;
        bool read =
            pread(file, &word, sizeof word, (off_t)(BSHM_REGION_BYTES + slot * sizeof(bshm_pin))) == sizeof word;
        EXPECT(read && word == 0, "slot %u is still pinned: %016llx", slot, (unsigned long long)word);
    }
    (void)close(file);
    bshm_reader_free(greedy);
    bshm_writer_counters counters;
    bshm_writer_get_counters(writer, &counters);
    EXPECT(counters.statistics.leases_broken.shared == 0 && counters.statistics.dropped.shared == 0,
           "%llu leases broken, %llu frames dropped", (unsigned long long)counters.statistics.leases_broken.shared,
           (unsigned long long)counters.statistics.dropped.shared);
}

/* ---------------------------------------------------------------- aftermath */

static void check_writer_is_known_dead(void)
{
    int status = bshm_reader_status(poller.reader);
    EXPECT(status != BSHM_STATUS_LIVE, "the dead writer is said to live");
}

/* A new writer publishes within a second, numbers go on, and readers follow. */
static void succeed(void)
{
    uint64_t seen = poller.seen > copier.seen ? poller.seen : copier.seen;
    int64_t began = bshm_now_ns();
    if (!new_writer(4))
        return;
    uint64_t number = put();
    EXPECT(bshm_now_ns() - began < SECOND_NS, "a new writer took longer than a second");
    EXPECT(number > seen || (phase->traits & MAY_RESTART && number == 1), "frame %llu was published after %llu",
           (unsigned long long)number, (unsigned long long)seen);
    poll_until(&poller, number);
    poll_until(&copier, number);
}

static void check_presence(void)
{
    static bshm_inspection inspection;
    int rc = bshm_inspect(name, NULL, &inspection, &error);
    EXPECT(rc == BSHM_OK && inspection.status == BSHM_STATUS_LIVE, "inspect: %s", error.message);
    EXPECT(inspection.reader_count == 3, "%u readers are there, not 3", inspection.reader_count);
}

static void clean_again(void)
{
    int rc = bshm_remove_stale(name, NULL, &error);
    EXPECT(rc >= 0, "clean: %s", error.message);
    EXPECT(access(name, F_OK) != 0, "clean left the dead segment");
}

static void dismiss_all(void)
{
    let_go(&poller);
    let_go(&copier);
    drop_views();
    bshm_reader_free(holder);
}

static void close_living_writer(void)
{
    bshm_writer_free(writer);
    writer = NULL;
    EXPECT(access(name, F_OK) != 0, "the name is still there after the close");
}

static void look_at_aftermath(void)
{
    check_views("after the kill");
    if (keeps())
        check_window("after the kill");
    poll_all();
    if (phase->kind != OF_READER)
        check_writer_is_known_dead();
    if (phase->traits & LEAVES_FRAME)
        check_late_reader();
    if (phase->kind == OF_CLEANER)
        clean_again();
    if (phase->kind != OF_READER) {
        succeed();
    } else {
        uint64_t number = 0;
        for (uint32_t i = 0; i < 2 * SLOTS_MOST; i++) {
            number = put();
            poll_all();
        }
        poll_until(&poller, number);
        poll_until(&copier, number);
        check_presence();
    }
    check_views("under the living writer");
    dismiss_all();
    if (!writer)
        return;
    check_tokens(phase->kind == OF_READER ? SLOTS_MOST : 4);
    EXPECT(bshm_remove_stale(name, NULL, &error) == BSHM_NOTHING, "clean removed a living writer's segment");
    close_living_writer();
}

/* What `clean` does with temporaries; it spares those of creators that were killed a moment ago. */
static void clean_temporaries(void)
{
    char path[512];
    DIR *entries = opendir(directory);
    if (!entries)
        give_up(directory);
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (strncmp(entry->d_name, ".bshm-", 6) != 0)
            continue;
        path_in_directory(path, sizeof path, entry->d_name);
        if (strcmp(path, temporary) != 0)
            EXPECT(bshm_remove_stale_temporary(path, &error) == BSHM_NOTHING, "a young temporary was not spared");
        age(path);
        EXPECT(bshm_remove_stale_temporary(path, &error) == BSHM_REMOVED, "a dead creator's temporary was not removed");
    }
    (void)closedir(entries);
}

/* ---------------------------------------------------------------- one kill */

static bool get_ready(pid_t driver)
{
    bool traced = false;
    for (;;) {
        int signal_number = stopped_with(driver);
        if (!traced && signal_number != 0 &&
            ptrace(PTRACE_SETOPTIONS, driver, NULL, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD) != 0)
            give_up("options");
        traced = true;
        if (signal_number == SIGUSR2)
            return true;
        EXPECT(signal_number == SIGSTOP, "the driver did not get ready");
        if (signal_number != SIGSTOP)
            return false;
        if (writer)
            (void)put();
        hold_newest();
        poll_all();
        resume(driver, PTRACE_CONT);
    }
}

/* The processes that must survive, and what a phase finds when it begins. */
static void set_scene(const char *ballast)
{
    bool observes = is_root() && experiment++ % 2 == 0;
    poller = new_survivor(1, false, false);
    copier = new_survivor(1, true, observes);
    holder = new_survivor(VIEWS_MOST, false, false).reader;
    if (phase->kind == OF_READER && new_writer(SLOTS_MOST))
        for (uint32_t i = 0; i <= (keeps() ? HISTORY : 0); i++)
            (void)put();
    if (phase->kind == OF_CLEANER)
        make_temporary();
    if (phase->traits & NEEDS_DEAD)
        leave_dead_segment();
    if (phase->kind == OF_READER || phase->traits & NEEDS_DEAD) {
        hold_newest();
        poll_all();
    }
    if (phase->traits & NEEDS_FULL)
        fill_up(ballast);
}

/* True: it was killed where it should be. */
static bool try_once(struct stop where)
{
    char ballast[512];
    stop = where;
    (void)alarm(HANG_SECONDS);
    struct account before = take_stock();
    path_in_directory(ballast, sizeof ballast, "ballast");
    set_scene(ballast);
    pid_t driver = start_driver(phase->name);
    bool reached = get_ready(driver) && run_to_stop(driver);
    check_views("while it is stopped");
    if (keeps())
        check_window("while it is stopped");
    poll_all();
    kill_driver(driver);
    if (phase->traits & NEEDS_FULL)
        (void)unlink(ballast);
    look_at_aftermath();
    clean_temporaries();
    compare_stock(&before);
    (void)alarm(0);
    return reached;
}

/* ---------------------------------------------------------------- one rival */

static bool has_name_and_lives(void)
{
    static bshm_inspection inspection;
    bshm_writer_counters counters;
    bshm_writer_get_counters(writer, &counters);
    return bshm_inspect(name, NULL, &inspection, &error) == BSHM_OK && inspection.status == BSHM_STATUS_LIVE &&
           memcmp(inspection.identity.generation, counters.generation, sizeof counters.generation) == 0;
}

/* The driver is stopped. Which of the two has the name when both are done? */
static void contend(pid_t driver)
{
    bool creates = phase->kind == OF_WRITER && strcmp(phase->name, "close") != 0;
    int rc = ask_for_name(4);
    EXPECT(rc == BSHM_OK || rc == BSHM_E_EXISTS, "a rival was told: %s", error.message);
    if (rc == BSHM_OK)
        (void)put();
    resume(driver, PTRACE_CONT);
    int signal_number = stopped_with(driver); /* 0: it gave up with an error */
    if (rc == BSHM_OK) {
        EXPECT(has_name_and_lives(), "a rival had the name and lost it");
        EXPECT(!creates || signal_number == 0, "two writers have one name");
    } else {
        EXPECT(!creates || signal_number == SIGUSR1, "neither of two writers got the name");
    }
    if (signal_number != 0)
        kill_driver(driver);
}

static bool try_rival(struct stop where)
{
    stop = where;
    (void)alarm(HANG_SECONDS);
    struct account before = take_stock();
    set_scene(NULL);
    pid_t driver = start_driver(phase->name);
    bool reached = get_ready(driver) && run_to_stop(driver);
    contend(driver);
    poll_all();
    check_views("after a rival came");
    if (!writer)
        succeed();
    dismiss_all();
    if (writer)
        close_living_writer();
    clean_temporaries();
    compare_stock(&before);
    (void)alarm(0);
    return reached;
}

/* ---------------------------------------------------------------- a phase */

struct plan {
    uint64_t every;
    uint64_t part;
    uint64_t parts;
    uint64_t enough; /* failures */
    bool instructions;
    bool calls;
    bool rivals;
};

static unsigned long kill_at_instructions(const struct plan *plan)
{
    unsigned long executed = 0, visited = 0, kills = 0;
    (void)try_once((struct stop){.kind = STOP_COLLECTS});
    for (uint64_t at = 0; at < text_bytes && failures < plan->enough; at++) {
        uint32_t most = hits[at];
        if (most == 0 || executed++ % plan->every != 0 || executed / plan->every % plan->parts != plan->part)
            continue;
        visited++;
        kills += try_once((struct stop){.kind = STOP_AT_INSTRUCTION, .at = at, .hit = 1});
        if (most > LATER_HIT_MOST)
            most = LATER_HIT_MOST;
        if (most > 1)
            kills += try_once((struct stop){.kind = STOP_AT_INSTRUCTION, .at = at, .hit = most});
    }
    printf("%s: %lu of %lu instructions, %lu kills\n", phase->name, visited, executed, kills);
    return kills;
}

static unsigned long kill_at_calls(const struct plan *plan)
{
    unsigned long kills = 0;
    (void)try_once((struct stop){.kind = STOP_COUNTS_CALLS});
    uint64_t boundaries = calls;
    uint64_t every = (plan->every + CALLS_DENSER - 1) / CALLS_DENSER;
    for (uint64_t at = 1; at <= boundaries && failures < plan->enough; at++)
        if (at % every == 0 && at / every % plan->parts == plan->part)
            kills += try_once((struct stop){.kind = STOP_AT_CALL, .at = at});
    printf("%s: %lu of %llu system call boundaries, %lu kills\n", phase->name, kills, (unsigned long long)boundaries,
           kills);
    return kills;
}

static unsigned long let_rivals_come(const struct plan *plan)
{
    unsigned long executed = 0, rivals = 0;
    (void)try_once((struct stop){.kind = STOP_COLLECTS});
    for (uint64_t at = 0; at < text_bytes && failures < plan->enough; at++) {
        if (hits[at] == 0 || executed++ % plan->every != 0 || executed / plan->every % plan->parts != plan->part)
            continue;
        rivals += try_rival((struct stop){.kind = STOP_AT_INSTRUCTION, .at = at, .hit = 1});
    }
    printf("%s: %lu rivals at %lu instructions\n", phase->name, rivals, executed);
    return rivals;
}

static void mount_own_tmpfs(void)
{
    if (!is_root() || unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return;
    own_tmpfs = mount("tmpfs", directory, "tmpfs", 0, "size=8m,mode=0755") == 0;
}

static bool is_wanted(const char *phase_name, char *const *wanted)
{
    if (!*wanted)
        return true;
    for (; *wanted; wanted++)
        if (strcmp(*wanted, phase_name) == 0)
            return true;
    return false;
}

int main(int count, char **arguments)
{
    struct plan plan = {.every = 1, .parts = 1, .enough = UINT64_MAX, .instructions = true, .calls = true};
    unsigned long kills = 0;
    if (count < 4)
        return 2;
    driver_path = arguments[1];
    library_path = arguments[2];
    directory = arguments[3];
    arguments += 4;
    for (; *arguments && strncmp(*arguments, "--", 2) == 0; arguments++) {
        if (strcmp(*arguments, "--instructions") == 0)
            plan.calls = false;
        else if (strcmp(*arguments, "--calls") == 0)
            plan.instructions = false;
        else if (strcmp(*arguments, "--rivals") == 0)
            plan.rivals = true;
        else if (strcmp(*arguments, "--every") == 0 && arguments[1])
            plan.every = strtoull(*++arguments, NULL, 10);
        else if (strcmp(*arguments, "--enough") == 0 && arguments[1])
            plan.enough = strtoull(*++arguments, NULL, 10);
        else if (strcmp(*arguments, "--part") == 0 && arguments[1])
            (void)sscanf(*++arguments, "%llu/%llu", (unsigned long long *)&plan.part,
                         (unsigned long long *)&plan.parts);
        else
            return 2;
    }
    if (plan.every == 0 || plan.part >= plan.parts)
        return 2;
    mount_own_tmpfs();
    path_in_directory(name, sizeof name, "segment");
    path_in_directory(temporary, sizeof temporary, ".bshm-0123456789abcdef~");
    printf("memory is accounted for by %s, observers are %s\n", own_tmpfs ? "page" : "file",
           is_root() ? "another user" : "left out");
    for (phase = phases; phase < phases + PHASE_COUNT; phase++) {
        if (!is_wanted(phase->name, arguments))
            continue;
        if (phase->traits & NEEDS_FULL && !own_tmpfs) {
            printf("%s: left out, it needs its own tmpfs\n", phase->name);
            continue;
        }
        if (plan.rivals) {
            kills += phase->traits & HAS_RIVAL ? let_rivals_come(&plan) : 0;
            continue;
        }
        kills += plan.instructions ? kill_at_instructions(&plan) : 0;
        kills += plan.calls ? kill_at_calls(&plan) : 0;
        (void)fflush(stdout);
    }
    printf("%lu %s, %lu failures\n", kills, plan.rivals ? "rivals" : "kills", failures);
    return failures != 0;
}
