/* Copying a payload into its slot. */
#include "hot.h"

#include <stdio.h>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

enum { USUAL_CACHE_BYTES = 32 * 1024 * 1024, CACHES = 8 };

/* A number in a file of the system's, in units of 1024 where a K follows; 0 if there is none. */
static uint64_t number_in(const char *path)
{
    FILE *file = fopen(path, "r");
    unsigned long long number = 0;
    char unit = 0;
    if (file != NULL) {
        if (fscanf(file, "%llu%c", &number, &unit) < 1) {
            number = 0;
        }
        fclose(file);
    }
    return unit == 'K' ? number * 1024 : number;
}

/* The last cache before memory, as large as one core sees it: sysconf adds up those of a socket. */
static uint64_t cache_bytes(void)
{
    static uint64_t known;
    char path[96];
    for (int i = 0; known == 0 && i < CACHES; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
        if (number_in(path) == 3) {
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
            known = number_in(path);
        }
    }
    if (known == 0) {
        known = USUAL_CACHE_BYTES;
    }
    return known;
}

/* Whether a pool's slots are better written past the caches. A producer goes round: it finds no
 * slot of a pool that is larger than the cache in it again, and a store to what is not in the cache
 * reads it first. Where the pool fits, the consumer finds there what was just written. */
int is_streamed(uint64_t pool_bytes) { return pool_bytes > cache_bytes(); }

#if defined(__x86_64__)
enum { LINE = 64 };

static void stream(char *target, const char *source, size_t nbytes)
{
    _mm_sfence(); /* nor does any keep them behind the word that says that the slot is written */
    size_t whole = nbytes - nbytes % LINE;
    for (size_t at = 0; at < whole; at += LINE) {
        __m128i a = _mm_loadu_si128((const __m128i *)(source + at));
        __m128i b = _mm_loadu_si128((const __m128i *)(source + at + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(source + at + 32));
        __m128i d = _mm_loadu_si128((const __m128i *)(source + at + 48));
        _mm_stream_si128((__m128i *)(target + at), a);
        _mm_stream_si128((__m128i *)(target + at + 16), b);
        _mm_stream_si128((__m128i *)(target + at + 32), c);
        _mm_stream_si128((__m128i *)(target + at + 48), d);
    }
    memcpy(target + whole, source + whole, nbytes - whole);
    _mm_sfence(); /* no release keeps such stores before it */
}
#endif

/* `target` is a slot, and so at a multiple of 64 bytes. */
void copy_payload(char *target, const void *source, size_t nbytes, int streamed)
{
#if defined(__x86_64__)
    if (streamed && nbytes >= STREAMED_BYTES) {
        stream(target, source, nbytes);
        return;
    }
#else
    (void)streamed;
#endif
    memcpy(target, source, nbytes);
}
