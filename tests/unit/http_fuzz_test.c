/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The fuzz target of the HTTP parser over its corpus.
 */

#include "corpus.h"

#include "../../fuzz/http_fuzz.c"

TEST(http_fuzz_corpus_and_all_its_prefixes_hold)
{
	EXPECT(run_corpus(HTTP_CORPUS, LLVMFuzzerTestOneInput) > 100);
}

TEST_MAIN()
