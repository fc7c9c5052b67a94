# The public header, mirrored; nothing else. tests/core/test_layout.py holds the two together.
from libc.stddef cimport ptrdiff_t, size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "billiards_shm.h" nogil:
    enum:
        BSHM_ABI_MAJOR
        BSHM_ABI_MINOR
        BSHM_MIN_SLOTS
        BSHM_MAX_SLOTS
        BSHM_MAX_READERS
        BSHM_LATENCY_BUCKETS
        BSHM_READ_ATTEMPTS
        BSHM_FRAME_PLACEHOLDER
        BSHM_FRAME_SOURCE_SEQUENCE
        BSHM_FRAME_CLOCK
        BSHM_CLOCK_SHIFT
        BSHM_ACQUIRE_SEEN
        BSHM_ACQUIRE_COPY
        BSHM_ACQUIRE_STAY
        BSHM_CODE_COUNT

    enum bshm_code:
        BSHM_OK
        BSHM_NOTHING
        BSHM_FOUND
        BSHM_ATTACHED
        BSHM_DROPPED
        BSHM_REMOVED
        BSHM_E_NAME
        BSHM_E_NOT_FOUND
        BSHM_E_FORMAT
        BSHM_E_EXISTS
        BSHM_E_FULL
        BSHM_E_PERMISSION
        BSHM_E_SHAPE
        BSHM_E_LOAN
        BSHM_E_CLOSED
        BSHM_E_ARGUMENT
        BSHM_E_MEMORY
        BSHM_E_SYSTEM
        BSHM_E_TORN

    ctypedef struct bshm_identity:
        uint16_t abi_major
        uint16_t abi_minor
        uint32_t slot_count
        uint8_t generation[16]
        uint64_t total_bytes
        uint64_t slot_stride
        uint64_t slot_capacity
        uint64_t control_offset
        uint64_t pixels_offset
        uint64_t base_sequence
        int64_t created_wall_ns
        int64_t created_ns
        uint32_t writer_pid
        uint64_t series
        uint32_t token_count
        uint32_t history

    ctypedef struct bshm_shared64:
        uint64_t shared

    ctypedef struct bshm_statistics:  # statistics.py names its words; here, those that are more than a number
        bshm_shared64 backed_slots
        bshm_shared64 heartbeat_ns
        bshm_shared64 last_capture_ns
        bshm_shared64 fps_millihertz
        bshm_shared64 clock_offset_ns
        bshm_shared64 source_state
        bshm_shared64 write_ns_log2[40]

    ctypedef struct bshm_frame_info:
        uint64_t sequence
        int64_t capture_ns
        int64_t publish_ns
        int64_t wall_ns
        double position_ms
        uint64_t payload_bytes
        uint64_t row_stride
        uint32_t width
        uint32_t height
        uint32_t channels
        uint32_t item_size
        uint32_t ndim
        uint32_t kind
        uint32_t fourcc
        uint32_t flags
        uint64_t source_sequence

    ctypedef struct bshm_error:
        int32_t code
        int32_t system_errno
        char message[488]

    ctypedef struct bshm_owners:
        const uint32_t *uids
        size_t count

    const char *bshm_code_name(int code)
    int64_t bshm_now_ns()
    int bshm_object_path(const char *name, char *path, size_t path_bytes, bshm_error *error)
    const char *bshm_object_directory()

    ctypedef struct bshm_writer:
        pass

    ctypedef struct bshm_writer_options:
        uint64_t slot_capacity
        uint32_t slots
        uint32_t history
        uint32_t mode
        int32_t set_group
        uint32_t group
        bshm_owners trusted

    ctypedef struct bshm_writer_counters:
        uint64_t sequence
        uint64_t replacements
        uint64_t backed_bytes
        uint64_t total_bytes
        uint8_t generation[16]
        bshm_statistics statistics

    ctypedef struct bshm_source_report:
        bshm_statistics statistics
        const char *reason
        const char *backend

    ctypedef struct bshm_loan:
        bshm_frame_info info
        void *pixels
        uint32_t open

    int bshm_writer_create(bshm_writer **writer, const char *name, const bshm_writer_options *options,
                           bshm_error *error)
    int bshm_writer_loan(bshm_writer *writer, const bshm_frame_info *info, bshm_loan *loan, bshm_error *error)
    int bshm_writer_publish(bshm_writer *writer, bshm_loan *loan, uint64_t *sequence, bshm_error *error)
    void bshm_writer_cancel(bshm_writer *writer, bshm_loan *loan)
    void bshm_loan_release(bshm_loan *loan)
    int bshm_writer_write(bshm_writer *writer, const bshm_frame_info *info, const void *source,
                          ptrdiff_t source_stride, uint64_t *sequence, bshm_error *error)
    void bshm_source_report_init(bshm_source_report *report)
    int bshm_writer_report(bshm_writer *writer, const bshm_source_report *report, bshm_error *error)
    int bshm_writer_has_readers(bshm_writer *writer)
    void bshm_writer_get_counters(bshm_writer *writer, bshm_writer_counters *counters)
    void bshm_writer_close(bshm_writer *writer)
    void bshm_writer_free(bshm_writer *writer)

    ctypedef struct bshm_source_view:
        bshm_statistics statistics
        char reason[129]
        char backend[33]

    ctypedef struct bshm_reader:
        pass

    enum bshm_status:
        BSHM_STATUS_DETACHED
        BSHM_STATUS_LIVE
        BSHM_STATUS_CLOSED
        BSHM_STATUS_DEAD

    ctypedef struct bshm_reader_options:
        uint32_t max_leases
        bshm_owners trusted

    ctypedef struct bshm_attachment:
        pass

    ctypedef struct bshm_frame:
        bshm_frame_info info
        uint8_t generation[16]
        uint64_t skipped
        const void *pixels
        bshm_attachment *attachment
        uint32_t slot
        uint32_t pinned
        uint32_t to_copy

    ctypedef struct bshm_reader_counters:
        uint64_t frames
        uint64_t skipped
        uint64_t copies
        uint64_t retries
        uint64_t ends

    int bshm_reader_create(bshm_reader **reader, const char *name, const bshm_reader_options *options,
                           bshm_error *error)
    int bshm_reader_attach(bshm_reader *reader, bshm_error *error)
    int bshm_reader_acquire(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
    int bshm_reader_acquire_next(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
    int bshm_reader_acquire_number(bshm_reader *reader, uint64_t number, uint32_t flags, bshm_frame *frame,
                                   bshm_error *error)
    int bshm_reader_acquire_nearest(bshm_reader *reader, int64_t capture_ns, uint32_t flags, bshm_frame *frame,
                                    bshm_error *error)
    int bshm_reader_history(bshm_reader *reader)
    void bshm_reader_give_back(bshm_reader *reader, const bshm_frame *frame)
    void bshm_reader_wait(bshm_reader *reader, int64_t timeout_ns)
    const void *bshm_reader_map_ahead(bshm_reader *reader, const bshm_attachment *attachment, uint32_t slot)
    int bshm_reader_status(bshm_reader *reader)
    int bshm_reader_ended(bshm_reader *reader)
    int bshm_reader_source(bshm_reader *reader, bshm_source_view *view)
    void bshm_reader_get_counters(bshm_reader *reader, bshm_reader_counters *counters)
    void bshm_reader_close(bshm_reader *reader)
    void bshm_reader_free(bshm_reader *reader)

    int bshm_frame_intact(const bshm_frame *frame)
    int bshm_frame_copy(const bshm_frame *frame, void *destination, uint64_t destination_bytes)
    void bshm_frame_release(bshm_frame *frame)
    bshm_attachment *bshm_addresses_hold(bshm_attachment *attachment)
    void bshm_addresses_release(bshm_attachment *attachment)

    ctypedef struct bshm_reader_view:
        uint32_t pid
        uint32_t kind
        int64_t attached_wall_ns
        uint64_t frames
        uint64_t skipped
        uint64_t copies
        uint64_t last_sequence
        uint32_t leases
        char process_name[33]

    ctypedef struct bshm_inspection:
        bshm_identity identity
        uint64_t allocated_bytes
        uint32_t owner_uid
        uint32_t group_gid
        uint32_t mode
        int32_t status
        uint64_t latest_sequence
        int32_t has_frame
        bshm_frame_info frame
        bshm_source_view source
        uint32_t reader_count
        bshm_reader_view readers[256]

    int bshm_inspect(const char *name, const bshm_owners *trusted, bshm_inspection *inspection, bshm_error *error)
    int bshm_remove_stale(const char *name, const bshm_owners *trusted, bshm_error *error)
    int bshm_remove_stale_temporary(const char *path, bshm_error *error)
