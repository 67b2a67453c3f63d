/* white.h: what a white-box test of one room is made of.
 *
 * The program includes the room's .c file and has `one(input)`, which does to the room and
 * to a simple model of it what the bytes of the input say, and checks that both agree.
 * The bytes come from a generator, for so many seconds from a seed, or, built with
 * -DLIBFUZZER, from clang's libFuzzer.  A failed check says the seed of its input and
 * aborts. */
#ifndef AL_TESTS_WHITE_H
#define AL_TESTS_WHITE_H

#include "base/py.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    const unsigned char *data;
    size_t size, at;
} white_input;

static unsigned long long white_seed;

#define CHECK(condition)                                                               \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: %s does not hold, seed %llu\n", __FILE__,          \
                    __LINE__, #condition, white_seed);                                 \
            abort();                                                                   \
        }                                                                              \
    } while (0)

static void one(white_input *input);

/* Whether there are bytes left. */
static inline bool
white_more(const white_input *input)
{
    return input->at < input->size;
}

/* A number below `limit`, which is at most 65536; 0 at the input's end. */
static inline size_t
white_below(white_input *input, size_t limit)
{
    size_t number = 0;
    for (int i = 0; i < 2 && white_more(input); i++) {
        number = number << 8 | input->data[input->at++];
    }
    return number % limit;
}

#ifdef LIBFUZZER
int
LLVMFuzzerInitialize(int *Py_UNUSED(argc), char ***Py_UNUSED(argv))
{
    Py_InitializeEx(0);
    return 0;
}

int
LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    one(&(white_input){data, size, 0});
    return 0;
}
#else
/* xorshift64*. */
static unsigned long long
white_next(unsigned long long *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717ULL;
}

/* PROGRAM SECONDS [SEED] */
int
main(int argc, char **argv)
{
    enum { MOST = 4096 };
    static unsigned char data[MOST];
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    unsigned long long first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    clock_t ends = clock() + (clock_t)(seconds * CLOCKS_PER_SEC);
    Py_InitializeEx(0);
    for (white_seed = first; white_seed == first || clock() < ends; white_seed++) {
        unsigned long long state = white_seed * 0x9E3779B97F4A7C15ULL | 1;
        size_t size = white_next(&state) % MOST;
        for (size_t i = 0; i < size; i++) {
            data[i] = (unsigned char)(white_next(&state) >> 32);
        }
        one(&(white_input){data, size, 0});
        CHECK(!PyErr_Occurred());
    }
    printf("%llu inputs\n", white_seed - first);
    return Py_FinalizeEx() < 0;
}
#endif
#endif
