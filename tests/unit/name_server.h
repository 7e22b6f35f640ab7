/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A name server on loopback that answers as the first label of a name says, on a thread of its own:
 *
 *	good     192.0.2.1 and 192.0.2.2, or 2001:db8::1
 *	four     192.0.2.1; it has no address of the other family
 *	alias    another name for the one that it has been asked for, and no address
 *	missing  there is no such name
 *	large    cut, by UDP; by TCP 40 addresses
 *	broken   the answer's number is right, and what follows is noise
 *	foreign  an answer to another question first, then as good
 *	refused  no
 *	again    as good, but only when asked for the second time
 *	here     the addresses that the test wants
 *	silent   nothing
 */

#include "io.h"

#define NAME_SERVER_ADDRESSES 40 /* of a large answer */

struct name_server {
	char address[32]; /* for struct ew_dns_options */
	int udp;
	int tcp;
	int stop[2];
	pthread_t thread;
	_Atomic bool twice; /* each answer by UDP is said so often */
	_Atomic unsigned udp_questions;
	_Atomic unsigned tcp_questions;
	unsigned agains;
	pthread_mutex_t mutex;	 /* around what is below */
	struct in_addr hosts[4]; /* for "here", IPv4 */
	struct in6_addr host6;	 /* and IPv6, if it is not :: */
	unsigned hosts_count;
};

struct dns_message {
	unsigned char bytes[2048];
	size_t length;
};

static UNUSED void dns_put(struct dns_message *message, const void *bytes, size_t count)
{
	EXPECT(message->length + count <= sizeof(message->bytes));
	memcpy(message->bytes + message->length, bytes, count);
	message->length += count;
}

static UNUSED bool dns_asks(const struct dns_message *question, const char *label)
{
	return question->bytes[12] == strlen(label) &&
	       !memcmp(question->bytes + 13, label, strlen(label));
}

/* A record for the name in the question, which stands at byte 12. */
static UNUSED void dns_put_address(struct dns_message *answer, bool six, const void *address)
{
	const unsigned char head[] = {
		0xc0, 12, 0, six ? 28 : 1, 0, 1, 0, 0, 0, 60, 0, six ? 16 : 4
	};

	dns_put(answer, head, sizeof(head));
	dns_put(answer, address, six ? 16 : 4);
	answer->bytes[7]++; /* their number */
}

static UNUSED void dns_put_example(struct dns_message *answer, bool six, unsigned last)
{
	const unsigned char v4[] = { 192, 0, 2, (unsigned char)last };
	const unsigned char v6[16] = { 0x20, 0x01, 0x0d, 0xb8, [15] = (unsigned char)last };

	dns_put_address(answer, six, six ? v6 : v4);
}

static UNUSED void name_server_add_host(struct name_server *server, in_addr_t host)
{
	pthread_mutex_lock(&server->mutex);
	EXPECT(server->hosts_count < 4);
	server->hosts[server->hosts_count++].s_addr = host;
	pthread_mutex_unlock(&server->mutex);
}

static UNUSED void name_server_set_host6(struct name_server *server, struct in6_addr host)
{
	pthread_mutex_lock(&server->mutex);
	server->host6 = host;
	pthread_mutex_unlock(&server->mutex);
}

static UNUSED void dns_put_hosts(struct name_server *server, struct dns_message *answer, bool six)
{
	pthread_mutex_lock(&server->mutex);
	if (six && !IN6_IS_ADDR_UNSPECIFIED(&server->host6))
		dns_put_address(answer, true, &server->host6);
	for (unsigned i = 0; i < server->hosts_count && !six; i++)
		dns_put_address(answer, false, &server->hosts[i]);
	pthread_mutex_unlock(&server->mutex);
}

/* Everything but the addresses; false: nothing is to be said. */
static UNUSED bool dns_answer(struct name_server *server, const struct dns_message *question,
			      bool six, bool tcp, struct dns_message *answer)
{
	unsigned addresses = six ? 1 : 2;

	*answer = *question;
	answer->bytes[2] |= 0x80; /* an answer */
	answer->bytes[3] = 0x80;
	memset(answer->bytes + 6, 0, 6);
	if (dns_asks(question, "silent"))
		return false;
	if (dns_asks(question, "again") && server->agains++ == 0)
		return false;
	if (dns_asks(question, "broken")) {
		answer->bytes[7] = 3;
		dns_put(answer, "\xc0\xff\xff\xff noise", 10);
		return true;
	}
	if (dns_asks(question, "alias")) {
		answer->bytes[7] = 1;
		dns_put(answer, "\xc0\x0c\0\5\0\1\0\0\0\x3c\0\3\1x\0", 15);
		return true;
	}
	if (dns_asks(question, "missing"))
		answer->bytes[3] |= 3;
	if (dns_asks(question, "refused"))
		answer->bytes[3] |= 5;
	if (answer->bytes[3] & 15)
		return true;
	if (dns_asks(question, "here")) {
		dns_put_hosts(server, answer, six);
		return true;
	}
	if (dns_asks(question, "four"))
		addresses = six ? 0 : 1;
	if (dns_asks(question, "large") && !tcp) {
		answer->bytes[2] |= 2; /* cut */
		return true;
	}
	if (dns_asks(question, "large"))
		addresses = NAME_SERVER_ADDRESSES;
	for (unsigned i = 1; i <= addresses; i++)
		dns_put_example(answer, six, i);
	return true;
}

/* Whether an answer is to be sent. */
static UNUSED bool dns_hear(struct name_server *server, struct dns_message *question, bool tcp,
			    struct dns_message *answer)
{
	size_t at = 12;

	EXPECT(question->length > 12);
	while (question->bytes[at])
		at += question->bytes[at] + 1U;
	EXPECT(at + 5 <= question->length);
	question->length = at + 5; /* no more than the question itself */
	atomic_fetch_add(tcp ? &server->tcp_questions : &server->udp_questions, 1);
	return dns_answer(server, question, question->bytes[at + 2] == 28, tcp, answer);
}

static UNUSED void name_server_udp(struct name_server *server)
{
	struct dns_message question, answer;
	struct sockaddr_in from;
	socklen_t bytes = sizeof(from);
	ssize_t r = recvfrom(server->udp, question.bytes, sizeof(question.bytes), 0,
			     (struct sockaddr *)&from, &bytes);

	EXPECT(r > 0);
	question.length = (size_t)r;
	if (!dns_hear(server, &question, false, &answer))
		return;
	if (dns_asks(&question, "foreign")) {
		answer.bytes[0] ^= 1;
		sendto(server->udp, answer.bytes, answer.length, 0, (struct sockaddr *)&from,
		       bytes);
		answer.bytes[0] ^= 1;
	}
	sendto(server->udp, answer.bytes, answer.length, 0, (struct sockaddr *)&from, bytes);
	if (atomic_load(&server->twice))
		sendto(server->udp, answer.bytes, answer.length, 0, (struct sockaddr *)&from,
		       bytes);
}

/* Several questions may come on one connection. */
static UNUSED void name_server_tcp(struct name_server *server)
{
	int fd = accept4(server->tcp, NULL, NULL, SOCK_CLOEXEC);
	struct dns_message question, answer;
	unsigned char length[2];

	while (recv(fd, length, 2, MSG_WAITALL) == 2) {
		question.length = length[0] * 256U + length[1];
		EXPECT_EQ(recv(fd, question.bytes, question.length, MSG_WAITALL), question.length);
		if (!dns_hear(server, &question, true, &answer))
			continue;
		length[0] = (unsigned char)(answer.length >> 8);
		length[1] = (unsigned char)answer.length;
		send(fd, length, 2, MSG_NOSIGNAL | MSG_MORE);
		send(fd, answer.bytes, answer.length, MSG_NOSIGNAL);
	}
	close(fd);
}

static UNUSED void *name_server_run(void *argument)
{
	struct name_server *server = argument;
	struct pollfd fds[] = {
		{ .fd = server->stop[0], .events = POLLIN },
		{ .fd = server->udp, .events = POLLIN },
		{ .fd = server->tcp, .events = POLLIN },
	};

	while (poll(fds, 3, -1) > 0 && !fds[0].revents) {
		if (fds[1].revents)
			name_server_udp(server);
		if (fds[2].revents)
			name_server_tcp(server);
	}
	return NULL;
}

/* Both on the same port, which is free for TCP; that it is for UDP too is likely, so it is tried a few times. */
static UNUSED void name_server_start(struct name_server *server)
{
	struct sockaddr_in address;
	unsigned tries = 0;

	memset(server, 0, sizeof(*server));
	pthread_mutex_init(&server->mutex, NULL);
	for (;;) {
		server->tcp = plain_listener(&address);
		server->udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (!bind(server->udp, (struct sockaddr *)&address, sizeof(address)))
			break;
		EXPECT(++tries < 100);
		close(server->udp);
		close(server->tcp);
	}
	snprintf(server->address, sizeof(server->address), "%s:%d", inet_ntoa(address.sin_addr),
		 ntohs(address.sin_port));
	EXPECT_EQ(pipe(server->stop), 0);
	EXPECT_EQ(pthread_create(&server->thread, NULL, name_server_run, server), 0);
}

static UNUSED void name_server_stop(struct name_server *server)
{
	close(server->stop[1]);
	EXPECT_EQ(pthread_join(server->thread, NULL), 0);
	close(server->stop[0]);
	close(server->udp);
	close(server->tcp);
}
