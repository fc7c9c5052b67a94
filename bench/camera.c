/* camera.c - a V4L2 Motion JPEG camera for programs that preload this: 1920x1080 at 30 fps, at the path in CAMERA.
 *
 * It delivers the files 0.jpg, 1.jpg and so on of the folder in CAMERA_JPEGS in turn, by the clock, as mapped buffers.
 * For an empty file it delivers an empty buffer, as drivers do after an error. The
 * descriptor is a timer, so select and poll just work. The copy into a buffer, which a USB camera's driver
 * makes in the kernel, counts as the program's own.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { BUFFERS = 32, MOST_JPEGS = 30, LARGEST = 1 << 20, FRAME_NS = 33333333 };

static int device = -1;
static void *buffers[BUFFERS];
static unsigned waiting[BUFFERS], count;
static unsigned number, jpeg_count;
static struct {
    void *data;
    size_t size;
} jpegs[MOST_JPEGS];

static int open_camera(void)
{
    for (int i = 0; i < MOST_JPEGS; i++) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%d.jpg", getenv("CAMERA_JPEGS"), i);
        FILE *file = fopen(name, "rb");
        if (file == NULL)
            break;
        jpeg_count = (unsigned)i + 1;
        if (jpegs[i].data == NULL)
            jpegs[i].data = malloc(LARGEST);
        jpegs[i].size = fread(jpegs[i].data, 1, LARGEST, file);
        fclose(file);
    }
    return device = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
}

static int is_camera(const char *path)
{
    return getenv("CAMERA") != NULL && strcmp(path, getenv("CAMERA")) == 0;
}

int access(const char *path, int mode)
{
    int (*real)(const char *, int) = dlsym(RTLD_NEXT, "access");
    return is_camera(path) ? 0 : real(path, mode);
}

static int open_any(const char *function, const char *path, int flags, int mode)
{
    if (is_camera(path))
        return open_camera();
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, function);
    return real(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    return open_any("open", path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    return open_any("open64", path, flags, mode);
}

static void *map(const char *function, void *address, size_t length, int access, int flags, int fd, off_t offset)
{
    void *(*real)(void *, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, function);
    if (fd < 0 || fd != device)
        return real(address, length, access, flags, fd, offset);
    access = PROT_READ | PROT_WRITE; /* the program only reads, but here the driver writes through it, too */
    return buffers[offset / LARGEST] = real(NULL, length, access, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

void *mmap(void *address, size_t length, int access, int flags, int fd, off_t offset)
{
    return map("mmap", address, length, access, flags, fd, offset);
}

void *mmap64(void *address, size_t length, int access, int flags, int fd, off_t offset)
{
    return map("mmap64", address, length, access, flags, fd, offset);
}

static int set_timer(long ns)
{
    struct itimerspec timer = {{0, ns}, {0, ns}};
    return timerfd_settime(device, 0, &timer, NULL);
}

static int take(struct v4l2_buffer *buffer)
{
    unsigned long long due;
    if (read(device, &due, sizeof due) < 0)
        return -1; /* EAGAIN: not yet */
    number += (unsigned)due;
    if (count == 0) {
        errno = EAGAIN;
        return -1;
    }
    buffer->index = waiting[0];
    memmove(waiting, waiting + 1, --count * sizeof *waiting);
    buffer->bytesused = (unsigned)jpegs[number % jpeg_count].size;
    memcpy(buffers[buffer->index], jpegs[number % jpeg_count].data, buffer->bytesused);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    buffer->timestamp.tv_sec = now.tv_sec;
    buffer->timestamp.tv_usec = now.tv_nsec / 1000;
    buffer->length = LARGEST;
    buffer->sequence = number;
    buffer->field = V4L2_FIELD_NONE;
    buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC | V4L2_BUF_FLAG_MAPPED;
    return 0;
}

static int answer(unsigned long request, void *argument)
{
    struct v4l2_capability *capability = argument;
    struct v4l2_pix_format *format = &((struct v4l2_format *)argument)->fmt.pix;
    struct v4l2_captureparm *rate = &((struct v4l2_streamparm *)argument)->parm.capture;
    struct v4l2_buffer *buffer = argument;
    switch (request) {
    case VIDIOC_QUERYCAP:
        memset(capability, 0, sizeof *capability);
        strcpy((char *)capability->driver, "preloaded");
        strcpy((char *)capability->card, "preloaded");
        capability->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        capability->capabilities = capability->device_caps | V4L2_CAP_DEVICE_CAPS;
        return 0;
    case VIDIOC_G_FMT:
    case VIDIOC_S_FMT:
    case VIDIOC_TRY_FMT:
        format->width = 1920;
        format->height = 1080;
        format->pixelformat = V4L2_PIX_FMT_MJPEG;
        format->field = V4L2_FIELD_NONE;
        format->bytesperline = 0;
        format->sizeimage = LARGEST;
        format->colorspace = V4L2_COLORSPACE_SRGB;
        return 0;
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM:
        rate->capability = V4L2_CAP_TIMEPERFRAME;
        rate->timeperframe.numerator = 1;
        rate->timeperframe.denominator = 30;
        return 0;
    case VIDIOC_G_INPUT:
    case VIDIOC_S_INPUT:
        *(int *)argument = 0;
        return 0;
    case VIDIOC_REQBUFS:
        count = 0;
        return 0;
    case VIDIOC_QUERYBUF:
        buffer->length = LARGEST;
        buffer->m.offset = buffer->index * LARGEST;
        return 0;
    case VIDIOC_QBUF:
        for (unsigned i = 0; i < count; i++)
            if (waiting[i] == buffer->index) {
                errno = EINVAL;
                return -1;
            }
        waiting[count++] = buffer->index;
        return 0;
    case VIDIOC_DQBUF:
        return take(buffer);
    case VIDIOC_STREAMON:
        return set_timer(FRAME_NS);
    case VIDIOC_STREAMOFF:
        return set_timer(0);
    default:
        errno = EINVAL;
        return -1;
    }
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (fd >= 0 && fd == device)
        return answer(request & 0xffffffff, argument); /* some programs extend the sign of an int */
    int (*real)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
    return real(fd, request, argument);
}
