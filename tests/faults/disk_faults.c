/* Makes the disk fail, for a test: loaded into the daemon with LD_PRELOAD.
 *
 * $DISK_FAULTS names a file that holds, while a fault is on, one line: "<call> <part of the file's name> <errno>".
 * Calls: sync, write, short (writes half of it), open (for writing). "once" after it: the first one that hits removes the file.
 * $DISK_TRACE names a file that is told what happened, in order: open, sync, fault and ack. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int raw_open(const char *path, int flags) { return (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0600); }

static void trace(const char *what, const char *path) {
    const char *target = getenv("DISK_TRACE");
    if (!target) return;
    int saved = errno, file = raw_open(target, O_WRONLY | O_CREAT | O_APPEND);
    const char *name = path ? strrchr(path, '/') : NULL;
    char line[256];
    int size = snprintf(line, sizeof line, "%s %s\n", what, name ? name + 1 : "");
    if (file >= 0) {
        syscall(SYS_write, file, line, size);
        syscall(SYS_close, file);
    }
    errno = saved;
}

/* Returns the errno; for a number below 0 it does not return: that is the signal to end with. 0: no fault is on for this call and file. */
static int fault(const char *call, const char *path) {
    const char *control = getenv("DISK_FAULTS");
    if (!control || !path) return 0;
    int saved = errno, file = raw_open(control, O_RDONLY);
    errno = saved;
    if (file < 0) return 0;
    char text[256] = {0}, wanted[32] = {0}, part[128] = {0}, once[8] = {0};
    int number = 0;
    syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    if (sscanf(text, "%31s %127s %d %7s", wanted, part, &number, once) < 3) return 0;
    size_t size = strlen(path), tail = strlen(part);
    if (strcmp(wanted, call) || size < tail || strcmp(path + size - tail, part)) return 0;
    if (once[0]) unlink(control);
    trace("fault", path);
    if (number < 0) kill(getpid(), -number);
    return number;
}

static const char *path_of(int descriptor, char *buffer, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, buffer, size - 1);
    if (length < 0) return NULL;
    buffer[length] = 0;
    return strstr(buffer, "/state/") ? buffer : NULL;
}

static int sync_with(int (*real)(int), int descriptor) {
    char buffer[512];
    const char *path = path_of(descriptor, buffer, sizeof buffer);
    int number = fault("sync", path);
    if (number) {
        errno = number;
        return -1;
    }
    int answer = real(descriptor);
    if (path) trace("sync", path);
    return answer;
}

int fsync(int descriptor) { return sync_with((int (*)(int))dlsym(RTLD_NEXT, "fsync"), descriptor); }
int fdatasync(int descriptor) { return sync_with((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"), descriptor); }

static int write_fault(int descriptor, size_t *size) {
    char buffer[512];
    const char *path = path_of(descriptor, buffer, sizeof buffer);
    int number = fault("write", path);
    if (!number && fault("short", path)) *size = *size > 1 ? *size / 2 : *size;
    return number;
}

ssize_t pwrite(int descriptor, const void *text, size_t size, off_t at) {
    int number = write_fault(descriptor, &size);
    if (number) {
        errno = number;
        return -1;
    }
    return syscall(SYS_pwrite64, descriptor, text, size, at);
}
ssize_t pwrite64(int descriptor, const void *text, size_t size, off64_t at) { return pwrite(descriptor, text, size, at); }

ssize_t write(int descriptor, const void *text, size_t size) {
    int number = write_fault(descriptor, &size);
    if (number) {
        errno = number;
        return -1;
    }
    return syscall(SYS_write, descriptor, text, size);
}

static int open_with(const char *path, int flags, mode_t mode) {
    int number = (flags & O_ACCMODE) == O_RDONLY ? 0 : fault("open", path);
    if (number) {
        errno = number;
        return -1;
    }
    int answer = (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode);
    if (answer >= 0 && strstr(path, "/state/")) trace("open", path);
    return answer;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                                        \
        va_end(more);                                                                                                  \
        return open_with(path, flags, mode);                                                                           \
    }
OPEN(open)
OPEN(open64)

ssize_t send(int descriptor, const void *text, size_t size, int flags) {
    if (size > 7 && !memcmp(text, "{\"ack\":", 7)) trace("ack", NULL);
    return syscall(SYS_sendto, descriptor, text, size, flags, NULL, 0);
}
