/* billiards_shm.h - one writer, many readers, frames in shared memory.
 *
 * This header is the specification: the segment layout, the protocol (steps W1..W12 and R0..R6, which the code cites),
 * and the functions. Plain fixed-width types only, so that C++ and other languages can take it as it is; the words
 * that processes share are touched through csrc/ordering.h alone.
 *
 * What users may rely on:
 *   1. a view never changes            4. SIGKILL of anybody leaves everybody else working
 *   2. no reader stalls the writer     5. memory is bounded, and missing memory is an error, never SIGBUS
 *   3. a reader never crashes          6. a late reader gets the newest frame at once
 *
 *
 * ONE OBJECT
 *
 *   offset 0          header region    64 KiB   immutable identity; publication line; statistics; slot descriptors
 *   control_offset    control region   64 KiB   one pin word per slot; diagnostic table of readers
 *   pixels_offset     slots            slot_count * slot_stride
 *
 * Readers map the header and the pixels read-only and the control region read-write. One that may open the object
 * only read-only is an *observer*: it maps no control region and always copies. Regions and slots start on 64 KiB
 * boundaries because 16 and 64 KiB pages exist. Every integer is in the byte order of the machine (`byte_order`).
 *
 *
 * SLOTS, PINS, TOKENS
 *
 *   There are S slots and L = S - 2 lease tokens. Token t is bit t of every slot's pin word; bit 63 is WRITING. A token
 *   pins at most one slot, so at most S - 2 slots are pinned, one is `latest`, and one is always free for the writer.
 *   A token belongs to whoever holds the kernel's write lock on byte BSHM_TOKEN_BYTE + t (Linux: open file description
 *   locks, which die with their process). A new owner first clears the token's bit in every slot: that is the whole
 *   reclaim of what a killed reader left behind.
 *   The writer owns BSHM_WRITER_BYTE likewise. Whether it lives is asked of the lock, never of a pid or a heartbeat.
 *   Readers show their presence by a read lock on a byte of their own from BSHM_READER_BYTE on.
 *
 *
 * WRITER, one thread at a time
 *
 *   W1   candidates: backed slots, least recently published first, never `latest`'s nor a lent one; then one unbacked
 *   W2   w = load(pin[s], relaxed); any token bit set: next candidate    (bits that are no token are nobody's)
 *   W3   strong CAS(pin[s], w -> WRITING, acquire / relaxed); failed: next candidate
 *   W4   store(seq[s], 2n-1, relaxed)                                    odd: being written
 *   W5   fence(seq_cst)                                                  W4 before every pixel
 *   W6   descriptor by relaxed stores; the pixels
 *   W7   fence(seq_cst)                                                  also orders non-temporal stores of the caller
 *   W8   store(seq[s], 2n, release)                                      even: frame n complete
 *   W9   fetch_and(pin[s], ~WRITING, release)                            before W10: who sees n finds no WRITING
 *   W10  store(latest, n << 6 | s, release)
 *   W11  fence(seq_cst)                                                  pairs with R0
 *   W12  store(notify, notify + 1, release); futex wake of all
 *
 *   A cancelled loan leaves seq odd, clears WRITING and does not use n up. After S passes without a slot (only forged
 *   pins can cause that) the writer takes the least recently published one, and counts `leases_broken`.
 *
 * READER WITH A LEASE, under a mutex of its own
 *
 *        a plain look at `latest` first: nothing new, return; nothing is pinned by it
 *   R0   own a token, cleared and unpinned; fence(seq_cst)               pairs with W11
 *   R1   L = load(latest, acquire); n = L >> 6, s = L & 63; bounds-check s; n <= seen: nothing new
 *   R2   p = fetch_or(pin[s], token, acq_rel)
 *   R3   p has WRITING: fetch_and(pin[s], ~token, release), again from R0, at most BSHM_READ_ATTEMPTS times, then copy
 *   R4   q = load(seq[s], acquire); odd or < 2n: unpin as in R3. Else copy the descriptor (relaxed), validate the copy
 *   R5   intact(view): fence(acquire); load(seq[s], relaxed) == q        false only under attack, or after a bug
 *   R6   last view gone: fetch_and(pin[s], ~token, release)
 *
 * READER WITHOUT A LEASE
 *
 *        R1; q = load(seq, acquire), odd or < 2n: retry; copy the descriptor by relaxed loads, the pixels by pread;
 *        fence(acquire); seq unchanged, else retry, at most BSHM_READ_ATTEMPTS times. By pread, because what nobody pins
 *        may be punched out of the object by a takeover, or cut off, and touching it in a mapping then is SIGBUS.
 *        Only an observer reads like this, or who finds every token taken: any other copy takes a token, pins for the
 *        length of the copy, and gives the token up.
 *
 * WAITING
 *
 *        load(notify, acquire) before `latest`; nothing new: futex wait on `notify`, at most 100 ms at a time. Every
 *        change of `state` also bumps `notify` and wakes.
 *
 *
 * CAVEATS
 *
 *   - Whoever may write the object can truncate it, and touching it then is SIGBUS. Modes are the defence.
 *   - Frames are not to be used in a forked child. A reader itself is: it attaches anew.
 *   - A file on a disk (not tmpfs) makes the writer wait for write-back.
 */
#ifndef BILLIARDS_SHM_H
#define BILLIARDS_SHM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------- layout */

#define BSHM_MAGIC           "BILLISHM" /* 8 bytes, no terminator */
#define BSHM_ABI_MAJOR       1
#define BSHM_ABI_MINOR       0
#define BSHM_BYTE_ORDER      0x0A0B0C0Du
#define BSHM_REGION_BYTES    65536u /* header region, control region, and the alignment of both and of slots */
#define BSHM_MIN_SLOTS       3u
#define BSHM_MAX_SLOTS       62u /* tokens are bits 0..59, a slot number fits 6 bits, bit 63 is WRITING */
#define BSHM_INITIAL_SLOTS   3u  /* backed by memory from the start */
#define BSHM_MAX_READERS     256u
#define BSHM_LATENCY_BUCKETS 40u
#define BSHM_READ_ATTEMPTS   8
#define BSHM_MAX_SEQUENCE    ((UINT64_C(1) << 57) - 1) /* `latest` has 58 bits for it */

/* Lock bytes: far beyond any object, at the same place in every version. */
#define BSHM_WRITER_BYTE           0x4000000000000000
#define BSHM_TOKEN_BYTE            0x4000000000001000
#define BSHM_READER_BYTE           0x4000000000002000

#define BSHM_PIN_WRITING           (UINT64_C(1) << 63)
#define BSHM_TOKEN_MASK(S)         ((UINT64_C(1) << ((S) - 2)) - 1)
#define BSHM_LATEST(n, s)          ((uint64_t)(n) << 6 | (uint64_t)(s))
#define BSHM_LATEST_SEQUENCE(word) ((word) >> 6)
#define BSHM_LATEST_SLOT(word)     ((uint32_t)((word) & 63u))

/* A word that processes share. A struct, so that no plain read or write of one compiles by accident. */
typedef struct bshm_shared64 {
    uint64_t shared;
} bshm_shared64;
typedef struct bshm_shared32 {
    uint32_t shared;
} bshm_shared32;

/* Identity: written before the name becomes visible, never changed. Readers take it by pread, validate that copy
 * against fstat and do not look again. `magic`, `abi_major`, `abi_minor` keep their places in every version. */
typedef struct bshm_identity {
    uint8_t magic[8];
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t header_bytes;
    uint32_t byte_order;
    uint32_t slot_count;
    uint8_t generation[16]; /* random */
    uint64_t total_bytes;
    uint64_t slot_stride;   /* from slot to slot, a multiple of BSHM_REGION_BYTES */
    uint64_t slot_capacity; /* payload bytes a slot can hold */
    uint64_t control_offset;
    uint64_t pixels_offset;
    uint64_t base_sequence; /* the first frame here has a number above this one */
    int64_t created_wall_ns;
    int64_t created_ns;  /* CLOCK_MONOTONIC */
    uint32_t writer_pid; /* for messages only */
    uint32_t descriptor_offset;
    uint64_t series;   /* random; kept by take-over and replacement: as long as it is the same, one count goes on */
    uint64_t checksum; /* FNV-1a 64 of everything above */
} bshm_identity;

enum bshm_state { BSHM_STATE_LIVE = 1, BSHM_STATE_RETIRED = 2, BSHM_STATE_CLOSED = 3 };

/* What readers look at: one cache line. */
typedef struct bshm_publication {
    bshm_shared64 latest; /* n << 6 | slot; 0: no frame yet */
    bshm_shared32 notify; /* futex word */
    bshm_shared32 state;  /* enum bshm_state */
    uint8_t reserved[48];
} bshm_publication;

enum bshm_source_state {
    BSHM_SOURCE_UNKNOWN = 0, /* a writer that does not tell */
    BSHM_SOURCE_OPENING = 1,
    BSHM_SOURCE_STREAMING = 2,
    BSHM_SOURCE_STALLED = 3,
    BSHM_SOURCE_RECONNECTING = 4,
    BSHM_SOURCE_ENDED = 5
};

/* Every word relaxed, written by the writer alone. Text is guarded by `text_seq` (odd: being written). Functions that
 * take or give statistics use this structure too, as a private copy: read its words as `copy.published.shared`.
 * billiards_shm/statistics.py is the table of what is counted here: names, help texts, and how they are shown. */
typedef struct bshm_statistics {
    bshm_shared64 published;
    bshm_shared64 dropped;
    bshm_shared64 leases_broken;
    bshm_shared64 backed_slots;
    bshm_shared64 heartbeat_ns; /* CLOCK_MONOTONIC of the writer's last action */
    bshm_shared64
        last_capture_ns; /* CLOCK_MONOTONIC of the last *captured* frame; 0: none. Placeholders do not count */
    bshm_shared64 captured;
    bshm_shared64 reconnects;
    bshm_shared64 stalls;
    bshm_shared64 loops;
    bshm_shared64 fps_millihertz; /* measured by the capture process over a window */
    bshm_shared64 source_state;   /* enum bshm_source_state */
    bshm_shared64 write_ns_total;
    bshm_shared64 text_seq;
    bshm_shared64 reason[16];    /* UTF-8, NUL-padded */
    bshm_shared64 backend[4];    /* UTF-8, NUL-padded */
    bshm_shared64 bytes_written; /* payload bytes published */
    bshm_shared64 reserved[9];
    bshm_shared64
        write_ns_log2[BSHM_LATENCY_BUCKETS]; /* bucket i: writes that took less than 2^i ns, not less than 2^(i-1) */
} bshm_statistics;

#define BSHM_STATISTICS_WORDS 84u

enum bshm_frame_flags { BSHM_FRAME_PLACEHOLDER = 1 };

/* What a descriptor says of its frame. Geometry is per frame: whatever fits the capacity may follow. */
typedef struct bshm_frame_info {
    uint64_t sequence;
    int64_t capture_ns; /* CLOCK_MONOTONIC */
    int64_t publish_ns; /* CLOCK_MONOTONIC */
    int64_t wall_ns;    /* CLOCK_REALTIME at publication */
    double position_ms; /* in the source; NaN: unknown */
    uint64_t payload_bytes;
    uint64_t row_stride; /* bytes */
    uint32_t width;
    uint32_t height;
    uint32_t channels;  /* 1 when ndim is 2 */
    uint32_t item_size; /* bytes */
    uint32_t ndim;      /* 2: (height, width), 3: (height, width, channels) */
    uint32_t kind;      /* 'b' bool, 'i' signed, 'u' unsigned, 'f' floating, 'c' complex */
    uint32_t fourcc;    /* pixel format */
    uint32_t flags;     /* enum bshm_frame_flags */
    uint64_t reserved[4];
} bshm_frame_info;

#define BSHM_INFO_WORDS 15u

typedef struct bshm_descriptor {
    bshm_shared64 seq;                   /* 2n: frame n complete; 2n-1: being written */
    bshm_shared64 info[BSHM_INFO_WORDS]; /* a bshm_frame_info, word by word */
} bshm_descriptor;

#define BSHM_PUBLICATION_OFFSET 256u
#define BSHM_STATISTICS_OFFSET  512u
#define BSHM_DESCRIPTOR_OFFSET  4096u

typedef struct bshm_header {
    bshm_identity identity;
    uint8_t padding0[BSHM_PUBLICATION_OFFSET - sizeof(bshm_identity)];
    bshm_publication publication;
    uint8_t padding1[BSHM_STATISTICS_OFFSET - BSHM_PUBLICATION_OFFSET - sizeof(bshm_publication)];
    bshm_statistics statistics;
    uint8_t padding2[BSHM_DESCRIPTOR_OFFSET - BSHM_STATISTICS_OFFSET - sizeof(bshm_statistics)];
    bshm_descriptor descriptors[BSHM_MAX_SLOTS];
} bshm_header;

/* A pin word each on 128 bytes: two cache lines on x86 (its prefetcher fetches pairs), one on Apple's cores. */
typedef struct bshm_pin {
    bshm_shared64 word;
    uint8_t reserved[120];
} bshm_pin;

enum bshm_reader_kind { BSHM_READER_LEASE = 1, BSHM_READER_OBSERVER = 2 };

/* For `inspect`, and for nothing else: nobody decides anything by it. */
typedef struct bshm_reader_entry {
    bshm_shared64 pid;
    bshm_shared64 kind; /* enum bshm_reader_kind */
    bshm_shared64 attached_wall_ns;
    bshm_shared64 frames;
    bshm_shared64 skipped;
    bshm_shared64 copies;
    bshm_shared64 last_sequence;
    bshm_shared64 tokens; /* bit t: token t is its own */
    bshm_shared64 process_name[4];
    uint8_t reserved[32];
} bshm_reader_entry;

#define BSHM_READER_TABLE_OFFSET 16384u

typedef struct bshm_control {
    bshm_pin pins[BSHM_MAX_SLOTS];
    uint8_t padding[BSHM_READER_TABLE_OFFSET - BSHM_MAX_SLOTS * sizeof(bshm_pin)];
    bshm_reader_entry readers[BSHM_MAX_READERS];
} bshm_control;

/* ---------------------------------------------------------------- results and errors */

/* What a function returns. Where a function that did not fail has more to say than BSHM_OK, it is one of the next five. */
enum bshm_code {
    BSHM_OK = 0,
    BSHM_NOTHING = 0,  /* nothing new, nothing there, nothing to remove */
    BSHM_FOUND = 1,    /* bshm_reader_acquire: *frame holds a frame */
    BSHM_ATTACHED = 1, /* bshm_reader_source: *view is filled */
    BSHM_DROPPED = 1,  /* bshm_writer_loan, bshm_writer_write: no memory for another slot, the frame is dropped */
    BSHM_REMOVED = 1,  /* bshm_remove_stale, bshm_remove_stale_temporary */
    BSHM_E_NAME = -1,
    BSHM_E_NOT_FOUND = -2,
    BSHM_E_FORMAT = -3,
    BSHM_E_EXISTS = -4,
    BSHM_E_FULL = -5,
    BSHM_E_PERMISSION = -6,
    BSHM_E_SHAPE = -7,
    BSHM_E_LOAN = -8,
    BSHM_E_CLOSED = -9,
    BSHM_E_ARGUMENT = -10,
    BSHM_E_MEMORY = -11,
    BSHM_E_SYSTEM = -12,
    BSHM_E_TORN = -13 /* a copy met a newer frame: give the frame back and acquire again */
};
#define BSHM_CODE_COUNT 14

/* Filled by every function that fails: what was found, what was expected, what to do. */
typedef struct bshm_error {
    int32_t code;
    int32_t system_errno; /* 0 when no system call was to blame */
    char message[488];
} bshm_error;

const char *bshm_code_name(int code);

/* ---------------------------------------------------------------- common */

/* Users other than oneself and root whose objects are accepted. */
typedef struct bshm_owners {
    const uint32_t *uids;
    size_t count;
} bshm_owners;

int64_t bshm_now_ns(void); /* CLOCK_MONOTONIC */

/* 0, or BSHM_E_NAME. Writes the path of the object that `name` leads to. */
int bshm_object_path(const char *name, char *path, size_t path_bytes, bshm_error *error);

/* ---------------------------------------------------------------- writer */

typedef struct bshm_writer bshm_writer;

typedef struct bshm_writer_options {
    uint64_t slot_capacity; /* bytes of the largest frame; a larger one replaces the segment */
    uint32_t slots;
    uint32_t mode; /* of the object, as chmod takes it */
    bshm_owners trusted;
} bshm_writer_options;

typedef struct bshm_writer_counters {
    uint64_t sequence;
    uint64_t replacements;
    uint64_t backed_bytes;
    uint64_t total_bytes;
    uint8_t generation[16];
    bshm_statistics statistics; /* what the writer counts: summed over all its generations */
} bshm_writer_counters;

/* What the process that feeds the writer says of its source: `captured`, `reconnects`, `stalls`, `loops`,
 * `fps_millihertz` and `source_state` of the statistics, and two texts. Begin with bshm_source_report_init: a word of
 * all ones, or a null pointer, leaves a value as it was. */
typedef struct bshm_source_report {
    bshm_statistics statistics;
    const char *reason;
    const char *backend;
} bshm_source_report;

/* A slot lent for writing. It keeps the memory at `pixels` mapped until bshm_loan_release, whatever becomes of the
 * writer; but what is written there after publish or cancel is written into somebody's frame: do not. */
typedef struct bshm_segment bshm_segment;
typedef struct bshm_loan {
    bshm_frame_info info; /* may be changed until publish, within the payload bytes lent */
    void *pixels;
    bshm_segment *segment;
    int64_t claim_ns; /* what the loan itself took */
    uint32_t slot;
    uint32_t open; /* neither published nor cancelled yet */
} bshm_loan;

int bshm_writer_create(bshm_writer **writer, const char *name, const bshm_writer_options *options, bshm_error *error);

/* Lends a slot for a frame of the geometry, kind, fourcc, flags, capture_ns and position_ms of `info`; computes its
 * row_stride and payload_bytes. One loan at a time, else BSHM_E_LOAN. BSHM_DROPPED: no memory to back another slot, the frame is
 * counted as dropped and `error` says how much was missing. BSHM_E_FULL: a larger segment was needed, and no room. */
int bshm_writer_loan(bshm_writer *writer, const bshm_frame_info *info, bshm_loan *loan, bshm_error *error);
int bshm_writer_publish(bshm_writer *writer, bshm_loan *loan, uint64_t *sequence, bshm_error *error);
void bshm_writer_cancel(bshm_writer *writer, bshm_loan *loan);
void bshm_loan_release(bshm_loan *loan);

/* Loan, copy of `height` rows that begin `source_stride` bytes apart, publish. Returns as bshm_writer_loan does. */
int bshm_writer_write(bshm_writer *writer, const bshm_frame_info *info, const void *source, ptrdiff_t source_stride,
                      uint64_t *sequence, bshm_error *error);

/* A report that leaves every value as it was. */
void bshm_source_report_init(bshm_source_report *report);
int bshm_writer_report(bshm_writer *writer, const bshm_source_report *report, bshm_error *error);
void bshm_writer_get_counters(bshm_writer *writer, bshm_writer_counters *counters);

/* CLOSED, wake, unlink. May be called again and from any thread; an open loan is cancelled. */
void bshm_writer_close(bshm_writer *writer);
/* Closes and frees. The caller sees to it that nobody else is inside a call. */
void bshm_writer_free(bshm_writer *writer);

/* ---------------------------------------------------------------- reader */

/* The statistics of a segment, copied out, with their texts as C has them. */
typedef struct bshm_source_view {
    bshm_statistics statistics;
    char reason[129];
    char backend[33];
} bshm_source_view;

typedef struct bshm_reader bshm_reader;
typedef struct bshm_attachment bshm_attachment;

enum bshm_status { BSHM_STATUS_DETACHED = 0, BSHM_STATUS_LIVE = 1, BSHM_STATUS_CLOSED = 2, BSHM_STATUS_DEAD = 3 };

typedef struct bshm_reader_options {
    uint32_t max_leases;
    bshm_owners trusted;
} bshm_reader_options;

/* A frame held: read it in place until bshm_frame_release; unless `to_copy`: then it is pinned for the length of a copy
 * only, or not at all (`pixels` is null), and bshm_frame_copy takes it out. Owns a reference on the mapping it lies in, so
 * it outlives reader, writer and name. */
typedef struct bshm_frame {
    bshm_frame_info info;
    uint8_t generation[16];
    uint64_t skipped;
    const void *pixels;
    bshm_attachment *attachment;
    uint64_t seq;
    uint32_t slot;
    int32_t lease; /* which of the reader's leases; -1: none */
    uint32_t pinned;
    uint32_t to_copy; /* not to be held: copy it and release it */
    uint32_t is_new;  /* this reader had not seen it before */
    uint32_t reserved;
} bshm_frame;

enum bshm_acquire_flags {
    BSHM_ACQUIRE_SEEN = 1, /* the newest frame even if this reader had it */
    BSHM_ACQUIRE_COPY = 2, /* it will be copied: keep no token for it */
    BSHM_ACQUIRE_STAY = 4  /* do not move on from a segment that was closed in order */
};

typedef struct bshm_reader_counters {
    uint64_t frames;
    uint64_t skipped;
    uint64_t copies;
    uint64_t retries;
} bshm_reader_counters;

/* Touches no segment. */
int bshm_reader_create(bshm_reader **reader, const char *name, const bshm_reader_options *options, bshm_error *error);
/* One try; BSHM_OK when attached already. */
int bshm_reader_attach(bshm_reader *reader, bshm_error *error);
/* BSHM_FOUND: *frame holds the newest frame, from now on seen; BSHM_NOTHING: nothing new, or no segment; negative: an error. Moves on to a
 * successor segment by itself. */
int bshm_reader_acquire(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error);
/* The frame could not be used after all (BSHM_E_TORN): it counts as skipped in the next one. */
void bshm_reader_give_back(bshm_reader *reader, const bshm_frame *frame);
/* Sleeps until there may be something new, at most timeout_ns and never above 100 ms. Interrupted by signals. */
void bshm_reader_wait(bshm_reader *reader, int64_t timeout_ns);
/* enum bshm_status, asked of the kernel now. */
int bshm_reader_status(bshm_reader *reader);
/* 1: the last segment under the name was closed in order, and all that can still be read was seen. */
int bshm_reader_ended(bshm_reader *reader);
/* BSHM_ATTACHED and *view filled, or BSHM_NOTHING when detached. */
int bshm_reader_source(bshm_reader *reader, bshm_source_view *view);
void bshm_reader_get_counters(bshm_reader *reader, bshm_reader_counters *counters);
void bshm_reader_close(bshm_reader *reader);
void bshm_reader_free(bshm_reader *reader);

/* R5: 1 as long as the pixels are those of `frame`. */
int bshm_frame_intact(const bshm_frame *frame);
/* Rows without padding to `destination` (info.height * width * channels * item_size bytes). BSHM_E_TORN: acquire again. */
int bshm_frame_copy(const bshm_frame *frame, void *destination, uint64_t destination_bytes);
/* R6. Also in a forked child, where it only forgets. */
void bshm_frame_release(bshm_frame *frame);

/* ---------------------------------------------------------------- looking from outside */

typedef struct bshm_reader_view {
    uint32_t pid; /* 0: an observer, which has no entry */
    uint32_t kind;
    int64_t attached_wall_ns;
    uint64_t frames;
    uint64_t skipped;
    uint64_t copies;
    uint64_t last_sequence;
    uint32_t leases; /* frames it holds pinned now */
    char process_name[33];
} bshm_reader_view;

typedef struct bshm_inspection {
    bshm_identity identity;
    uint64_t allocated_bytes;
    uint32_t owner_uid;
    uint32_t mode;
    int32_t status; /* enum bshm_status */
    uint64_t latest_sequence;
    int32_t has_frame; /* `frame` is valid */
    bshm_frame_info frame;
    bshm_source_view source;
    uint32_t reader_count;
    bshm_reader_view readers[BSHM_MAX_READERS];
} bshm_inspection;

/* Reads the object without mapping it. */
int bshm_inspect(const char *name, const bshm_owners *trusted, bshm_inspection *inspection, bshm_error *error);
/* BSHM_REMOVED, or BSHM_NOTHING (no such name, or its writer lives); negative: an error. */
int bshm_remove_stale(const char *name, const bshm_owners *trusted, bshm_error *error);
/* The same for a temporary that a creator left behind, at `path`; spares those younger than 10 s. */
int bshm_remove_stale_temporary(const char *path, bshm_error *error);
/* The directory that names without a slash lie in. */
const char *bshm_object_directory(void);

#ifdef __cplusplus
}
#endif

#endif
