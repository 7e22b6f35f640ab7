/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Lookups in which a call to the kernel fails: each that c-ares makes, and those of ours that it leads to. The linker has
 * our names before the C library's, for shared libraries too.
 */

#include "name_server.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#define ERRORS_MAX    4
#define ADDRESSES_MAX (2 * NAME_SERVER_ADDRESSES)

static struct name_server server;

/* The call that fails, counted from the beginning of the lookup, and with which of its errors. */
static struct {
	_Atomic bool armed;
	_Atomic unsigned count;
	unsigned number;
	unsigned error;
	_Atomic unsigned errors; /* of that call; 0: it was not made */
	const char *name;
} fault;

static bool is_of_c_ares(const void *caller)
{
	Dl_info info;

	return dladdr(caller, &info) && strstr(info.dli_fname, "libcares");
}

/* Or an error for errno. */
static int error_of_call(bool ours, const char *name, const int errors[ERRORS_MAX])
{
	unsigned count = 0;

	if (!ours || !atomic_load(&fault.armed) ||
	    atomic_fetch_add(&fault.count, 1) != fault.number)
		return 0;
	while (count < ERRORS_MAX && errors[count])
		count++;
	fault.name = name;
	atomic_store(&fault.errors, count);
	return errors[fault.error];
}

/* Defines @name_ in the place of the C library's, with another name here, where that may be a macro. */
#define CALL(result_, failed_, name_, parameters_, arguments_, ours_, ...)                         \
	result_ faulty_##name_ parameters_ __asm__(#name_);                                        \
	result_ faulty_##name_ parameters_                                                         \
	{                                                                                          \
		static void *_Atomic real; /* the name server has a thread of its own */           \
		static const int errors[ERRORS_MAX] = { __VA_ARGS__ };                             \
		int error = error_of_call(ours_, #name_, errors);                                  \
                                                                                                   \
		if (error) {                                                                       \
			errno = error;                                                             \
			return failed_;                                                            \
		}                                                                                  \
		if (!atomic_load(&real))                                                           \
			atomic_store(&real, dlsym(RTLD_NEXT, #name_));                             \
		return ((result_(*) parameters_)atomic_load(&real))arguments_;                     \
	}

#define OF_C_ARES is_of_c_ares(__builtin_return_address(0))

CALL(int, -1, socket, (int domain, int type, int protocol), (domain, type, protocol), OF_C_ARES,
     EMFILE, ENOBUFS)
CALL(int, -1, connect, (int fd, const struct sockaddr *to, socklen_t bytes), (fd, to, bytes),
     OF_C_ARES, ENETUNREACH, ECONNREFUSED, EADDRNOTAVAIL)
CALL(int, -1, setsockopt, (int fd, int level, int name, const void *value, socklen_t bytes),
     (fd, level, name, value, bytes), OF_C_ARES, ENOMEM)
CALL(ssize_t, -1, send, (int fd, const void *data, size_t size, int flags), (fd, data, size, flags),
     OF_C_ARES, EAGAIN, ECONNREFUSED, EPERM)
CALL(ssize_t, -1, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count),
     OF_C_ARES, EAGAIN, EPIPE)
CALL(ssize_t, -1, recv, (int fd, void *buffer, size_t size, int flags), (fd, buffer, size, flags),
     OF_C_ARES, EAGAIN, ECONNRESET)
CALL(ssize_t, -1, recvfrom,
     (int fd, void *buffer, size_t size, int flags, struct sockaddr *from, socklen_t *bytes),
     (fd, buffer, size, flags, from, bytes), OF_C_ARES, EAGAIN, ECONNREFUSED, ENOMEM)
CALL(FILE *, NULL, fopen, (const char *path, const char *mode), (path, mode), OF_C_ARES, EMFILE,
     ENOENT)
/* Only ours has the descriptor with its event. */
CALL(int, -1, epoll_ctl, (int epoll_fd, int what, int fd, struct epoll_event *event),
     (epoll_fd, what, fd, event), event && event->data.u64 == (uint64_t)fd, ENOMEM, ENOSPC)

/* What could not be sent or was not read is asked for again when its time is out. */
static int look_up(const char *name, int64_t timeout_ns)
{
	const struct ew_dns_options options = {
		.servers = server.address,
		.timeout_ns = timeout_ns,
		.tries = 3,
	};
	static struct ew_dns_address addresses[ADDRESSES_MAX];

	return ew_dns_lookup(name, "443", &options, addresses, ADDRESSES_MAX);
}

/* True: the call was made. */
static bool fail_once(const char *name, unsigned number, unsigned error, int addresses)
{
	int r;

	fault.number = number;
	fault.error = error;
	atomic_store(&fault.errors, 0);
	atomic_store(&fault.count, 0);
	atomic_store(&fault.armed, true);
	r = look_up(name, 50 * EW_MILLISECOND);
	atomic_store(&fault.armed, false);
	/* Those of one family, if the other's question was not answered in time. */
	if (r == 0 || r == -ECANCELED || r > addresses)
		ew_test_fail(__FILE__, __LINE__, "%s, %s %u with error %u of it: %d", name,
			     fault.name, number, error, r);
	return atomic_load(&fault.errors) > 0;
}

static void fail_each(const char *name, int addresses)
{
	unsigned number = 0, error, faults = 0;

	EXPECT_EQ(look_up(name, 60 * EW_SECOND), addresses);
	for (; fail_once(name, number, 0, addresses); number++) {
		faults++;
		for (error = 1; error < atomic_load(&fault.errors); error++)
			faults += fail_once(name, number, error, addresses);
	}
	EXPECT_EQ(look_up(name, 60 * EW_SECOND), addresses);
	printf("# %s: %u calls, %u faults\n", name, number, faults);
	EXPECT(number >= 10);
}

static int fail_each_call(void *argument)
{
	(void)argument;
	fail_each("good.test", 3);
	fail_each("large.test", ADDRESSES_MAX);
	return 0;
}

/* The other errors are those that the call's docstring has. */
TEST(dns_call_that_fails_inside_c_ares_is_an_error_or_is_made_up_for)
{
	struct descriptors before;

	before = descriptors_now();
	name_server_start(&server);
	EXPECT_EQ(run_workers(1, fail_each_call, NULL), 0);
	name_server_stop(&server); /* it may have had a connection open until now */
	expect_same_descriptors(&before);
}

TEST_MAIN()
