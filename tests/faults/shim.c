/*
 * Stops a program at a chosen change of the file system, or lets its changes fail.
 *
 *     cc -shared -fPIC -o shim.so shim.c
 *     FAULT_ROOT=/tmp/work FAULT_KILL=17 LD_PRELOAD=./shim.so program
 *
 * Preloaded, these functions take the place of the C library's own. Each call that changes something
 * below $FAULT_ROOT gets a number, from 1 on, in the order in which the calls begin. All threads of
 * the process count together. By environment variables:
 *
 *     FAULT_LOG=FILE    a line `number call path` for each call (rename and link: both paths)
 *     FAULT_KILL=N      SIGKILL just before call N; N+ just after it
 *     FAULT_ERRNO=NAME  ENOSPC, EROFS, EACCES or EIO: the calls that need what is missing fail,
 *     FAULT_FROM=N      from call N on
 *     FAULT_AT=PATTERN  FAULT_KILL and FAULT_FROM count only the calls whose `call path` matches
 *                       (as the shell matches names; * matches / too). The log has them all.
 *
 * Linux on 64 bits only. The wrapped functions make the system call themselves: there is nothing to
 * look up, so nothing can go wrong in a program's early start.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

_Static_assert(sizeof(long) == 8, "offsets are passed to the system calls in one register");

/* What a call needs: free space, the permission to change a directory, or neither. */
enum needs { NOTHING = 0, SPACE = 1, PERMISSION = 2 };

static char root[PATH_MAX]; /* Empty, and no call is watched, until the constructor has run. */
static const char *pattern;
static long kill_at, fail_from;
static int kill_after, error;
static int log_file = -1;
static atomic_long calls, matching_calls;
static atomic_int failing;

__attribute__((constructor)) static void read_environment(void)
{
    const char *names[] = {"ENOSPC", "EROFS", "EACCES", "EIO"};
    const int errors[] = {ENOSPC, EROFS, EACCES, EIO};
    const char *kill_text = getenv("FAULT_KILL"), *from_text = getenv("FAULT_FROM");
    const char *name = getenv("FAULT_ERRNO"), *log_path = getenv("FAULT_LOG");
    const char *root_path = getenv("FAULT_ROOT");

    pattern = getenv("FAULT_AT");
    if (kill_text) {
        kill_at = atol(kill_text);
        kill_after = strchr(kill_text, '+') != NULL;
    }
    fail_from = from_text ? atol(from_text) : 1;
    for (int i = 0; name && i < 4; i++)
        if (strcmp(name, names[i]) == 0)
            error = errors[i];
    if (log_path)
        log_file = syscall(SYS_openat, AT_FDCWD, log_path,
                           O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (root_path && !realpath(root_path, root))
        root[0] = 0;
}

/* Writes the absolute path of what a call names, without links, to `found`; returns 0 if it cannot.
 * `directory` is as for openat. Without a `path` it is the open file itself. */
static int resolve(int directory, const char *path, char *found)
{
    char joined[PATH_MAX];
    const char *format = !path ? "/proc/self/fd/%d" : "/proc/self/fd/%d/%s";

    if (path && (path[0] == '/' || directory == AT_FDCWD))
        format = "%2$s";
    if (snprintf(joined, PATH_MAX, format, directory, path) >= PATH_MAX)
        return 0;
    if (!path) {
        ssize_t length = readlink(joined, found, PATH_MAX - 1); /* also of a deleted file */
        found[length > 0 ? length : 0] = 0;
        return length > 0;
    }
    /* The last part is not followed: it may be missing, or be a link that is to be deleted. */
    for (size_t end = strlen(joined); end > 1 && joined[end - 1] == '/'; end--)
        joined[end - 1] = 0;
    char *slash = strrchr(joined, '/');
    const char *last = slash ? slash + 1 : joined;
    char parent[PATH_MAX];
    snprintf(parent, PATH_MAX, "%.*s", slash ? (int)(slash - joined) + 1 : 1, slash ? joined : ".");
    if (!realpath(parent, found))
        return 0;
    size_t length = strlen(found);
    return snprintf(found + length, PATH_MAX - length, "/%s", last) < (int)(PATH_MAX - length);
}

static int below_root(const char *path)
{
    size_t length = strlen(root);
    return length && strncmp(path, root, length) == 0 && path[length] == '/';
}

static void die(void)
{
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) /* never reached: the signal ends every thread */
        ;
}

/* Counts and logs a call that is about to be made, and dies here if it is the one to die before.
 * Returns the error that it fails with, or 0; sets `die_after`. Renames have two paths. */
static int before(const char *call, enum needs needs, int directory, const char *path,
                  int directory2, const char *path2, int *die_after)
{
    char found[PATH_MAX], found2[PATH_MAX] = "", text[2 * PATH_MAX + 32], line[2 * PATH_MAX + 64];
    int saved_errno = errno, result = 0;

    *die_after = 0;
    if (root[0] && resolve(directory, path, found) &&
        (!path2 || resolve(directory2, path2, found2)) &&
        (below_root(found) || below_root(found2))) {
        long number = atomic_fetch_add(&calls, 1) + 1, matching = 0;
        snprintf(text, sizeof text, "%s %s%s%s", call, found, path2 ? " " : "", found2);
        if (!pattern || fnmatch(pattern, text, 0) == 0)
            matching = atomic_fetch_add(&matching_calls, 1) + 1;
        if (log_file >= 0) {
            int length = snprintf(line, sizeof line, "%ld %s\n", number, text);
            syscall(SYS_write, log_file, line, length);
        }
        if (matching && matching == kill_at) {
            if (!kill_after)
                die();
            *die_after = 1;
        }
        if (error && matching >= fail_from)
            failing = 1;
        /* A write to a file that is open already needs no permission; a deletion no space. */
        if (failing && (error == ENOSPC ? needs & SPACE : error == EACCES ? needs & PERMISSION : 1))
            result = error;
    }
    errno = saved_errno;
    return result;
}

/* The body of a function: the system call, or its error. */
#define CALL(name, needs, directory, path, directory2, path2, ...)                                 \
    do {                                                                                           \
        int die_after, failed = before(name, needs, directory, path, directory2, path2, &die_after); \
        if (failed) {                                                                              \
            errno = failed;                                                                        \
            return -1;                                                                             \
        }                                                                                          \
        long result = syscall(__VA_ARGS__);                                                        \
        if (die_after)                                                                             \
            die();                                                                                 \
        return result;                                                                             \
    } while (0)
#define PATH_CALL(name, needs, directory, path, ...)                                               \
    CALL(name, needs, directory, path, AT_FDCWD, NULL, __VA_ARGS__)
#define FILE_CALL(name, needs, fd, ...) CALL(name, needs, fd, NULL, AT_FDCWD, NULL, __VA_ARGS__)

static int open_file(int directory, const char *path, int flags, mode_t mode)
{
    if (!(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))) /* only reads */
        return syscall(SYS_openat, directory, path, flags, mode);
    enum needs needs = flags & O_CREAT ? SPACE | PERMISSION : PERMISSION;
    PATH_CALL("open", needs, directory, path, SYS_openat, directory, path, flags, mode);
}

/* The mode is the last argument, if there is one. */
#define MODE(flags)                                                                                \
    mode_t mode = 0;                                                                               \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                         \
        va_list arguments;                                                                         \
        va_start(arguments, flags);                                                                \
        mode = va_arg(arguments, mode_t);                                                          \
        va_end(arguments);                                                                         \
    }

int open(const char *path, int flags, ...)
{
    MODE(flags)
    return open_file(AT_FDCWD, path, flags, mode);
}

int openat(int directory, const char *path, int flags, ...)
{
    MODE(flags)
    return open_file(directory, path, flags, mode);
}

int creat(const char *path, mode_t mode)
{
    return open_file(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    FILE_CALL("write", SPACE, fd, SYS_write, fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    FILE_CALL("pwrite", SPACE, fd, SYS_pwrite64, fd, bytes, count, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    FILE_CALL("writev", SPACE, fd, SYS_writev, fd, parts, count);
}

int ftruncate(int fd, off_t length)
{
    FILE_CALL("ftruncate", NOTHING, fd, SYS_ftruncate, fd, length);
}

int fsync(int fd)
{
    FILE_CALL("fsync", NOTHING, fd, SYS_fsync, fd);
}

int fdatasync(int fd)
{
    FILE_CALL("fdatasync", NOTHING, fd, SYS_fdatasync, fd);
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    CALL("rename", PERMISSION, from, old, to, new, SYS_renameat2, from, old, to, new, flags);
}

int renameat(int from, const char *old, int to, const char *new)
{
    return renameat2(from, old, to, new, 0);
}

int rename(const char *old, const char *new)
{
    return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0);
}

int unlinkat(int directory, const char *path, int flags)
{
    const char *name = flags & AT_REMOVEDIR ? "rmdir" : "unlink";
    PATH_CALL(name, PERMISSION, directory, path, SYS_unlinkat, directory, path, flags);
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

int mkdirat(int directory, const char *path, mode_t mode)
{
    PATH_CALL("mkdir", SPACE | PERMISSION, directory, path, SYS_mkdirat, directory, path, mode);
}

int mkdir(const char *path, mode_t mode)
{
    return mkdirat(AT_FDCWD, path, mode);
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    CALL("link", SPACE | PERMISSION, from, old, to, new, SYS_linkat, from, old, to, new, flags);
}

int link(const char *old, const char *new)
{
    return linkat(AT_FDCWD, old, AT_FDCWD, new, 0);
}

int symlinkat(const char *target, int directory, const char *path)
{
    PATH_CALL("symlink", SPACE | PERMISSION, directory, path, SYS_symlinkat, target, directory, path);
}

int symlink(const char *target, const char *path)
{
    return symlinkat(target, AT_FDCWD, path);
}

/* The names that the C library has for the same functions. */
int open64(const char *, int, ...) __attribute__((alias("open")));
int openat64(int, const char *, int, ...) __attribute__((alias("openat")));
int creat64(const char *, mode_t) __attribute__((alias("creat")));
ssize_t pwrite64(int, const void *, size_t, off64_t) __attribute__((alias("pwrite")));
int ftruncate64(int, off64_t) __attribute__((alias("ftruncate")));

/* What the compiler makes of open without a mode when it checks for overflows. */
int __open_2(const char *path, int flags) { return open_file(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_file(AT_FDCWD, path, flags, 0); }
int __openat_2(int fd, const char *path, int flags) { return open_file(fd, path, flags, 0); }
int __openat64_2(int fd, const char *path, int flags) { return open_file(fd, path, flags, 0); }
