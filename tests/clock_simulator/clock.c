/* A wall clock that a test can set, for the processes that it starts with LD_PRELOAD.
 *
 * CLOCK_STEP_FILE names a file with the seconds by which the wall clock is ahead of the true one; it is read anew at
 * every call, so that the clock is set by writing the file. Without the file the clock is true. All other clocks are
 * true at all times. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long long ahead_ns(void) {
    const char *path = getenv("CLOCK_STEP_FILE");
    char text[64];
    if (path == NULL) return 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0) return 0;
    text[length] = '\0';
    return (long long)(strtod(text, NULL) * 1e9);
}

int clock_gettime(clockid_t clock, struct timespec *moment) {
    if (syscall(SYS_clock_gettime, clock, moment) != 0) return -1;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
        long long ns = (long long)moment->tv_sec * 1000000000LL + moment->tv_nsec + ahead_ns();
        moment->tv_sec = (time_t)(ns / 1000000000LL);
        moment->tv_nsec = (long)(ns % 1000000000LL);
    }
    return 0;
}

int gettimeofday(struct timeval *restrict moment, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    moment->tv_sec = now.tv_sec;
    moment->tv_usec = (suseconds_t)(now.tv_nsec / 1000);
    return 0;
}

time_t time(time_t *seconds) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (seconds != NULL) *seconds = now.tv_sec;
    return now.tv_sec;
}
