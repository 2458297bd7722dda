/* Put in front of the C library: adds the number of seconds in the file that CLOCK_OFFSET_FILE names to the wall clock
 * and to no other. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    const char *name = getenv("CLOCK_OFFSET_FILE");
    FILE *file = clock == CLOCK_REALTIME && name ? fopen(name, "r") : NULL;
    long offset = 0;

    if (file) {
        if (fscanf(file, "%ld", &offset) == 1)
            time->tv_sec += offset;
        fclose(file);
    }
    return result;
}
