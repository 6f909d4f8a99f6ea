#pragma once

#include "text/marked_text.h"
#include "text/tokenizer_table.h"

namespace runner {

// The text, valid UTF-8, in Unicode's normal form C by a table's data. A character is markup where
// all that it is made of is. The same steps as exporter/tokenizer/normal_form.py.
MarkedText compose(MarkedView text, const NormalForm& form);

// The data for tables that are made of raw files: that of `tokenizers`, whose Unicode is version 9.
NormalForm library_normal_form();

}  // namespace runner
