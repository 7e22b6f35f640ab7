/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The fuzz target of the AMQP client over its corpus.
 */

#include "corpus.h"

#include "../../fuzz/amqp_fuzz.c"

TEST(amqp_fuzz_corpus_and_all_its_prefixes_hold)
{
	EXPECT(run_corpus(SOURCE_ROOT "/fuzz/corpus/amqp", LLVMFuzzerTestOneInput) >= 40);
}

TEST_MAIN()
