// SPDX-License-Identifier: Apache-2.0
/* A process in C that does what a test asks of it: linked in many ways, it has many layouts.

Each line that it reads is a command with its words, and is answered by a line of Python. Threads
that are started count what they did and what they saw that cannot be: a value that nobody gave, a
constant of the environment that is gone, a block of memory that somebody else has written to. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef PAD /* moves the end of .bss */
char pad[PAD];
#endif
#ifdef FOREIGN_ENVIRON /* no COPY relocation */
#define environ (*(char ***)dlsym(RTLD_DEFAULT, "environ"))
#elif defined OWN_ENVIRON /* what libc uses as well, then: the loader finds it first */
char **environ, **__environ;
#else
extern char **environ;
#endif

#ifdef OWN_GETENV /* it knows one variable only */
char *getenv(const char *name)
{
    return strcmp(name, "EDITOR") == 0 ? "vi" : NULL;
}
#endif

#define VARIABLE "SCRATCH_MODULE_DIR"
#define VIEWS "/run/views/"
#define MOST_THREADS 16
#define BLOCKS 64

static atomic_bool ending;
static atomic_long rounds, wrong, late, gone;
static pthread_t threads[MOST_THREADS], main_thread;
static int running;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* No value, or a view: its last 16 characters are all the same. */
static int is_sane(const char *value)
{
    if (value == NULL)
        return 1;
    if (strncmp(value, VIEWS, strlen(VIEWS)) != 0 || strlen(value) != strlen(VIEWS) + 16)
        return 0;
    for (const char *at = value + strlen(VIEWS); *at; at++)
        if (*at != value[strlen(VIEWS)])
            return 0;
    return 1;
}

static void look(void)
{
    const char *constant = getenv("EDITOR");
    wrong += !is_sane(getenv(VARIABLE));
    gone += constant == NULL || strcmp(constant, "vi") != 0;
}

static void read_one(long number)
{
    (void)number;
    look();
}

/* A name that is there already, and nobody else's: needs no lock. In bursts: who changes his
   environment without any pause is refused. */
static void set_own(long number)
{
    char name[32], value[32];
    static _Thread_local long count;
    if (count % 2000 == 1999)
        usleep(20000);
    snprintf(name, sizeof name, "OWN_%ld", number);
    snprintf(value, sizeof value, "%ld", ++count);
    setenv(name, value, 1);
    look();
}

/* Names that come and go: the array moves, so no thread may read it meanwhile. */
static void add_and_remove(long number)
{
    char name[32];
    static _Thread_local long count;
    static _Thread_local int is_set[5];
    int *mine = &is_set[++count % 5];
    snprintf(name, sizeof name, "NEW_%ld_%ld", number, count % 5);
    pthread_mutex_lock(&lock);
    if ((getenv(name) != NULL) != *mine) { /* a delivery that is under way may still make it good */
        late++;
        usleep(50000);
        gone += (getenv(name) != NULL) != *mine;
    }
    *mine = count % 3 != 0;
    if (*mine)
        setenv(name, "x", 1);
    else
        unsetenv(name);
    look();
    pthread_mutex_unlock(&lock);
}

static int is_filled(const unsigned char *block, size_t size, unsigned char with)
{
    for (size_t at = 0; at < size; at++)
        if (block[at] != with)
            return 0;
    return 1;
}

static void allocate(long number)
{
    static _Thread_local unsigned char *blocks[BLOCKS];
    static _Thread_local size_t sizes[BLOCKS];
    static _Thread_local unsigned seed;
    int at = rand_r(&seed) % BLOCKS;
    unsigned char mark = (unsigned char)(number * BLOCKS + at);
    wrong += !is_filled(blocks[at], sizes[at], mark);
    if (rand_r(&seed) % 3) { /* sizes of the heap, and some that are mapped */
        sizes[at] = (size_t)rand_r(&seed) % (rand_r(&seed) % 64 ? 4096 : 1 << 18) + 1;
        blocks[at] = realloc(blocks[at], sizes[at]);
        memset(blocks[at], mark, sizes[at]);
    } else {
        free(blocks[at]);
        blocks[at] = NULL, sizes[at] = 0;
    }
}

static void handle(int signal)
{
    (void)signal;
    look();
    rounds++;
}

static void send_signals(long number)
{
    (void)number;
    raise(SIGUSR1);
    pthread_kill(main_thread, SIGUSR2);
}

/* A child that looks at what it inherited; until it runs, it is in our memory. */
static void spawn(long number)
{
    char *const words[] = {"sh", "-c",
        "case $" VARIABLE ",$EDITOR in ,vi|" VIEWS "*,vi) ;; *) exit 1 ;; esac", NULL};
    pid_t child;
    int status = 1;
    (void)number;
    if (posix_spawn(&child, "/bin/sh", NULL, NULL, words, environ) == 0)
        waitpid(child, &status, 0);
    wrong += status != 0;
}

static const struct { const char *name; void (*work)(long); } kinds[] = {
    {"getenv", read_one}, {"setenv", set_own}, {"names", add_and_remove}, {"malloc", allocate},
    {"signals", send_signals}, {"spawn", spawn},
};

static void *busy(void *argument)
{
    long number = (long)argument;
    while (!ending) {
        kinds[number / MOST_THREADS].work(number % MOST_THREADS);
        rounds++;
    }
    return NULL;
}

static void start(const char *name, int count)
{
    for (long kind = 0; kind < (long)(sizeof kinds / sizeof *kinds); kind++)
        if (strcmp(kinds[kind].name, name) == 0)
            for (; count > 0 && running < MOST_THREADS; count--, running++)
                pthread_create(&threads[running], NULL, busy,
                               (void *)(kind * MOST_THREADS + running));
    puts("None");
}

static void stop(void)
{
    ending = 1;
    while (running)
        pthread_join(threads[--running], NULL);
    printf("(%ld, %ld, %ld, %ld)\n", (long)rounds, (long)wrong, (long)late, (long)gone);
    ending = 0;
    rounds = wrong = late = gone = 0;
}

static void show(const char *value)
{
    if (value)
        printf("b'%s'\n", value);
    else
        puts("None");
}

static void show_all(void)
{
    printf("[");
    for (char **at = environ; at && *at; at++)
        printf("b'%s', ", *at);
    puts("]");
}

/* The string stays ours, and a second call changes it in place. */
static void put(const char *name, const char *value)
{
    static char text[256];
    snprintf(text, sizeof text, "%s=%s", name, value);
    putenv(text);
    puts("None");
}

/* Another array, of our own, with the same strings and one more. */
static void exchange(char *text)
{
    static char *arrays[2][256], **mine = arrays[0];
    int count = 0;
    mine = mine == arrays[0] ? arrays[1] : arrays[0];
    for (char **at = environ; at && *at && count < 254; at++)
        mine[count++] = *at;
    mine[count++] = strdup(text);
    memset(mine + count, 0, (256 - count) * sizeof *mine);
    environ = mine;
    puts("None");
}

/* To that array, where it has room. */
static void append(char *text)
{
    char **at = environ;
    while (*at)
        at++;
    *at = strdup(text);
    puts("None");
}

static void open_second_libc(void)
{
#ifdef __GLIBC__
    puts(dlmopen(LM_ID_NEWLM, "libc.so.6", RTLD_NOW) ? "True" : "False");
#else
    puts("False");
#endif
}

/* As those do that want huge pages: the same bytes, but no longer of the file. */
static void remap(char *start, size_t size, int protection)
{
    char *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(copy, start, size);
    mprotect(copy, size, protection);
    puts(mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, start) == start ? "True" : "False");
}

static void block_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    printf("%d\n", pthread_sigmask(SIG_SETMASK, &all, NULL));
}

static void obey(char *line)
{
    char *command = strtok(line, " \n"), *first = strtok(NULL, " \n"), *second = strtok(NULL, "\n");
    void *address = first ? (void *)strtoul(first, NULL, 0) : NULL;
    size_t size = second ? strtoul(second, NULL, 0) : 0;
#define IS(word) (strcmp(command, word) == 0)
    if (IS("get")) show(getenv(first));
    else if (IS("all")) show_all();
    else if (IS("set")) printf("%d\n", setenv(first, second, 1));
    else if (IS("unset")) printf("%d\n", unsetenv(first));
    else if (IS("clear")) printf("%d\n", clearenv());
    else if (IS("put")) put(first, second);
    else if (IS("exchange")) exchange(first);
    else if (IS("append")) append(first);
    else if (IS("fill")) printf("%d\n", memset(address, 1, size) == NULL);
    else if (IS("code")) remap(address, size, PROT_READ | PROT_EXEC);
    else if (IS("data")) remap(address, size, PROT_READ | PROT_WRITE);
    else if (IS("start")) start(first, size);
    else if (IS("stop")) stop();
    else if (IS("block")) block_signals();
    else if (IS("libc")) open_second_libc();
    else abort();
}

int main(void)
{
    static char line[4096];
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    main_thread = pthread_self();
#ifdef PAD
    pad[0] = 0;
#endif
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("'ready'");
    while (fgets(line, sizeof line, stdin))
        obey(line);
    return 0;
}
