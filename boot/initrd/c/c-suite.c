/*
 * One part of the C library and of the system calls per word on the command line. The output is the same on Linux; a
 * suite compares the two. A check that fails prints its line and the program goes on; the status is the number of them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failed;
/* Not constants, or the compiler knows better than to run these. */
static char *volatile bad_pointer = (char *)0x10;
static char *volatile kernel_pointer = (char *)0xffffffff80000000;

#define CHECK(what) \
	do { \
		if (!(what)) { \
			printf("line %d: not so: %s (errno %d)\n", __LINE__, #what, errno); \
			failed++; \
		} \
	} while (0)

#define REFUSED(call, why) \
	do { \
		errno = 0; \
		long got = (long)(call); \
		if (got != -1 || errno != (why)) { \
			printf("line %d: %s gave %ld, errno %d, not %s\n", __LINE__, #call, got, errno, #why); \
			failed++; \
		} \
	} while (0)

static void memory(void)
{
	size_t page = 4096;
	char *p = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	for (size_t i = 0; i < 4 * page; i++)
		CHECK(p[i] == 0);
	memset(p, 7, 4 * page);
	CHECK(munmap(p + page, page) == 0);
	CHECK(p[0] == 7 && p[2 * page] == 7);
	char *q = mmap(p + page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	CHECK(q == p + page && *q == 0);
	CHECK(mprotect(p, page, PROT_READ) == 0);
	CHECK(p[5] == 7);
	CHECK(munmap(p, 4 * page) == 0);
	REFUSED(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
	REFUSED(munmap(p + 1, page), EINVAL);

	int fd = memfd_create("shared", MFD_CLOEXEC);
	CHECK(fd >= 0);
	CHECK(ftruncate(fd, 2 * page) == 0);
	char *a = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *b = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, page);
	CHECK(a != MAP_FAILED && b != MAP_FAILED);
	a[page + 3] = 42;
	CHECK(b[3] == 42);
	char got = 0;
	CHECK(pread(fd, &got, 1, page + 3) == 1 && got == 42);
	munmap(a, 2 * page);
	munmap(b, page);
	close(fd);

	char *heap = malloc(10 << 20);
	CHECK(heap != NULL);
	memset(heap, 1, 10 << 20);
	heap = realloc(heap, 20 << 20);
	CHECK(heap != NULL && heap[(10 << 20) - 1] == 1);
	free(heap);
}

static void files(void)
{
	char buffer[64];
	unlink("/tmp/c-suite");
	int fd = open("/tmp/c-suite", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	REFUSED(open("/tmp/c-suite", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
	struct iovec out[2] = { { "hello ", 6 }, { "world", 5 } };
	CHECK(writev(fd, out, 2) == 11);
	CHECK(lseek(fd, 0, SEEK_CUR) == 11);
	CHECK(pread(fd, buffer, 5, 6) == 5 && memcmp(buffer, "world", 5) == 0);
	CHECK(lseek(fd, -5, SEEK_END) == 6);
	CHECK(read(fd, buffer, sizeof buffer) == 5);
	CHECK(read(fd, buffer, sizeof buffer) == 0);
	int copy = dup(fd);
	CHECK(copy > fd);
	CHECK(lseek(copy, 2, SEEK_SET) == 2 && lseek(fd, 0, SEEK_CUR) == 2);
	close(copy);
	struct stat st;
	CHECK(fstat(fd, &st) == 0 && st.st_size == 11 && S_ISREG(st.st_mode));
	CHECK(stat("/tmp", &st) == 0 && S_ISDIR(st.st_mode));
	close(fd);
	REFUSED(close(fd), EBADF);
	REFUSED(read(fd, buffer, 1), EBADF);
	REFUSED(open("/tmp/c-suite/x", O_RDONLY), ENOTDIR);
	REFUSED(open("/no/such", O_RDONLY), ENOENT);
	REFUSED(lseek(0, 0, 99), EINVAL);
	CHECK(unlink("/tmp/c-suite") == 0);
	REFUSED(unlink("/tmp/c-suite"), ENOENT);

	int pipes[2];
	CHECK(pipe(pipes) == 0);
	CHECK(write(pipes[1], "pipe", 4) == 4);
	CHECK(read(pipes[0], buffer, 64) == 4 && memcmp(buffer, "pipe", 4) == 0);
	close(pipes[1]);
	CHECK(read(pipes[0], buffer, 64) == 0);
	close(pipes[0]);

	int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDONLY);
	CHECK(write(null, "x", 1) == 1 && read(null, buffer, 1) == 0);
	buffer[3] = 1;
	CHECK(read(zero, buffer, 8) == 8 && buffer[3] == 0);
	close(null);
	close(zero);
}

static void pointers(void)
{
	/* Bad pointers give EFAULT, and the program lives. */
	int fd = open("/dev/zero", O_RDONLY);
	REFUSED(read(fd, bad_pointer, 8), EFAULT);
	REFUSED(read(fd, kernel_pointer, 8), EFAULT);
	REFUSED(open(bad_pointer, O_RDONLY), EFAULT);
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(page + 4096, 4096);
	CHECK(read(fd, page + 4000, 96) == 96);
	mprotect(page, 4096, PROT_READ);
	REFUSED(read(fd, page, 8), EFAULT);
	munmap(page, 4096);
	close(fd);
	REFUSED(syscall(100000), ENOSYS);
}

static __thread int own = 5;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static long counter;

static void *worker(void *arg)
{
	double value = (double)(intptr_t)arg;
	for (int i = 0; i < 2000; i++) {
		pthread_mutex_lock(&mutex);
		counter++;
		pthread_mutex_unlock(&mutex);
		value = sqrt(value * value + 1.0);
	}
	own += (int)(intptr_t)arg;
	pthread_mutex_lock(&mutex);
	pthread_cond_signal(&condition);
	pthread_mutex_unlock(&mutex);
	return (void *)(intptr_t)(own + (value > 44.0 && value < 46.0 ? 0 : 1000));
}

static void threads(void)
{
	pthread_t threads[6];
	for (intptr_t i = 0; i < 6; i++)
		CHECK(pthread_create(&threads[i], NULL, worker, (void *)i) == 0);
	long sum = 0;
	for (int i = 0; i < 6; i++) {
		void *result = NULL;
		CHECK(pthread_join(threads[i], &result) == 0);
		sum += (intptr_t)result;
	}
	CHECK(sum == 6 * 5 + 15);
	CHECK(own == 5);
	CHECK(counter == 12000);
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += 20 * 1000 * 1000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_mutex_lock(&mutex);
	CHECK(pthread_cond_timedwait(&condition, &mutex, &until) == ETIMEDOUT);
	pthread_mutex_unlock(&mutex);
}

static void processes(void)
{
	int status = 0;
	fflush(stdout);
	pid_t child = fork();
	if (child == 0)
		_exit(42);
	CHECK(child > 0);
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
	child = fork();
	if (child == 0) {
		*bad_pointer = 1;
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	child = fork();
	if (child == 0) {
		/* Copy-on-write: the parent's copy stays. */
		counter = -1;
		_exit(counter == -1 ? 0 : 1);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(counter != -1);
	REFUSED(waitpid(-1, &status, 0), ECHILD);
}

static void times(void)
{
	struct timespec a, b, nap = { 0, 30 * 1000 * 1000 };
	CHECK(clock_gettime(CLOCK_MONOTONIC, &a) == 0);
	CHECK(nanosleep(&nap, NULL) == 0);
	CHECK(clock_gettime(CLOCK_MONOTONIC, &b) == 0);
	int64_t ns = (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec;
	CHECK(ns >= 30 * 1000 * 1000);
	REFUSED(clock_gettime(12345, &a), EINVAL);
	struct utsname name;
	CHECK(uname(&name) == 0 && strcmp(name.machine, "x86_64") == 0);
}

static void vectors(void)
{
	/* Wide registers survive being preempted: two processes fill them differently and look again. */
#ifdef __x86_64__
	if (!__builtin_cpu_supports("avx2"))
		return;
	fflush(stdout);
	pid_t child = fork();
	int mine = child == 0 ? 0x55 : 0x77, bad = 0;
	for (int round = 0; round < 200; round++) {
		unsigned char out[32];
		unsigned fill = (unsigned)mine * 0x01010101u;
		__asm__ volatile("vmovd %1, %%xmm7\n\tvpbroadcastd %%xmm7, %%ymm7\n\t"
				 "mov $200000, %%ecx\n1:\tdec %%ecx\n\tjnz 1b\n\t"
				 "vmovdqu %%ymm7, %0\n\tvzeroupper"
				 : "=m"(out) : "r"(fill) : "xmm7", "ecx", "cc");
		for (int i = 0; i < 32; i++)
			bad |= out[i] != mine;
	}
	if (child == 0)
		_exit(bad);
	int status = 1;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(!bad);
#endif
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*part)(void);
	} parts[] = {
		{ "memory", memory }, { "files", files }, { "pointers", pointers }, { "threads", threads },
		{ "processes", processes }, { "times", times }, { "vectors", vectors },
	};
	if (argc > 1 && strcmp(argv[1], "segv") == 0)
		*bad_pointer = 1;
	if (argc > 1 && strcmp(argv[1], "abort") == 0)
		abort();
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		int wanted = argc < 2;
		for (int arg = 1; arg < argc; arg++)
			wanted |= strcmp(argv[arg], parts[i].name) == 0;
		if (!wanted)
			continue;
		int before = failed;
		parts[i].part();
		printf("%s: %s\n", parts[i].name, failed == before ? "ok" : "FAILED");
	}
	return failed;
}
