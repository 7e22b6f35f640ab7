/* SPDX-License-Identifier: Apache-2.0 */

#include "amqp/table.h"

#include <stdio.h>

static bool take(amqp_bytes_t *from, size_t bytes, amqp_bytes_t *ret_taken)
{
	if (bytes > from->len)
		return false;
	*ret_taken = (amqp_bytes_t){ bytes, from->bytes };
	from->bytes = (uint8_t *)from->bytes + bytes;
	from->len -= bytes;
	return true;
}

static uint64_t number_of(amqp_bytes_t bytes)
{
	const uint8_t *data = bytes.bytes;
	uint64_t number = 0;

	for (size_t i = 0; i < bytes.len; i++)
		number = number << 8 | data[i];
	return number;
}

/* As many bytes as are said in @length_bytes before them. */
static bool take_counted(amqp_bytes_t *from, size_t length_bytes, amqp_bytes_t *ret_taken)
{
	amqp_bytes_t length;

	return take(from, length_bytes, &length) && take(from, number_of(length), ret_taken);
}

static bool take_value(amqp_bytes_t *from, uint8_t kind, amqp_bytes_t *ret_value)
{
	switch (kind) {
	case AMQP_FIELD_KIND_VOID: return take(from, 0, ret_value);
	case AMQP_FIELD_KIND_BOOLEAN:
	case AMQP_FIELD_KIND_I8:
	case AMQP_FIELD_KIND_U8: return take(from, 1, ret_value);
	case AMQP_FIELD_KIND_I16:
	case AMQP_FIELD_KIND_U16: return take(from, 2, ret_value);
	case AMQP_FIELD_KIND_I32:
	case AMQP_FIELD_KIND_U32:
	case AMQP_FIELD_KIND_F32: return take(from, 4, ret_value);
	case AMQP_FIELD_KIND_DECIMAL: return take(from, 5, ret_value);
	case AMQP_FIELD_KIND_I64:
	case AMQP_FIELD_KIND_U64:
	case AMQP_FIELD_KIND_F64:
	case AMQP_FIELD_KIND_TIMESTAMP: return take(from, 8, ret_value);
	case AMQP_FIELD_KIND_UTF8:
	case AMQP_FIELD_KIND_BYTES:
	case AMQP_FIELD_KIND_ARRAY:
	case AMQP_FIELD_KIND_TABLE: return take_counted(from, 4, ret_value);
	default: return false;
	}
}

bool ew_amqp_table_next(amqp_bytes_t *table, struct ew_amqp_field *ret_field)
{
	amqp_bytes_t kind;

	if (!take_counted(table, 1, &ret_field->name) || !take(table, 1, &kind))
		return false;
	ret_field->kind = *(const uint8_t *)kind.bytes;
	return take_value(table, ret_field->kind, &ret_field->value);
}

static bool is_negative(amqp_bytes_t bytes)
{
	return *(const uint8_t *)bytes.bytes & 0x80;
}

bool ew_amqp_field_text(const struct ew_amqp_field *field, char number[EW_AMQP_NUMBER_BYTES],
			amqp_bytes_t *ret_text)
{
	uint64_t value;
	int n;

	switch (field->kind) {
	case AMQP_FIELD_KIND_UTF8: *ret_text = field->value; return true;
	case AMQP_FIELD_KIND_I8:
	case AMQP_FIELD_KIND_I16:
	case AMQP_FIELD_KIND_I32:
	case AMQP_FIELD_KIND_I64:
		value = number_of(field->value);
		if (is_negative(field->value) && field->value.len < 8)
			value |= UINT64_MAX << 8 * field->value.len;
		n = snprintf(number, EW_AMQP_NUMBER_BYTES, "%lld", (long long)value);
		break;
	case AMQP_FIELD_KIND_BOOLEAN:
	case AMQP_FIELD_KIND_U8:
	case AMQP_FIELD_KIND_U16:
	case AMQP_FIELD_KIND_U32:
	case AMQP_FIELD_KIND_U64:
		n = snprintf(number, EW_AMQP_NUMBER_BYTES, "%llu",
			     (unsigned long long)number_of(field->value));
		break;
	default: return false;
	}
	*ret_text = (amqp_bytes_t){ (size_t)n, number };
	return true;
}
