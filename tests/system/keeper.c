// SPDX-License-Identifier: Apache-2.0
/* A program in C that keeps the name of its module directory in a variable that it exports.

Which kind of variable is chosen when it is compiled. Each line that it reads is a command with its
words, and is answered by a line of Python. Threads read the name all the time, and count what they
read that nobody gave. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_THREADS 8
#define MOST_NAMES 8
#define LONGEST 512

#if defined POINTER || defined ODD_POINTER
#define IS_POINTER 1
#endif
#if defined POINTER
char *module_dir;
#define NAME module_dir
#elif defined ODD_POINTER /* in a packed record */
struct __attribute__((packed)) { char pad; char *name; char rest[7]; } record = {0};
asm(".globl module_dir; .type module_dir, @object; .size module_dir, 8; .set module_dir, record + 1");
#define NAME record.name
#elif defined ARRAY_AT /* so many bytes behind a multiple of 16 */
struct __attribute__((packed, aligned(16))) { char pad[ARRAY_AT]; char name[256]; char rest[32]; }
    record = {{0}};
#define STRING_OF(x) #x
#define STRING(x) STRING_OF(x)
asm(".globl module_dir; .type module_dir, @object; .size module_dir, 256;"
    ".set module_dir, record + " STRING(ARRAY_AT));
#define NAME record.name
#elif defined FUNCTION
static char hidden[256];
int module_dir(void) { return 0; }
#define NAME hidden
#elif defined CONSTANT
static char hidden[256];
const char module_dir[256] = "/usr/lib";
#define NAME hidden
#elif defined HIDDEN
static char module_dir[256];
#define NAME module_dir
#else
char module_dir[256];
#define NAME module_dir
#endif

static char *allowed[MOST_NAMES];
static atomic_bool ending;
static atomic_long rounds, torn;
static pthread_t threads[MOST_THREADS];
static int running;

/* Byte by byte, as printf does, or the length first, as others do. */
static void copy(char *to, int measure)
{
    const char *from = *(char *volatile *)&(char *){NAME};
    if (measure) {
        size_t length = strlen(from);
        memcpy(to, from, length < LONGEST ? length : LONGEST - 1);
        to[length < LONGEST ? length : LONGEST - 1] = 0;
    } else {
        const volatile char *at = from;
        int length = 0;
        do
            to[length] = at[length];
        while (to[length] && ++length < LONGEST - 1);
        to[length] = 0;
    }
}

static int is_allowed(const char *name)
{
    for (int at = 0; at < MOST_NAMES && allowed[at]; at++)
        if (strcmp(name, allowed[at]) == 0)
            return 1;
    return 0;
}

static void *read_it(void *argument)
{
    long restless = (long)argument & 1, measure = (long)argument & 2;
    char seen[LONGEST];
    while (!ending) {
        for (int times = 0; times < 20; times++, rounds++) {
            copy(seen, measure != 0);
            torn += !is_allowed(seen);
        }
        if (!restless)
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    return NULL;
}

static void start(const char *kind, int count)
{
    long restless = strcmp(kind, "restless") == 0;
    for (; count > 0 && running < MOST_THREADS; count--, running++)
        pthread_create(&threads[running], NULL, read_it, (void *)(restless | (running & 1) << 1));
    puts("None");
}

static void stop(void)
{
    ending = 1;
    while (running)
        pthread_join(threads[--running], NULL);
    printf("(%ld, %ld)\n", (long)rounds, (long)torn);
    ending = 0;
    rounds = torn = 0;
}

static void allow(const char *name)
{
    int at = 0;
    while (at < MOST_NAMES - 1 && allowed[at])
        at++;
    allowed[at] = strdup(name);
    puts("None");
}

static void set(const char *name)
{
#ifdef IS_POINTER
    NAME = strdup(name);
#else
    strcpy(NAME, name);
#endif
    puts("None");
}

/* To what is no name at all. */
static void point(unsigned long address)
{
#ifdef IS_POINTER
    NAME = (char *)address;
#else
    memset(NAME, (int)address, 256);
#endif
    puts("None");
}

static void load(const char *module)
{
    char path[LONGEST + 64];
    snprintf(path, sizeof path, "%s/%s.so", NAME, module);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    int (*answer)(void) = handle ? dlsym(handle, "answer") : NULL;
    printf("%d\n", answer ? answer() : -1);
    if (handle)
        dlclose(handle);
}

static void obey(char *line)
{
    char *command = strtok(line, " \n"), *first = strtok(NULL, " \n"), *second = strtok(NULL, "\n");
#define IS(word) (strcmp(command, word) == 0)
    if (IS("get")) printf("b'%s'\n", NAME);
    else if (IS("at")) printf("%lu\n", (unsigned long)NAME);
    else if (IS("set")) set(first);
    else if (IS("point")) point(strtoul(first, NULL, 0));
    else if (IS("load")) load(first);
    else if (IS("allow")) allow(first);
    else if (IS("start")) start(first, atoi(second));
    else if (IS("stop")) stop();
    else abort();
}

int main(void)
{
    static char line[4096];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("'ready'");
    while (fgets(line, sizeof line, stdin))
        obey(line);
    return 0;
}
