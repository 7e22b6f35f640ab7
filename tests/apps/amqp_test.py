#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""libendwell-amqp with a real RabbitMQ: amqp-client talks to it, and here it is treated as brokers are.

One broker for all tests, since it takes its time to start.
"""

import subprocess

import ingest
import rabbitmq
from ingest import check, equal

CLIENT = ingest.BUILD / "tests" / "apps" / "amqp-client"
BROKER = rabbitmq.Broker()


def broker():
    """The broker, started by the first test that needs it."""
    if not BROKER.server:
        BROKER.start()
    return BROKER


class Client:
    """A client in a scenario; what it says is taken line by line."""

    def __init__(self, scenario):
        self.process = subprocess.Popen([str(CLIENT), str(broker().port), scenario], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def says(self, *lines):
        for line in lines:
            equal(self.process.stdout.readline().rstrip(), line)

    def hears(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ends(self):
        """It has said all, found nothing to report, and ended well."""
        output, errors = self.process.communicate(timeout=60 * ingest.SCALE)
        equal((output, errors, self.process.returncode), ("", "", 0))


def says(scenario, *lines):
    with Client(scenario) as client:
        client.says(*lines)
        client.ends()


def test_amqp_requests_are_answered_by_direct_reply_to():
    says("rpc", "200 answers", "goodbye: 0")


def test_amqp_refused_login_has_the_brokers_words():
    with Client("wrong-password") as client:
        line = client.process.stdout.readline()
        check(line.startswith("refused: EACCES 403 the broker closed the connection: ACCESS_REFUSED - "), line)
        client.ends()
    says("wrong-host", "refused: EPERM 530 the broker closed the connection: NOT_ALLOWED - vhost nowhere not found")


def test_amqp_refusal_ends_a_channel_and_not_the_connection():
    says("refusals",
         "published: EHOSTUNREACH returned 312 NO_ROUTE",
         "published: 0 confirmed 0",
         "declared: ENOENT 404 the broker closed the channel: NOT_FOUND - no queue 'none' in vhost '/'",
         "published: ENOENT not-sent 0",
         "published: ENOENT unknown 0",
         "channel: ENOENT 404 the broker closed the channel: NOT_FOUND - no exchange 'no-such-exchange' in vhost '/'",
         "goodbye: 0")


def test_amqp_body_of_many_frames_comes_whole_or_is_left_out():
    says("bodies",
         "body equal, 00-a, , text/plain",
         "published: EMSGSIZE not-sent 0",
         "too large 1 1000000 left out",
         "goodbye: 0")


def test_amqp_delivery_that_was_not_acknowledged_comes_again():
    says("redelivered", "first once 0", "again once 1", "goodbye: 0")


def test_amqp_ending_uses_the_connection_after_a_cancel():
    says("cancelled", "published: EHOSTUNREACH returned 312 NO_ROUTE", "workers: ECANCELED", "goodbye: 0")


def test_amqp_idle_connection_is_kept_by_heartbeats():
    says("idle", "published: 0 confirmed 0", "goodbye: 0")


def test_amqp_deleted_queue_ends_its_consumer():
    with Client("queue-deleted") as client:
        client.says("delete it")
        broker().control("delete_queue", "doomed")
        client.says("receiver: EIDRM 0", "goodbye: 0")
        client.ends()


def test_amqp_forced_end_reaches_everybody_who_waits():
    text = "the broker closed the connection: CONNECTION_FORCED - for a test"
    with Client("cut") as client:
        client.says("cut me")
        broker().control("close_all_connections", "for a test")
        client.says(f"receiver: ECONNABORTED 320 {text}", f"connection: ECONNABORTED 320 {text}",
                    "published: ECONNABORTED not-sent 0", "goodbye: 0")
        client.ends()


def test_amqp_blocked_connection_refuses_messages_until_it_is_unblocked():
    with Client("blocked") as client:
        client.says("raise the alarm")
        broker().control("set_vm_memory_high_watermark", "0.000001")
        client.hears("raised")
        client.says("published: EBUSY not-sent 0", "blocked: low on memory", "end the alarm")
        broker().control("set_vm_memory_high_watermark", "absolute", "512MB")
        client.hears("ended")
        client.says("published: 0 confirmed 0", "goodbye: 0")
        client.ends()


def test_amqp_killed_broker_is_an_error_for_everybody_who_waits():
    """The last one: no broker is left."""
    text = "the broker hung up without a word"
    with Client("cut") as client:
        client.says("cut me")
        broker().kill()
        client.says(f"receiver: ECONNRESET 0 {text}", f"connection: ECONNRESET 0 {text}",
                    "published: ECONNRESET not-sent 0", "goodbye: 0")
        client.ends()


if __name__ == "__main__":
    with BROKER:
        ingest.main()
