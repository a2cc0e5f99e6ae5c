// A disk that fails, for tests: loaded into a process with LD_PRELOAD, it stands between SQLite and the kernel.
//
//   FAILING_DISK_FILES  path of a database; what happens to it and to its WAL is counted
//   FAILING_DISK_AT     the number of the write, sync or truncation that goes wrong, from 1
//   FAILING_DISK_HOW    full, full-once      no space: half of a write is done, the rest fails
//                       broken, broken-once  an I/O error
//                       power                the power fails just before: nothing that was not synced is left
//                       power-mixed          the same, but every other unsynced write has reached the disk
//
// When it happens, it says so on standard error. Syncs that go well are not passed on: they take time, and what a
// process leaves behind in the page cache is as good as on the disk to the next one.
//
// The file with the suffix -shm is left alone: SQLite maps it and rebuilds it.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// A change that a loss of power may undo. `after` is null for a truncation to `offset`.
struct change {
    struct change *older, *newer;
    char path[4096];
    off_t offset, size_before;
    char *before, *after;
    size_t before_length, after_length;
};

static struct change *newest;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long count;
static int rest_fails;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static int how(const char *name) { return strcmp(setting("FAILING_DISK_HOW"), name) == 0; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

// Whether a file is one of the database's, and its path.
static int is_ours(int fd, char path[4096]) {
    const char *files = setting("FAILING_DISK_FILES");
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, 4095);
    if (!*files || length < 0) return 0;
    path[length] = 0;
    size_t prefix = strlen(files);
    if (strncmp(path, files, prefix) != 0) return 0;
    return path[prefix] == 0 || strcmp(path + prefix, "-wal") == 0 || strcmp(path + prefix, "-journal") == 0;
}

static void fail(const char *what) {
    fprintf(stderr, "failing disk: %s\n", what);
    abort();
}

static char *read_range(int fd, off_t offset, size_t length, size_t *found) {
    char *bytes = malloc(length ? length : 1);
    ssize_t n = bytes ? pread(fd, bytes, length, offset) : -1;
    if (n < 0) fail("cannot read what is to be overwritten");
    *found = n;
    return bytes;
}

static off_t size_of(int fd) {
    struct stat status;
    if (fstat(fd, &status) != 0) fail("cannot measure a file");
    return status.st_size;
}

// SQLite opens its files for reading and writing, so that what was there before can be read.
static void remember(int fd, const char *path, off_t offset, const void *bytes, size_t length) {
    struct change *change = calloc(1, sizeof *change);
    if (!change) fail("out of memory");
    strcpy(change->path, path);
    change->offset = offset;
    change->size_before = size_of(fd);
    if (bytes) {
        change->before = read_range(fd, offset, length, &change->before_length);
        change->after = malloc(length ? length : 1);
        memcpy(change->after, bytes, length);
        change->after_length = length;
    } else {
        size_t cut = change->size_before > offset ? change->size_before - offset : 0;
        change->before = read_range(fd, offset, cut, &change->before_length);
    }
    change->older = newest;
    if (newest) newest->newer = change;
    newest = change;
}

// What was changed in this file is on the disk now.
static void forget(const char *path) {
    for (struct change *change = newest, *older; change; change = older) {
        older = change->older;
        if (strcmp(change->path, path) != 0) continue;
        if (change->newer) change->newer->older = older;
        else newest = older;
        if (older) older->newer = change->newer;
        free(change->before);
        free(change->after);
        free(change);
    }
}

static void lose_power(void) {
    struct change *oldest = NULL;
    for (struct change *change = newest; change; change = change->older) {
        oldest = change;
        int fd = open(change->path, O_RDWR);
        if (fd < 0) continue; // deleted since
        REAL(pwrite)(fd, change->before, change->before_length, change->offset);
        REAL(ftruncate)(fd, change->size_before);
        close(fd);
    }
    int kept = count % 2;
    for (struct change *change = oldest; change && how("power-mixed"); change = change->newer, kept = !kept) {
        int fd = kept ? open(change->path, O_RDWR) : -1;
        if (fd < 0) continue;
        if (change->after) REAL(pwrite)(fd, change->after, change->after_length, change->offset);
        else REAL(ftruncate)(fd, change->offset);
        close(fd);
    }
    _exit(3);
}

// Count an operation. What to do about it: nothing (0), fail with this errno, or do half of it (-1).
static int judge(const char *operation, const char *path, size_t length) {
    int full = how("full") || how("full-once");
    if (rest_fails) {
        rest_fails = how("full") || how("broken");
        return full ? ENOSPC : EIO;
    }
    if (++count != atol(setting("FAILING_DISK_AT"))) return 0;
    fprintf(stderr, "failing disk: %s %s\n", operation, path);
    if (how("power") || how("power-mixed")) lose_power();
    rest_fails = how("full") || how("broken");
    if (full && length > 1) {
        rest_fails = 1;
        return -1;
    }
    return full ? ENOSPC : EIO;
}

static ssize_t change(int fd, const void *bytes, size_t length, off_t offset, int is_positioned) {
    char path[4096];
    int saved = errno;
    pthread_mutex_lock(&lock);
    int ours = is_ours(fd, path);
    errno = saved;
    int verdict = ours ? judge("write", path, length) : 0;
    ssize_t done = -1;
    if (verdict > 0) {
        errno = verdict;
    } else {
        if (verdict < 0) length /= 2;
        if (ours) remember(fd, path, is_positioned ? offset : lseek(fd, 0, SEEK_CUR), bytes, length);
        // Standard output may block: not under the lock.
        if (!ours) pthread_mutex_unlock(&lock);
        done = is_positioned ? REAL(pwrite)(fd, bytes, length, offset) : REAL(write)(fd, bytes, length);
        if (!ours) return done;
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int fd, const void *bytes, size_t length) { return change(fd, bytes, length, 0, 0); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return change(fd, bytes, length, offset, 1); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) { return change(fd, bytes, length, offset, 1); }

static int truncate_to(int fd, off_t size) {
    char path[4096];
    pthread_mutex_lock(&lock);
    int ours = is_ours(fd, path);
    int verdict = ours ? judge("truncate", path, 0) : 0;
    int done = -1;
    if (verdict != 0) {
        errno = verdict;
    } else {
        if (ours) remember(fd, path, size, NULL, 0);
        done = REAL(ftruncate)(fd, size);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t size) { return truncate_to(fd, size); }
int ftruncate64(int fd, off_t size) { return truncate_to(fd, size); }

static int sync_file(int fd, int (*real)(int)) {
    char path[4096];
    pthread_mutex_lock(&lock);
    int ours = is_ours(fd, path);
    int verdict = ours ? judge("sync", path, 0) : 0;
    int done = 0;
    if (verdict != 0) {
        errno = verdict;
        done = -1;
    } else if (ours) {
        forget(path);
    }
    pthread_mutex_unlock(&lock);
    return ours ? done : real(fd);
}

int fsync(int fd) { return sync_file(fd, REAL(fsync)); }
int fdatasync(int fd) { return sync_file(fd, REAL(fdatasync)); }
