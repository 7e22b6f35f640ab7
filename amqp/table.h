/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * amqp/table.h - field tables, read where they lie
 * rabbitmq-c decodes a table within a table by recursion, as deep as whoever sent it pleases. It gets to see none.
 */

#include <amqp.h>
#include <endwell/base.h>

/* A whole number of 64 bits, its sign, and the NUL. */
#define EW_AMQP_NUMBER_BYTES 24

/** struct ew_amqp_field - one entry of a table; borrows its bytes */
struct ew_amqp_field {
	amqp_bytes_t name;
	uint8_t kind; /* AMQP_FIELD_KIND_... */
	amqp_bytes_t value;
};

/**
 * ew_amqp_table_next() - take the next entry off a table
 * @table: what is left of it; what is inside an entry is passed over by its length
 * Return: false: it has ended, or cannot be read any further
 */
bool ew_amqp_table_next(amqp_bytes_t *table, struct ew_amqp_field *ret_field);

/**
 * ew_amqp_field_text() - of a value that is a string, a whole number, or a boolean (1 or 0)
 * @number:  for the text of a number
 */
bool ew_amqp_field_text(const struct ew_amqp_field *field, char number[EW_AMQP_NUMBER_BYTES],
			amqp_bytes_t *ret_text);
