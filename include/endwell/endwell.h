/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Endwell: async tasks in C that always end well
 */

#include <endwell/base.h>
#include <endwell/broadcast.h>
#include <endwell/channel.h>
#include <endwell/clock.h>
#include <endwell/condition.h>
#include <endwell/dns.h>
#include <endwell/event.h>
#include <endwell/file.h>
#include <endwell/foreign.h>
#include <endwell/foreign_lock.h>
#include <endwell/mutex.h>
#include <endwell/offload.h>
#include <endwell/outcome.h>
#include <endwell/pipe.h>
#include <endwell/process.h>
#include <endwell/rate.h>
#include <endwell/reader.h>
#include <endwell/reaper.h>
#include <endwell/resource.h>
#include <endwell/run.h>
#include <endwell/scope.h>
#include <endwell/select.h>
#include <endwell/semaphore.h>
#include <endwell/signals.h>
#include <endwell/socket.h>
#include <endwell/task.h>
#include <endwell/tempfile.h>
#include <endwell/writer.h>
