/* Copying a payload into its slot. */
#include "hot.h"

#if defined(__x86_64__)
#include <emmintrin.h>

enum { LINE = 64 };

static void stream(char *target, const char *source, size_t nbytes)
{
    _mm_sfence(); /* no release keeps such stores behind the word that says: being written */
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
    _mm_sfence(); /* nor before the one that says: whole */
}
#endif

/* `target` is a slot, and so at a multiple of 64 bytes. `streamed`: past the caches. A producer goes
 * round: it finds no slot of a pool that is larger than the cache in it again, and a store to what is
 * not in the cache reads it first. Where the pool fits, the consumer finds there what was written. */
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
