/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Runtime: the workers, the scope of everything, the pool of threads
 */

#include "scope/scope.h"
#include "task/backtrace.h"

#include <endwell/run.h>
#include <pthread.h>

struct ew__pool;
struct ew__sweep_run;

enum ew__stall_note { EW__STALL_NONE, EW__STALL_WANTED, EW__STALL_BEING_NOTED, EW__STALL_NOTED };

/* What the stall detector knows of a worker; from @task on the worker writes, when it is asked. */
struct ew__stall {
	uint64_t place;
	int64_t since_ns;
	bool said;
	bool silent;	  /* it could not be asked, which has been said */
	_Atomic int note; /* enum ew__stall_note */
	const struct ew_site *task;
	struct ew__backtrace calls;
};

struct ew__worker_thread {
	struct ew_worker worker;
	struct ew__message stop;
	struct ew__message describe;
	_Atomic bool described;
	pthread_t thread;
	pthread_mutex_t *mutex;
	pthread_cond_t *changed;
	unsigned *opened_count;
	int opened; /* 1, or -errno */
	bool started;
	struct ew__stall stall;
	char why[256];
};

struct ew__runtime {
	struct ew_run_options options;
	struct ew_scope root;
	struct ew__worker_thread *threads;
	unsigned workers_count;
	struct ew__pool *pool;
	struct ew__sweep_run *sweep; /* NULL: as always */
	const struct ew__driver_type *driver;
	_Atomic int64_t end_by_ns; /* when the watchdog takes what is left for stuck */
	int main_result;
};

/* On a thread that is none of its workers, and ends before it: reports go there. */
void ew__report_for(const struct ew__runtime *runtime);
